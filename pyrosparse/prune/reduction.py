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
from pyrosparse.evidence.traces import calls_of, evaluation_mode
from pyrosparse.infer import Callback, Fit
from pyrosparse.infer.momentum import forget_momentum
from pyrosparse.lifting.lift import Lifted
from pyrosparse.lifting.masks import Masks, largest
from pyrosparse.prune.pruner import check_weights, sparsity_of, weights_of

Order = Literal["signal", "evidence"]

STANDARD_ERRORS = 2.0
"""By how many of its standard errors a gain of the ELBO must exceed zero."""

HALVINGS = 4
"""How often a batch that is refused is halved before it is given up."""


@dataclass(frozen=True)
class Candidate:
    """Weights that were to go together, and what the ELBO said of it.

    fraction: their share of the weights, or rows, that were left.
    masks:    what stays where they go.
    before, after: the ELBO without and with them gone, on common random numbers, nats.

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
        """Whether the gain less two of its standard errors is positive."""
        return self.gain.mean - STANDARD_ERRORS * self.gain.standard_error > 0

    def __repr__(self) -> str:
        said = "accepted" if self.accepted else "refused"
        return (
            f"Candidate, {said}: {self.fraction:.1%} of what was left go for a gain of "
            f"{self.gain.mean:+.2f} +- {self.gain.standard_error:.2g} nats"
        )


def ranked(bnn: Lifted, fraction: float, *, rows: bool = False, order: Order = "signal") -> Masks:
    r"""What stays where a fraction of what is left goes, over all targets together.

    .. math:: \Delta F_j = \log \frac{s_p}{s_j} - \frac{m_j^2}{2 s_j^2}

    bnn:      a lifted network whose methods have normal posteriors, as for ``reductions``.
    fraction: of the weights that are left, in (0, 1); at least one goes.
    rows:     whole rows of weights, which are all that enters a unit, instead of single ones.
    order:    what goes first. ``signal``: the smallest second term, of rows its mean. The first
              term is saved whatever else goes, but what several weights lose together is not the
              sum of the second. ``evidence``: the largest change, which takes first what is most
              overrated.

    One weight or row of each target stays in any case. Returns boolean masks of weights, with
    those that are frozen at zero already gone.

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
    r"""Take a batch of weights out of a trained network where the ELBO gains by it.

    .. math:: \mathrm{ELBO}(q_{-B}) - \mathrm{ELBO}(q) > 2 \,\mathrm{s.e.}

    The batch B is that of ``ranked``; :math:`q_{-B}` is the posterior with B at zero and the rest
    as it was. The ELBO judges the batch jointly, where the changes of evidence of its weights
    would not add up. One that is refused is halved, four times at most, to those that go first.

    model, bnn, data: a Pyro model of the lifted network, and data, as for ``elbo``.
    guide: the guide that the model was trained with; by default the lifted network's own, which
           another one must call, as its tensors are what is pruned.
    fraction, rows, order: as for ``ranked``.
    draws, seed, batch_size, subset: as for ``elbo``; both ELBOs have the same random numbers.
    before: the ELBO now, where it is known for these draws, this seed and these data.

    Returns the last batch tried, or None where nothing is left that could go. One that is
    accepted is frozen at zero; where none is, the network is as it was.

    Raises what ``ranked`` and ``elbo`` raise, and ValueError where another guide does not call the
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
    data, trained = Repeated.of(data), bnn.guide if guide is None else guide

    def evidence() -> ElboEstimate:
        with calls_of(bnn.guide) as calls, evaluation_mode(bnn):
            found = elbo(model, trained, data, **options)
        if not calls:
            raise ValueError(
                "the guide does not call the lifted network's own guide, bnn.guide, whose weights "
                "are ranked and pruned: train with a guide that calls it"
            )
        return found

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
    """Prune a trained posterior, without training again, as long as the ELBO gains: batch by
    batch, until one is refused however often it is halved.

    Arguments and errors as for ``prune_batch``.

    Returns the batches, in order; the last one is refused, or nothing could go after it.

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
    r"""Prunes a batch after an epoch, as long as the evidence lets it: no sparsity is chosen.

    .. math:: \mathrm{ELBO}(q_{-B}) - \mathrm{ELBO}(q) > 2 \,\mathrm{s.e.}

    After each epoch the weights that the evidence speaks least for go, where the ELBO on all
    training data gains by it jointly (``prune_batch``), and training goes on with the others. A
    batch that is refused is halved; the first that is refused even then is the last. It is for
    normal posteriors under a normal prior, such as ``Gaussian(posterior="normal")``.

    fraction: of the weights that are left, the share that goes in a batch, at most.
    rows, order: as for ``ranked``.
    warmup:   epochs before the first batch. The posterior must have come to rest: standard
              deviations that are still too small let too much go.
    every:    epochs from batch to batch.
    draws, subset: for each ELBO, as for ``elbo``.

    After the last epoch nothing goes, so that there is training after every batch. Recorded each
    epoch: ``sparsity`` and ``pruned``; with a batch, ``elbo`` (with what was accepted gone),
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
