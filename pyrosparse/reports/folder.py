"""The folder of a compression run: its options, its results, and its checkpoints."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrosparse import __version__
from pyrosparse.infer.ranks import process_group
from pyrosparse.plots import plots
from pyrosparse.plots.trade_off_plots import trade_off
from pyrosparse.recipes import Result
from pyrosparse.recipes.job import CHECKPOINT
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import page as report
from pyrosparse.reports.figures import figures
from pyrosparse.reports.neighbours import neighbours, point
from pyrosparse.reports.next_steps import next_steps
from pyrosparse.reports.predictions import ClassChange, class_changes, predictions
from pyrosparse.reports.summary import Summary, summarize
from pyrosparse.storage.weights_file import load_weights
from pyrosparse.util import machine
from pyrosparse.util.files import read_text, write_atomically
from pyrosparse.util.locks import locked_folder

CONFIG = "config.json"
_TYPES: dict[str, Any] = {"settings": dict, "weights": (dict, NoneType), "machine": dict}


def run(
    setup: Setup,
    folder: Path,
    *,
    weights: Path | None = None,
    dense: bool = True,
    progress: bool | None = None,
) -> Summary:
    """Train, compress and evaluate as ``compress`` does, and write everything to a folder.

    folder:  created if it is missing. If a run with the same options was interrupted there, it
             continues; a finished one is not repeated. ``run`` checks that it can write there
             before training starts.
    weights: a file that ``load_weights`` reads; the run starts from it as a trained network.
    dense:   as for ``compress``.

    Writes ``config.json``, ``weights.safetensors`` (sparse: ``load_sparse``),
    ``compact.safetensors`` (``ps.load``) and ``account.txt``, ``summary.json``, PNG plots and
    ``report.html``, each whole or not at all; and for each stage ``metrics.jsonl`` and
    ``checkpoint.safetensors``, in a folder for each stage if there are several. If no compact
    network can be made, the summary says why. With several ranks, the first writes everything.

    Raises ValueError if the folder has a run with other options or another run is using it, OSError
    if it cannot be written to or is removed before the end, and what ``compress`` and
    ``load_weights`` raise.

    >>> import tempfile
    >>> values = {"recipe": "none", "epochs": 1, "network_options": {"hidden": (8,)}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = run(Setup.of(values), Path(folder), progress=False)
    ...     sorted(file.name for file in Path(folder).glob("*.safetensors"))
    ['checkpoint.safetensors', 'compact.safetensors', 'weights.safetensors']
    """
    start = load_weights(weights) if weights is not None else None
    ranks = process_group()
    with ExitStack() as held:

        def begin() -> dict[str, Any]:
            # Before checking whose folder it is: two runs that check at once both find it free.
            held.enter_context(_alone(folder))
            return _prepare(folder, setup, weights)

        config = ranks.by_first(begin)
        result = setup.run(folder=folder, weights=start, dense=dense, progress=progress)
        return ranks.by_first(lambda: _report(folder, config, setup, weights, result))


def _report(
    folder: Path, config: dict[str, Any], setup: Setup, weights: Path | None, result: Result
) -> Summary:
    """Write the results of a run."""
    _refuse_another(folder, config)
    summary = summarize(result, folder)
    _write(folder / "summary.json", json.dumps(summary.json(), indent=2) + "\n")
    found = predictions(result)
    drawn = figures(result, found) | _trade_off(folder, setup, summary)
    for name, figure in drawn.items():
        _write(folder / f"{name}.png", plots.png(figure))
        figure.set_layout_engine("none")  # it has its layout, and the page draws it again
    again = setup.command(*(["--weights", str(weights)] if weights is not None else []))
    # With the numbers that network and data gave.
    whole = config | {"settings": replace(setup, recipe=result.recipe).values()}
    changes = _changes(result, found)
    steps = next_steps(summary, setup)
    page = report.html(summary, result.history, drawn, whole, again, changes=changes, steps=steps)
    _write(folder / "report.html", page)
    _refuse_another(folder, config)
    return summary


def _changes(result: Result, found: Mapping[str, Tensor]) -> list[ClassChange]:
    """The recall of each class before and after; empty if the network is not a classifier."""
    if not found:
        return []
    return class_changes(found, result.data.judged.y, result.data.classes or None)


def _trade_off(folder: Path, setup: Setup, summary: Summary) -> dict[str, Figure]:
    """Accuracy against size over the recipe's knob, if there are runs with other values."""
    here, others = point(setup, summary.json()), neighbours(folder, setup)
    if here is None or not others:
        return {}
    return {"trade_off": trade_off(others, here, setup.recipe.knob)}


def default_folder(setup: Setup) -> Path:
    """The default folder of a run.

    >>> default_folder(Setup()).as_posix()
    'runs/digits-fcn-beta-bernoulli-1-seed0'
    """
    network = setup.network.replace(":", "-")
    recipe = setup.recipe
    level = "" if recipe.level is None else f"-{recipe.level:g}"
    data = Path(setup.dataset).name.replace(":", "-")
    return Path("runs", f"{data}-{network}-{recipe.label}{level}-seed{setup.seed}")


def versions(device: str) -> dict[str, str]:
    """The versions and the machine, on which a run's numbers depend besides its settings."""
    return {
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": machine.describe(device),
        "threads": str(torch.get_num_threads()),
    }


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock a folder for a block.

    Raises ValueError if another process has locked it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder, wait=False))
        except BlockingIOError as error:
            raise ValueError(
                f"another run is using {folder}: wait until it ends, or choose another folder "
                "with --output"
            ) from error
        yield


