"""Annealing of the masks that a method makes in every step: their temperature, or their ramp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from pyrosparse.infer.callback import Callback
from pyrosparse.infer.schedules import Schedule, check_schedule
from pyrosparse.lifting.guide import Entry
from pyrosparse.lifting.masks import Masks
from pyrosparse.methods.masked_weights import MaskedWeights

if TYPE_CHECKING:
    from pyrosparse.infer.run import Fit


class Annealing(Callback):
    """Callback that anneals the methods with a new mask in every step: the inverse temperature
    ``beta`` of ``ps.GibbsPruning``, and the ``ramp`` of ``ps.TargetedDropout`` and
    ``ps.MovementPruning``. After the last epoch it freezes one mask.

    schedule: the annealed quantity as a function of progress: for beta, for example,
              ``schedules.logarithmic(0.7, 1e4, 0.64)``; for a ramp a function from 0 to 1. With
              more epochs in ``fit`` it changes more slowly.
    per:      change it with every ``epoch``, as the paper's code does, or with every ``step``.
    finish:   after the last epoch, freeze the final mask of each target, as its method says;
              otherwise the weights do not change.

    The quantity is a buffer of the guide, so checkpoints contain it, and a resumed run has the same
    values. Each epoch records it by its name.

    Raises ValueError for an unknown ``per``, and at the start of a run if the lifted network has no
    such method, or methods that anneal different quantities.

    Source: Labach and Valaee (2020), sections II-C and III.

    >>> import pyrosparse as ps, torch
    >>> _ = torch.manual_seed(0)
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.GibbsPruning(0.5))
    >>> data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    >>> annealing = Annealing(ps.infer.schedules.logarithmic(0.7, 1e4, until=0.64))
    >>> run = ps.fit(ps.classifier(bnn, 20), bnn.guide, data, epochs=3, callbacks=[annealing],
    ...              progress=False)
    >>> int(bnn.net.weight.count_nonzero())
    6
    """

    def __init__(
        self, schedule: Schedule, *, per: Literal["epoch", "step"] = "epoch", finish: bool = True
    ) -> None:
        check_schedule("schedule", schedule)
        if per not in ("epoch", "step"):
            raise ValueError(f"per must be 'epoch' or 'step', got {per!r}")
        self.schedule = schedule
        self.per = per
        self.finish = finish

    def on_start(self, run: Fit) -> None:
        quantities = sorted({method.annealed for method, _ in _annealed(run)})
        if not quantities:
            raise ValueError(
                "the lifted network draws no masks with a temperature or a ramp: lift it with "
                "ps.GibbsPruning, ps.TargetedDropout or ps.MovementPruning"
            )
        if len(quantities) > 1:
            raise ValueError(
                "the methods of the lifted network anneal different quantities, "
                f"{' and '.join(quantities)}, but a schedule is for one quantity: lift the "
                "network with one of these methods"
            )

    def on_step(self, run: Fit, progress: float) -> None:
        if self.per == "epoch":
            progress = run.epoch / run.epochs
        value = self.schedule(progress)
        for method, entry in _annealed(run):
            _quantity(method, entry).fill_(value)

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        method, entry = _annealed(run)[0]
        return {method.annealed: float(_quantity(method, entry))}

    def on_end(self, run: Fit) -> dict[str, Any]:
        if self.finish:
            masks = Masks()
            for method, entry in _annealed(run):
                mask = method.final_mask(entry.target, entry.posterior())
                masks[entry.target.key] = mask & entry.mask
            run.lifted.freeze(masks)
        return {}


def _annealed(run: Fit) -> list[tuple[MaskedWeights, Entry]]:
    entries = run.lifted.guide.entries
    return [(one.method, one) for one in entries if isinstance(one.method, MaskedWeights)]


def _quantity(method: MaskedWeights, entry: Entry) -> Tensor:
    module, leaf = entry.located[f"_{method.annealed}"]
    return getattr(module, leaf)  # type: ignore[no-any-return]
