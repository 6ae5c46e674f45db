"""Runs beside a run that differ from it in the knob of their recipe alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrosparse.plots.trade_off_plots import Point
from pyrosparse.recipes.setup import Setup
from pyrosparse.util.files import read_text

# Of a folder with more than these the first by name are read.
_MOST = 200


def neighbours(folder: Path, setup: Setup) -> list[Point]:
    """The runs in the folders beside one whose options are the same but for the knob: the value of
    the knob, the parameters of the compact network and the test accuracy of each.

    A folder without a finished run of this kind is passed over.

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
    """Knob, parameters and accuracy of a run by its ``summary.json``; None where it has no compact
    network, or a knob of several values."""
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
