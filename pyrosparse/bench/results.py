"""The file of a suite's results: one JSON line a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyrosparse.files import write_atomically
from pyrosparse.locks import locked


def read(results: Path) -> list[dict[str, Any]]:
    """The lines of a results file; none where there is no file."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line]


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

    return (
        f"{len(lines)} runs; pyrosparse {values('version')}, torch {values('torch')}; "
        f"{values('machine')}; {values('date')}"
    )
