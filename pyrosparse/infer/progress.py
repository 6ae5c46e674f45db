"""The progress bar of a training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class progress_bar:
    """A progress bar over epochs; nothing at all where there is no terminal."""

    def __init__(self, epochs: int, done: int, shown: bool | None) -> None:
        shown = Console().is_terminal if shown is None else shown
        self.progress = (
            Progress(
                TextColumn("epoch"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                transient=True,
            )
            if shown
            else None
        )
        self.epochs, self.done = epochs, done

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        if self.progress is None:
            return lambda entry: None
        bar = self.progress
        bar.start()
        task = bar.add_task("", total=self.epochs, completed=self.done, metrics="")

        def advance(entry: dict[str, Any]) -> None:
            shown = ("loss", "validation_nll", "validation_accuracy", "sparsity")
            text = "  ".join(f"{key} {entry[key]:.4g}" for key in shown if key in entry)
            bar.update(task, advance=1, metrics=text)

        return advance

    def __exit__(self, *exception: object) -> None:
        if self.progress is not None:
            self.progress.stop()
