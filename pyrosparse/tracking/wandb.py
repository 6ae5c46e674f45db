"""Metrics for Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyrosparse.tracking.tracker import Tracker


class WandB(Tracker):
    """Logs every number of a run's history to a run of Weights & Biases.

    run: as ``wandb.init()`` returns it; you choose its project, mode and notes.

    Numbers have the epoch as ``epoch``, not as the step of W&B, which must not decrease from one
    stage of a recipe to the next.

    Raises ValueError if ``run`` is not a run of Weights & Biases.

    >>> WandB(wandb.init(mode="offline"))  # doctest: +SKIP
    """

    def __init__(self, run: Any) -> None:
        super().__init__()
        if not callable(getattr(run, "log", None)):
            raise ValueError(f"run is what wandb.init() returns; got {type(run).__name__}")
        self._run = run

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(metrics) | {"epoch": epoch})
