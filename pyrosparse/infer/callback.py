"""What ``fit`` calls at the end of every epoch, and before and after steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pyrosparse.evidence.evaluation import evaluate

if TYPE_CHECKING:
    from pyrosparse.infer.run import Fit


class Callback:
    """Called by ``fit``; subclass it and override what is needed.

    What ``state_dict`` returns goes into the checkpoint as JSON and comes back to
    ``load_state_dict`` on resuming: all that the callback carries from one epoch to the next. A
    callback without such a state may come or go between a run and its resumption.
    """

    def on_start(self, run: Fit) -> None:
        """Before the first step, or the first after resuming."""

    def on_step(self, run: Fit, progress: float) -> None:
        """Before each step; progress: the share of training that is done, in [0, 1)."""

    def after_step(self, run: Fit) -> None:
        """After each step of the optimizer, ``run.step`` counting it: parameters may be changed
        here in place, under ``torch.no_grad()``, also where steps are captured. Methods have been
        projected by then. Costs nothing where no callback writes it."""

    def on_epoch_end(self, run: Fit) -> dict[str, Any] | None:
        """After each epoch, before validation; returns metrics to record, JSON values."""

    def on_end(self, run: Fit) -> dict[str, Any] | None:
        """After the last epoch; returns metrics to add to it. A resumed finished run skips it."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive an interruption: JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""


def after_steps(callbacks: Iterable[Callback]) -> list[Callable[[Fit], None]]:
    """The ``after_step`` of every callback that writes its own."""
    return [
        callback.after_step
        for callback in callbacks
        if getattr(callback.after_step, "__func__", None) is not Callback.after_step
    ]


class Evaluation(Callback):
    """Records the negative log likelihood, and the accuracy of a classifier, on given data.

    name: put before the metrics, ``<name>_nll`` and ``<name>_accuracy``.
    data: as for ``log_posterior``.

    >>> Evaluation("train", []).name
    'train'
    """

    def __init__(self, name: str, data: Any) -> None:
        self.name = name
        self.data = data

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        return {
            f"{self.name}_{key}": value
            for key, value in evaluate(run.model, run.guide, self.data).items()
        }
