"""The file of a suite's failed runs: one JSON line a run, until the run succeeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyrosparse.util.files import read_text, write_atomically
from pyrosparse.util.locks import locked


class FailedRunsError(RuntimeError):
    """Runs of a suite failed or were killed; the others are done."""


def file_of(results: Path) -> Path:
    """Where the failed runs of a results file are.

    >>> file_of(Path("runs/bench/mine.jsonl")).name
    'mine.failed.jsonl'
    """
    return results.with_suffix(".failed.jsonl")


def read(results: Path) -> dict[str, dict[str, Any]]:
    """The failed runs of a results file by id: ``reason``, ``times``, and what else was recorded.

    Raises ValueError, which names the file, if it is damaged.
    """
    file = file_of(results)
    if not file.exists():
        return {}
    try:
        lines = [json.loads(text) for text in read_text(file).splitlines() if text.strip()]
        return {line["id"]: line for line in lines}
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): remove it") from error


def record(results: Path, run: str, reason: str, **details: Any) -> None:
    """Note that a run failed, and how many times it has.

    details: such as ``traceback``, ``host``.
    """
    with locked(file_of(results)):
        failed = read(results)
        times = failed.get(run, {}).get("times", 0) + 1
        failed[run] = {"id": run, "reason": reason, "times": times, **details}
        _write(results, failed)


def forget(results: Path, run: str) -> None:
    """Note that a run has succeeded."""
    if not file_of(results).exists():
        return
    with locked(file_of(results)):
        failed = read(results)
        if failed.pop(run, None) is not None:
            _write(results, failed)


def _write(results: Path, failed: dict[str, dict[str, Any]]) -> None:
    if failed:
        text = "".join(json.dumps(line) + "\n" for line in failed.values())
        write_atomically(file_of(results), text)
    else:
        file_of(results).unlink(missing_ok=True)
