"""Callbacks of ``fit``, at the end of every epoch, and before and after steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pyrosparse.evidence.evaluation import evaluate

if TYPE_CHECKING:
    from pyrosparse.infer.run import Fit


class Callback:
    """Base class of callbacks of ``fit``: override the methods that you need.

    The checkpoint contains the result of ``state_dict`` as JSON, and resuming passes it to
    ``load_state_dict``: everything that the callback carries from one epoch to the next. A callback
    without state may be added or removed between a run and its resumption.
    """

    def on_start(self, run: Fit) -> None:
        """Called before the first step, or before the first one after resuming."""

    def on_step(self, run: Fit, progress: float) -> None:
        """Called before each step; progress: the share of training that is done, in [0, 1)."""

    def after_step(self, run: Fit) -> None:
        """Called after each step of the optimizer, when ``run.step`` counts it and methods have
        been projected. It may change parameters in place, under ``torch.no_grad()``, also if steps
        are captured. It costs nothing if no callback overrides it."""

    def on_epoch_end(self, run: Fit) -> dict[str, Any] | None:
        """Called after each epoch, before validation; returns metrics to record, JSON values."""

    def on_end(self, run: Fit) -> dict[str, Any] | None:
        """Called after the last epoch; returns more metrics. A resumed finished run skips it."""

    def state_dict(self) -> dict[str, Any]:
        """The callback's state for the checkpoint: JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned."""


def after_steps(callbacks: Iterable[Callback]) -> list[Callable[[Fit], None]]:
    """The ``after_step`` of every callback that overrides it."""
    return [
        callback.after_step
        for callback in callbacks
        if getattr(callback.after_step, "__func__", None) is not Callback.after_step
    ]


class Evaluation(Callback):
    """Records the negative log likelihood, and the accuracy of a classifier, on given data.

    name: prefix of the metrics, ``<name>_nll`` and ``<name>_accuracy``.
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
