"""Pruning as far as the evidence goes: Bayesian model reduction in batches, checked by the ELBO."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pyrosparse.evidence import ElboEstimate, elbo, elbo_difference, normal_posteriors, reductions
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.evidence.traces import evaluation_mode, own_guide_called
from pyrosparse.infer import Callback, Fit
from pyrosparse.infer.momentum import forget_momentum
from pyrosparse.lifting.lift import Lifted
from pyrosparse.lifting.masks import Masks, largest
from pyrosparse.models.latents import guide_of
from pyrosparse.prune.pruner import check_weights, sparsity_of, weights_of

Order = Literal["signal", "evidence"]

STANDARD_ERRORS = 2.0
"""By how many of its standard errors a gain of the ELBO must exceed zero."""

HALVINGS = 4
"""How often a batch that is refused is halved before it is given up."""


@dataclass(frozen=True)
class Candidate:
    """A batch of weights considered for pruning, and the change of the ELBO.

    fraction: their share of the remaining weights, or rows.
    masks:    the masks if the batch is pruned.
    before, after: the ELBO before and after pruning the batch, on common random numbers, nats.

    >>> zero = ElboEstimate(torch.zeros(2))
    >>> Candidate(0.1, Masks(), zero, ElboEstimate(torch.tensor([1.0, 1.5]))).accepted
    True
    """

    fraction: float
    masks: Masks
    before: ElboEstimate
    after: ElboEstimate

    @property
    def gain(self) -> ElboEstimate:
        """The joint change of the ELBO, nats."""
        return elbo_difference(self.before, self.after)

    @property
    def accepted(self) -> bool:
        """Whether the gain is greater than two of its standard errors."""
        return self.gain.mean - STANDARD_ERRORS * self.gain.standard_error > 0

    def __repr__(self) -> str:
        said = "accepted" if self.accepted else "refused"
        return (
            f"Candidate, {said}: {self.fraction:.1%} of what was left go for a gain of "
            f"{self.gain.mean:+.2f} +- {self.gain.standard_error:.2g} nats"
        )


def ranked(bnn: Lifted, fraction: float, *, rows: bool = False, order: Order = "signal") -> Masks:
    r"""The masks if a fraction of the remaining weights is pruned, ranked over all targets
    together.

    .. math:: \Delta F_j = \log \frac{s_p}{s_j} - \frac{m_j^2}{2 s_j^2}

    bnn:      a lifted network whose methods have normal posteriors, as for ``reductions``.
    fraction: share of the remaining weights, in (0, 1); at least one weight is pruned.
    rows:     prune whole rows, which contain all weights that enter a unit, instead of single
              weights.
    order:    which weights are pruned first. ``signal``: those with the smallest second term, for
              rows its mean. Each pruned weight saves its first term, but the joint loss of several
              weights is not the sum of the second terms. ``evidence``: those with the largest
              change, whose estimates are the most optimistic.

    Each target keeps at least one weight or row. Returns boolean masks of weights; weights that are
    already frozen at zero are False.

    Raises ValueError on options out of range, and what ``reductions`` raises.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> ranked(bnn, 0.25).kept
    9
    """
    _check(fraction, order)
    entries = {entry.target.key: entry for entry in bnn.guide.entries}
    scores = reductions(bnn, rows=rows) if order == "evidence" else _signals(bnn, rows)
    alive, movable = {}, []
    for key, score in scores.items():
        mask = entries[key].mask
        left = mask if score.shape == mask.shape else mask.flatten(1).any(1)
        alive[key] = left
        stays = largest((-score).masked_fill(~left, -torch.inf), 1)
        movable.append(score.masked_fill(~left | stays, -torch.inf).flatten())
    together = torch.cat(movable)
    count = math.ceil(fraction * sum(int(left.count_nonzero()) for left in alive.values()))
    gone = largest(together, min(count, int((together > -torch.inf).sum())))
    masks = Masks()
    for key, part in zip(alive, gone.split([one.numel() for one in alive.values()]), strict=True):
        mask = entries[key].mask
        shape = [1] * (mask.dim() - 1) if rows else mask.shape[1:]
        masks[key] = mask & ~part.view(len(mask), *shape)
    return masks


def prune_batch(
    model: Callable[..., Any],
    bnn: Lifted,
    data: Any,
    *,
    guide: Callable[..., Any] | None = None,
    fraction: float = 0.5,
    rows: bool = False,
    order: Order = "signal",
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 1000,
    subset: int | None = None,
    before: ElboEstimate | None = None,
) -> Candidate | None:
    r"""Prune a batch of weights of a trained network if this raises the ELBO.

    .. math:: \mathrm{ELBO}(q_{-B}) - \mathrm{ELBO}(q) > 2 \,\mathrm{s.e.}

    The batch B is that of ``ranked``; :math:`q_{-B}` is the posterior with B at zero and all other
    weights unchanged. The ELBO is computed for the whole batch, because the changes of evidence of
    single weights do not add up. A refused batch is halved, at most four times; the half that is
    ranked first stays in it.

    model, bnn, data: a Pyro model of the lifted network, and data, as for ``elbo``.
    guide: the guide that the model was trained with; by default as for ``to_datatree``. It must
           call the lifted network's own, whose tensors are pruned.
    fraction, rows, order: as for ``ranked``.
    draws, seed, batch_size, subset: as for ``elbo``; both ELBOs have the same random numbers.
    before: the current ELBO, if it is known for these draws, this seed and these data.

    Returns the last batch tried, or None if no more weights can be pruned. An accepted batch is
    frozen at zero; otherwise the network does not change.

    Raises what ``ranked`` and ``elbo`` raise, and ValueError if another guide does not call the
    network's own.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.zeros(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> batch = prune_batch(ps.classifier(bnn, 10), bnn, data, draws=4)
    >>> batch.accepted, batch.masks.kept
    (True, 6)
    """
    kept = {entry.target.key: entry.mask.clone() for entry in bnn.guide.entries}
    # What an optimizer moved of it since it went would count as a gain.
    bnn.freeze(kept)
    options: dict[str, Any] = {
        "draws": draws,
        "seed": seed,
        "batch_size": batch_size,
        "subset": subset,
    }
    data, trained = Repeated.of(data), guide_of(model, bnn, guide)

    def evidence() -> ElboEstimate:
        with own_guide_called(bnn, "ranked and pruned"), evaluation_mode(bnn):
            return elbo(model, trained, data, **options)

    state = {key: value.clone() for key, value in bnn.state_dict().items()}
    batch = None
    for share in (fraction / 2**halving for halving in range(HALVINGS + 1)):
        masks = ranked(bnn, share, rows=rows, order=order)
        if all(torch.equal(mask, kept[key]) for key, mask in masks.items()):
            return None
        if before is None:
            before = evidence()
        bnn.freeze(masks)
        batch = Candidate(share, masks, before, evidence())
        if batch.accepted:
            break
        bnn.load_state_dict(state)
    return batch


def reduce_model(
    model: Callable[..., Any],
    bnn: Lifted,
    data: Any,
    *,
    guide: Callable[..., Any] | None = None,
    fraction: float = 0.5,
    rows: bool = False,
    order: Order = "signal",
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 1000,
    subset: int | None = None,
) -> list[Candidate]:
    """Prune a trained posterior batch by batch, without further training, until a batch is refused
    after all its halvings.

    Arguments and errors as for ``prune_batch``.

    Returns the batches, in order. The last one is refused, or no weights could be pruned after it.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.zeros(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> batches = reduce_model(ps.classifier(bnn, 10), bnn, data, draws=4)
    >>> [batch.masks.kept for batch in batches]
    [6, 3, 1]
    """
    data = Repeated.of(data)
    batches: list[Candidate] = []
    before: ElboEstimate | None = None
    while True:
        batch = prune_batch(
            model,
            bnn,
            data,
            guide=guide,
            fraction=fraction,
            rows=rows,
            order=order,
            draws=draws,
            seed=seed,
            batch_size=batch_size,
            subset=subset,
            before=before,
        )
        if batch is None:
            return batches
        batches.append(batch)
        if not batch.accepted:
            return batches
        before, fraction = batch.after, min(fraction, 2 * batch.fraction)


def _signals(bnn: Lifted, rows: bool) -> dict[str, Tensor]:
    signals = {}
    for key, (loc, scale, _) in normal_posteriors(bnn).items():
        signal = -0.5 * (loc / scale).square()
        signals[key] = signal.flatten(1).mean(1) if rows and signal.dim() > 1 else signal
    return signals


def _check(fraction: float, order: Order) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    if order not in ("signal", "evidence"):
        raise ValueError(f"order must be 'signal' or 'evidence', got {order!r}")


class ReductionPruner(Callback):
    r"""Callback that prunes a batch after an epoch as long as the evidence grows; you do not choose
    a sparsity.

    .. math:: \mathrm{ELBO}(q_{-B}) - \mathrm{ELBO}(q) > 2 \,\mathrm{s.e.}

    After each epoch the weights with the least evidence are pruned if this raises the ELBO on all
    training data (``prune_batch``); the other weights train on. A refused batch is halved. Pruning
    ends with the first batch that is refused after all halvings. It needs a normal posterior and a
    normal prior, such as ``Gaussian(posterior="normal")``.

    fraction: largest share of the remaining weights in a batch, in (0, 1).
    rows, order: as for ``ranked``.
    warmup:   epochs before the first batch. The posterior must have converged: while standard
              deviations are still too small, too many weights are pruned.
    every:    epochs between batches.
    draws, subset: for each ELBO, as for ``elbo``.

    Nothing is pruned after the last epoch, so every batch is followed by training. Recorded each
    epoch: ``sparsity`` and ``pruned``; with a batch also ``elbo`` (after the accepted pruning),
    ``elbo_gain`` and ``elbo_gain_error``, its standard error, in nats.

    Raises ValueError on options out of range.

    Source: Beckers et al. (2022), arXiv 2210.09134, for iterated model reduction; the order
    and the joint test are ours.

    >>> ReductionPruner(warmup=10).fraction
    0.5
    """

    def __init__(
        self,
        *,
        fraction: float = 0.5,
        rows: bool = False,
        order: Order = "signal",
        warmup: int = 0,
        every: int = 1,
        draws: int = 32,
        subset: int | None = None,
    ) -> None:
        _check(fraction, order)
        counts = [("warmup", warmup, 0), ("every", every, 1), ("draws", draws, 2)]
        if subset is not None:
            counts.append(("subset", subset, 1))
        for name, value, least in counts:
            if int(value) != value or value < least:
                raise ValueError(f"{name} must be a whole number, {least} or more; got {value}")
        self.fraction = fraction
        self.rows = rows
        self.order = order
        self.warmup = warmup
        self.every = every
        self.draws = draws
        self.subset = subset
        self.share = fraction
        self.stopped = False

    def on_start(self, run: Fit) -> None:
        check_weights(run)
        reductions(run.lifted)

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        due = self.warmup <= run.epoch < run.epochs
        if self.stopped or not due or (run.epoch - self.warmup) % self.every:
            return {"pruned": False, "sparsity": sparsity_of(weights_of(run))}
        batch = prune_batch(
            run.model,
            run.lifted,
            run.data,
            guide=run.guide,
            fraction=self.share,
            rows=self.rows,
            order=self.order,
            draws=self.draws,
            subset=self.subset,
            seed=run.seed * 1_009 + run.epoch,
        )
        self.stopped = batch is None or not batch.accepted
        entry = {"pruned": not self.stopped, "sparsity": sparsity_of(weights_of(run))}
        if batch is None:
            return entry
        if batch.accepted:
            forget_momentum(run.optimizer, run.lifted)
            self.share = min(self.fraction, 2 * batch.fraction)
        return entry | {
            "elbo": (batch.after if batch.accepted else batch.before).mean,
            "elbo_gain": batch.gain.mean,
            "elbo_gain_error": batch.gain.standard_error,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"share": self.share, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.share, self.stopped = state["share"], state["stopped"]
