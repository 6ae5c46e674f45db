"""Pruning during training, once an epoch, without a gate."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from pyrosparse.evidence import BayesFactor, LogPosterior, log_bayes_factor, log_posterior
from pyrosparse.evidence.improper import improper_methods, refuse_improper
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.infer import Callback, Fit
from pyrosparse.infer.momentum import forget_momentum
from pyrosparse.infer.schedules import Schedule, constant
from pyrosparse.lifting.masks import Masks
from pyrosparse.prune.criteria import Criterion
from pyrosparse.prune.criteria import criterion as resolve


class Pruner(Callback):
    """Prunes to a wanted sparsity after every epoch, whatever the evidence says, and records what
    the evidence says.

    criterion:  ``magnitude``, ``random``, or a function of (weights, sparsity, generator).
    sparsity:   the fraction of the weights that is to go, in [0, 1).
    ramp:       the share of that sparsity reached at each point of training, a function of
                progress in [0, 1] (``schedules.constant``, ``schedules.cubic(end=0.6)``).
    freeze:     hold pruned weights at zero; otherwise they receive gradients again until the next
                round, so that the sparsity during training fluctuates.
    likelihood: how the recorded Bayes factor takes the likelihood: ``sum`` or ``mean``.

    At the end the network is pruned to ``sparsity`` once more, and where that changes it, the last
    epoch's record is of this round. Recorded each epoch: ``pruned``,
    ``sparsity``, ``train_nll`` (after the round), ``log_bayes_factor`` and its two parts, in nats.

    Raises ValueError on a sparsity outside [0, 1) and on unknown criteria; and before the first
    step where a prior is improper, under which there is no Bayes factor to record.

    >>> Pruner("magnitude", 0.9).sparsity
    0.9
    """

    def __init__(
        self,
        criterion: str | Criterion,
        sparsity: float,
        *,
        ramp: Schedule = constant,
        freeze: bool = False,
        likelihood: Literal["mean", "sum"] = "sum",
    ) -> None:
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
        if likelihood not in ("mean", "sum"):
            raise ValueError(f"likelihood must be 'mean' or 'sum', got {likelihood!r}")
        self.criterion = resolve(criterion)
        self.sparsity = sparsity
        self.ramp = ramp
        self.freeze = freeze
        self.likelihood = likelihood

    def accepts(self) -> bool:
        """Whether this round may prune."""
        return True

    def learn(self, factor: BayesFactor) -> None:
        """Take note of this round's Bayes factor."""

    def on_start(self, run: Fit) -> None:
        check_weights(run)
        refuse_improper("the Bayes factor of pruning", improper_methods(run.model, run.guide))

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        data = Repeated.of(run.data)
        before = log_posterior(run.model, run.guide, data)
        pruned = self.accepts()
        changed = pruned and self._prune(
            run, self._masks(run, self.sparsity * self.ramp(run.epoch / run.epochs))
        )
        after = log_posterior(run.model, run.guide, data) if changed else before
        factor = log_bayes_factor(before, after, self.likelihood)
        if changed or not pruned:  # a round that found nothing to prune says nothing
            self.learn(factor)
        return _record(run, pruned, after, factor)

    def on_end(self, run: Fit) -> dict[str, Any]:
        masks = self._masks(run, self.sparsity)
        if not _removes(masks, weights_of(run)):
            self._prune(run, masks)
            return {}
        data = Repeated.of(run.data)
        before = log_posterior(run.model, run.guide, data)
        self._prune(run, masks)
        after = log_posterior(run.model, run.guide, data)
        return _record(run, True, after, log_bayes_factor(before, after, self.likelihood))

    def _masks(self, run: Fit, sparsity: float) -> Masks:
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + run.epoch)
        return self.criterion(weights_of(run), sparsity, generator)

    def _prune(self, run: Fit, masks: Masks) -> bool:
        """Set to zero what the masks remove; returns whether any weight changed."""
        weights = weights_of(run)
        changes = _removes(masks, weights)
        if self.freeze:
            run.lifted.freeze(masks)
            forget_momentum(run.optimizer, run.lifted)
        else:
            run.lifted.zero(masks)
        return changes


def check_weights(run: Fit) -> None:
    """Refuse a run whose weights cannot be pruned by setting their locations to zero.

    Raises ValueError."""
    guide = run.lifted.guide
    if run.guide is not guide:
        raise ValueError("pruning sets locations of the lifted network's own guide: fit with it")
    weights = [target.name for target in run.lifted.targets if target.kind == "weight"]
    if not weights:
        raise ValueError("the lifted network has no weight among its targets: nothing to prune")
    apart = [name for name in weights if name not in guide.shared]
    if apart:
        raise ValueError(
            f"the posterior of {', '.join(apart)} is not located at the network's own weight, "
            "so that setting it to zero prunes nothing: use a prior whose site is the weight"
        )


def weights_of(run: Fit) -> dict[str, Tensor]:
    """The locations of all weights among the targets of a run, by name."""
    return {
        entry.target.key: entry.parameter()
        for entry in run.lifted.guide.entries
        if entry.target.kind == "weight"
    }


def _removes(masks: Masks, weights: dict[str, Tensor]) -> bool:
    return any(bool(weights[name][~mask].count_nonzero()) for name, mask in masks.items())


def sparsity_of(weights: dict[str, Tensor]) -> float:
    """The fraction of all weights that is zero."""
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / sum(weight.numel() for weight in weights.values())


def _record(run: Fit, pruned: bool, after: LogPosterior, factor: BayesFactor) -> dict[str, Any]:
    return {
        "pruned": pruned,
        "sparsity": sparsity_of(weights_of(run)),
        "train_nll": -after.likelihood_per_datum,
        "log_bayes_factor": factor.total,
        "log_bayes_factor_likelihood": factor.likelihood,
        "log_bayes_factor_prior": factor.prior,
        "log_bayes_factor_per_datum": factor.per_datum,
    }