def _write(file: Path, content: str | bytes) -> None:
    # A removed folder is not created again: it would lack the other files of the run.
    write_atomically(file, content, parents=False)


def _refuse_another(folder: Path, config: dict[str, Any]) -> None:
    """Raise FileNotFoundError if the folder no longer belongs to the run that began in it."""
    try:
        same = _read(folder) == config
    except (OSError, ValueError):
        same = False
    if not same:
        raise FileNotFoundError(
            f"{folder} was removed or changed during the run, and its results are lost: its "
            f"{CONFIG} is not this run's. Run again, and do not change the folder"
        )


def _prepare(folder: Path, setup: Setup, weights: Path | None) -> dict[str, Any]:
    """Decide whether a run begins or continues; returns the content of its ``config.json``."""
    config = {
        "settings": json.loads(json.dumps(setup.values())),
        "weights": _identify(weights),
        "version": __version__,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": versions(setup.device),
    }
    # Without a checkpoint there is nothing yet that other settings could spoil.
    if next(folder.rglob(CHECKPOINT), None) is not None:
        config = _begun(folder, config)
    # Written even if it exists: a full disk then shows now, not after training.
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return config


def _begun(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The config of the run in the folder, which must equal the requested one."""
    try:
        begun = _read(folder)
        differences = _differences(begun, wanted)
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{folder} has a checkpoint, but no {CONFIG} that describes its run ({error}): "
            "choose another folder with --output, or delete this one"
        ) from error
    if differences:
        raise ValueError(
            f"{folder} has a run with other settings ({'; '.join(differences)}): choose another "
            "folder with --output, or delete this one"
        )
    return begun


def _read(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``, with entries of the right types."""
    config = json.loads(read_text(folder / CONFIG))
    if not isinstance(config, dict):
        raise ValueError("it is not an object")
    for name in ("settings", "weights", "version", "started", "machine"):
        if not isinstance(config.get(name, ...), _TYPES.get(name, str)):
            raise ValueError(f"its entry {name!r} is missing, or of a wrong type")
    return config


def _differences(begun: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    # An option newer than the run had the effect of its default in it.
    then, now = (Setup.of(config["settings"]).values() for config in (begun, wanted))
    differences = [
        f"{key} was {then.get(key)!r}, is {now[key]!r}" for key in now if then.get(key) != now[key]
    ]
    before, after = ((config["weights"] or {}).get("sha256") for config in (begun, wanted))
    if before != after:
        differences.append("the weights to start from are others")
    return differences


def _identify(weights: Path | None) -> dict[str, str] | None:
    if weights is None:
        return None
    return {"file": str(weights), "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
