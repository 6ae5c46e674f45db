"""Annealing of the masks that a method draws: their inverse temperature as training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from pyrosparse.infer.callback import Callback
from pyrosparse.infer.schedules import Schedule
from pyrosparse.lifting.guide import Entry
from pyrosparse.lifting.masks import Masks

if TYPE_CHECKING:
    from pyrosparse.infer.run import Fit


class Annealing(Callback):
    """Sets the inverse temperature of all targets whose masks have one (``ps.GibbsPruning``), and
    at the end leaves the network with one mask.

    schedule: beta as a function of progress, such as ``schedules.logarithmic(0.7, 1e4, 0.64)``. It
              is stretched with the rates when ``fit`` is given more or fewer epochs.
    per:      change it with every ``epoch``, as the paper's code does, or with every ``step``.
    finish:   freeze the final mask of each target, as its method's ``final`` says, after the last
              epoch; otherwise the weights stay as they are.

    Beta lies in the buffers of the guide, so that a checkpoint has it; as a function of progress it
    is the same in a resumed run. Each epoch records ``beta``.

    Raises ValueError on an unknown ``per``, and at the start of a run whose lifted network draws no
    masks by a temperature.

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
        if per not in ("epoch", "step"):
            raise ValueError(f"per must be 'epoch' or 'step', got {per!r}")
        self.schedule = schedule
        self.per = per
        self.finish = finish

    def on_start(self, run: Fit) -> None:
        if not _annealed(run):
            raise ValueError(
                "the lifted network draws no masks with a temperature: lift it with ps.GibbsPruning"
            )

    def on_step(self, run: Fit, progress: float) -> None:
        if self.per == "epoch":
            progress = run.epoch / run.epochs
        beta = self.schedule(progress)
        for entry in _annealed(run):
            _beta(entry).fill_(beta)

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        return {"beta": float(_beta(_annealed(run)[0]))}

    def on_end(self, run: Fit) -> dict[str, Any]:
        if self.finish:
            masks = Masks()
            for entry in _annealed(run):
                mask = entry.method.final_mask(entry.target, entry.posterior())  # type: ignore[attr-defined]
                masks[entry.target.key] = mask & entry.mask
            run.lifted.freeze(masks)
        return {}


def _annealed(run: Fit) -> list[Entry]:
    return [entry for entry in run.lifted.guide.entries if "_beta" in entry.located]


def _beta(entry: Entry) -> Tensor:
    module, leaf = entry.located["_beta"]
    return getattr(module, leaf)  # type: ignore[no-any-return]
