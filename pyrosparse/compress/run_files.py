"""The files that a training run goes on from, and tells its progress in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHECKPOINT = "checkpoint.safetensors"


def run_files(folder: Path | None) -> dict[str, Any]:
    """``checkpoint`` and ``metrics`` of ``fit``, in the folder of a run; None for none.

    >>> run_files(Path("run"))["metrics"].as_posix()
    'run/metrics.jsonl'
    """
    if folder is None:
        return {"checkpoint": None, "metrics": None}
    return {"checkpoint": folder / CHECKPOINT, "metrics": folder / "metrics.jsonl"}
