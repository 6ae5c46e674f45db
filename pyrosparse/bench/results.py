"""The file of a suite's results: one JSON line a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyrosparse.recipes.setup import Setup
from pyrosparse.util.files import read_text, write_atomically
from pyrosparse.util.locks import locked

# The types of what a line has.
_ENTRIES: dict[str, Any] = {
    "id": str,
    "cell": str,
    "seed": int,
    "test_accuracy": (int, float),
    "sparsity": (int, float),
    "settings": dict,
    "version": str,
    "torch": str,
    "machine": str,
    "date": str,
}


def read(results: Path) -> list[dict[str, Any]]:
    """The lines of a results file; none where there is no file.

    Raises ValueError, which names file and line, if a line is not one that ``run`` wrote.
    """
    if not os.path.lexists(results):
        return []
    return [
        _line(text, f"{results}, line {number}")
        for number, text in enumerate(read_text(results).splitlines(), 1)
        if text.strip()
    ]


@contextmanager
def reading(place: object) -> Iterator[None]:
    """What a damaged line makes the code inside raise becomes a ValueError with its place.

    >>> with reading("results.jsonl, line 3"):
    ...     {}["compact"]
    Traceback (most recent call last):
    ValueError: results.jsonl, line 3 is damaged (KeyError: 'compact'): remove that line, and ...
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
        raise _damaged(place, f"{type(error).__name__}: {error}") from error


def _damaged(place: object, reason: object) -> ValueError:
    return ValueError(f"{place} is damaged ({reason}): remove that line, and bench runs it again")


def _line(text: str, place: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(place, error) from error
    if not isinstance(line, dict):
        raise _damaged(place, "it is not a JSON object")
    for name in ("id", "cell", "seed", "settings"):
        if name not in line:
            raise _damaged(place, f"it has no entry {name!r}")
    for name, kind in _ENTRIES.items():
        value = line.get(name)
        if name in line and (not isinstance(value, kind) or isinstance(value, bool)):
            raise _damaged(place, f"its entry {name!r} is {value!r}")
    with reading(place):
        Setup.of(line["settings"])
    return line


def append(results: Path, line: dict[str, Any]) -> None:
    """Add a line, in place of one of the same run."""
    with locked(results):  # several benches may add to one file
        lines = [*(x for x in read(results) if x["id"] != line["id"]), line]
        text = "".join(json.dumps(x) + "\n" for x in lines)
        write_atomically(results, text)


def provenance(results: Path) -> str:
    """With what versions, on what machines and when the runs of a results file were made."""
    lines = read(results)

    def values(key: str) -> str:
        return ", ".join(sorted({line[key] for line in lines}))

    with reading(f"{results}, a line"):
        return (
            f"{len(lines)} runs; pyrosparse {values('version')}, torch {values('torch')}; "
            f"{values('machine')}; {values('date')}"
        )
