"""Pruning during training without a gate: at the start, once an epoch, or at the end."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from pyrosparse.evidence import BayesFactor, LogPosterior, log_bayes_factor, log_posterior
from pyrosparse.evidence.improper import improper_methods, refuse_improper
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.infer import Callback, Fit
from pyrosparse.infer.momentum import forget_momentum
from pyrosparse.infer.schedules import Schedule, check_schedule, constant
from pyrosparse.lifting.masks import Masks
from pyrosparse.prune.criteria import Criterion
from pyrosparse.prune.criteria import criterion as resolve
from pyrosparse.prune.located import located_weights
from pyrosparse.prune.run_criterion import RunCriterion


class Pruner(Callback):
    """Callback that prunes to a given sparsity and records the Bayes factor of each round.

    criterion:  ``magnitude``, ``random``, ``snip``, ``movement``, a function of (weights, sparsity,
                generator), or a ``RunCriterion``, which can use data or gradients.
    sparsity:   the share of the weights that is pruned at the end, in [0, 1).
    at:         when to prune: at the ``start``, before the first step; after every ``epoch``; or
                once, at the ``end``.
    ramp:       the share of that sparsity reached at each point of training, a function of
                progress in [0, 1] (``schedules.constant``, ``schedules.cubic(end=0.6)``,
                ``schedules.staircase(9)``).
    freeze:     hold pruned weights at zero permanently; otherwise they receive gradients until the
                next round, so the sparsity fluctuates during training.
    likelihood: likelihood of the recorded Bayes factor: ``sum`` or ``mean`` over the data.

    At the end the network is pruned to ``sparsity`` once more (not with ``at="start"``), and where
    that changes it, the last epoch's record is of this round. Recorded: the ``sparsity`` of each
    epoch; of a round also ``pruned``, ``train_nll`` (after it), ``log_bayes_factor`` and its two
    parts, in nats. A round at the start has no such record.

    Raises ValueError on a sparsity outside [0, 1), for unknown criteria, for a ramp with only one
    round, and for ``at="start"`` without ``freeze``, which the first step would undo; and before
    the first step if a prior is improper, because the Bayes factor is then not defined.

    >>> Pruner("magnitude", 0.9).sparsity
    0.9
    """

    def __init__(
        self,
        criterion: str | Criterion,
        sparsity: float,
        *,
        at: Literal["start", "epoch", "end"] = "epoch",
        ramp: Schedule = constant,
        freeze: bool = False,
        likelihood: Literal["mean", "sum"] = "sum",
    ) -> None:
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
        if likelihood not in ("mean", "sum"):
            raise ValueError(f"likelihood must be 'mean' or 'sum', got {likelihood!r}")
        if at not in ("start", "epoch", "end"):
            raise ValueError(f"at must be 'start', 'epoch' or 'end', got {at!r}")
        check_schedule("ramp", ramp)
        if at != "epoch" and ramp is not constant:
            raise ValueError(f"at={at!r} prunes once, so it has no ramp: leave ramp out")
        if at == "start" and not freeze:
            raise ValueError(
                "at='start' prunes before the first step, after which weights that are not frozen "
                "are nonzero again: give freeze=True"
            )
        self.criterion = resolve(criterion)
        self.sparsity = sparsity
        self.at = at
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
        if self.at != "start":
            names = improper_methods(run.model, run.guide)
            refuse_improper("the Bayes factor of pruning", names)
        if isinstance(self.criterion, RunCriterion):
            self.criterion.start(run)
        if self.at == "start" and not run.history:
            self._prune(run, self._masks(run, self.sparsity))

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        if self.at != "epoch":
            return {"sparsity": sparsity_of(weights_of(run))}
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
        if self.at == "start":
            return {}
        masks = self._masks(run, self.sparsity)
        if not _removes(masks, weights_of(run)):
            self._prune(run, masks)
            return {}
        data = Repeated.of(run.data)
        before = log_posterior(run.model, run.guide, data)
        self._prune(run, masks)
        after = log_posterior(run.model, run.guide, data)
        return _record(run, True, after, log_bayes_factor(before, after, self.likelihood))

    def state_dict(self) -> dict[str, Any]:
        state = self.criterion.state_dict() if isinstance(self.criterion, RunCriterion) else {}
        return {"criterion": state} if state else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self.criterion, RunCriterion):
            self.criterion.load_state_dict(state["criterion"])

    def _masks(self, run: Fit, sparsity: float) -> Masks:
        if isinstance(self.criterion, RunCriterion):
            return self.criterion.masks(run, sparsity)
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + run.epoch)
        return self.criterion(weights_of(run), sparsity, generator)

    def _prune(self, run: Fit, masks: Masks) -> bool:
        """Set to zero what the masks remove; returns whether any weight changed."""
        weights = weights_of(run)
        changes = _removes(masks, weights)
        if self.freeze:
            run.lifted.freeze(_with_frozen(run, masks))
            forget_momentum(run.optimizer, run.lifted)
        else:
            run.lifted.zero(masks)
        return changes


def check_weights(run: Fit) -> None:
    """Raise ValueError if the weights of a run cannot be pruned by setting their locations to
    zero."""
    check_own_guide(run)
    located_weights(run.lifted)


def check_own_guide(run: Fit) -> None:
    """Raise ValueError if a run's guide does not call the lifted network's own, whose posterior
    would not be trained."""
    if run.lifted not in run.drawn:
        raise ValueError(
            "pruning needs the lifted network's own guide: pass bnn.guide to fit, or a guide that "
            "calls it and draws the model's other latent variables"
        )


def weights_of(run: Fit) -> dict[str, Tensor]:
    """The locations of all weights among the targets of a run, by name."""
    return {
        entry.target.key: entry.parameter()
        for entry in run.lifted.guide.entries
        if entry.target.kind == "weight"
    }


def _with_frozen(run: Fit, masks: Masks) -> Masks:
    """The masks without what is frozen at zero already, so that nothing is ever released."""
    frozen = {entry.target.key: entry.mask for entry in run.lifted.guide.entries}
    return Masks({name: mask & frozen[name] for name, mask in masks.items()})


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
