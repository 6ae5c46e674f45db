"""Metrics for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyrosparse.tracking.tracker import Tracker


class TensorBoard(Tracker):
    """Writes every number of a run's history as a scalar that TensorBoard plots.

    folder: the folder of the event files; ``tensorboard --logdir FOLDER`` shows them.

    Raises ImportError if the package ``tensorboard`` is not installed.

    >>> TensorBoard("runs/tensorboard")  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard needs a package: pip install tensorboard") from error
        self._writer = SummaryWriter(os.fspath(folder))

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()
