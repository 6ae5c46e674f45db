"""Runs in neighbouring folders that differ from a run only in the knob of their recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrosparse.plots.trade_off_plots import Point
from pyrosparse.recipes.setup import Setup
from pyrosparse.util.files import read_text

# In a folder with more runs than this, the first by name are read.
_MOST = 200


def neighbours(folder: Path, setup: Setup) -> list[Point]:
    """The runs in neighbouring folders whose options differ only in the knob: the value of the
    knob, the parameters of the compact network and the test accuracy of each.

    Folders without a finished run of this kind are skipped.

    >>> neighbours(Path("runs/nowhere"), Setup())
    []
    """
    knob = setup.recipe.knob
    if not knob or not folder.parent.is_dir():
        return []
    others = sorted(path for path in folder.parent.iterdir() if path.name != folder.name)
    found = (_point(path, setup, knob) for path in others[:_MOST])
    return sorted(point for point in found if point is not None)


def point(setup: Setup, summary: Mapping[str, Any]) -> Point | None:
    """Knob, parameters and accuracy of a run from its ``summary.json``; None if it has no compact
    network, or a knob that is not a single number."""
    report = (summary.get("compaction") or {}).get("report") or {}
    level = getattr(setup.recipe, setup.recipe.knob) if setup.recipe.knob else None
    quality = report.get("quality")
    if not isinstance(level, (int, float)) or not quality or "accuracy" not in quality[1]:
        return None
    return float(level), int(report["parameters"][1]), float(quality[1]["accuracy"])


def _point(folder: Path, setup: Setup, knob: str) -> Point | None:
    try:
        config = json.loads(read_text(folder / "config.json"))
        other = Setup.of(config["settings"])
        values, own = other.values(), setup.values()
        if any(values.get(key) != own[key] for key in own if key != knob):
            return None
        return point(other, json.loads(read_text(folder / "summary.json")))
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
