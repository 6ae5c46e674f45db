"""The progress of a training run: a bar on a terminal, otherwise lines in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG = logging.getLogger("pyrosparse")

SECONDS_BETWEEN_LINES = 60.0

_SHOWN = ("loss", "validation_nll", "validation_accuracy", "sparsity")


class progress_bar:
    """A progress bar over epochs; without a terminal, lines in the log.

    shown: whether to show a bar; None shows it on a terminal. With False there are no lines either.
    stage: name of the training, the prefix of both.
    """

    def __init__(self, epochs: int, done: int, shown: bool | None, stage: str = "") -> None:
        terminal = Console().is_terminal if shown is None else shown
        self.logs = shown is None and not terminal
        self.stage = stage
        self.progress = (
            Progress(
                TextColumn(f"{stage} epoch".strip()),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                transient=True,
            )
            if terminal
            else None
        )
        self.epochs, self.done = epochs, done

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        if self.logs:
            return self._lines()
        if self.progress is None:
            return lambda entry: None
        bar = self.progress
        bar.start()
        task = bar.add_task("", total=self.epochs, completed=self.done, metrics="")
        return lambda entry: bar.update(task, advance=1, metrics=_text(entry))

    def __exit__(self, *exception: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def _lines(self) -> Callable[[dict[str, Any]], None]:
        name = self.stage or "training"
        LOG.info("%s: epoch %d of %d", name, self.done, self.epochs)
        last = time.monotonic()

        def advance(entry: dict[str, Any]) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                LOG.info("%s: epoch %d of %d  %s", name, entry["epoch"], self.epochs, _text(entry))

        return advance


def _text(entry: dict[str, Any]) -> str:
    return "  ".join(f"{key} {entry[key]:.4g}" for key in _SHOWN if key in entry)
