"""The folder of a compression run: what was asked, what came of it, and how to go on."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch

from pyrosparse import __version__, machine
from pyrosparse.assess import plots, report
from pyrosparse.assess.run_figures import figures
from pyrosparse.assess.summary import Summary, summarize
from pyrosparse.files import write_atomically
from pyrosparse.recipes.job import CHECKPOINT
from pyrosparse.recipes.setup import Setup
from pyrosparse.weights_file import load_weights


def run(
    setup: Setup,
    folder: Path,
    *,
    weights: Path | None = None,
    dense: bool = True,
    progress: bool | None = None,
) -> Summary:
    """Train, compress and evaluate as ``compress`` does, and leave all of it in a folder.

    folder:  made where it is missing. A run of the same options that stopped there goes on, one
             that finished is not repeated. It is tried out before the training starts.
    weights: a file that ``load_weights`` reads, to start from as from a trained network.
    dense:   as for ``compress``.

    Leaves ``config.json``, ``weights.safetensors`` (sparse: ``load_sparse``),
    ``compact.safetensors`` (``ps.load``) and ``account.txt``, ``summary.json``, PNG plots and
    ``report.html``, each whole or not at all; and of each stage ``metrics.jsonl`` and
    ``checkpoint.safetensors``, where there are several in a folder a stage. Where no compact
    network can be made, the summary says why.

    Raises ValueError where the folder has a run of other options, OSError where it cannot be
    written to, and what ``compress`` and ``load_weights`` raise.

    >>> import tempfile
    >>> values = {"recipe": "none", "epochs": 1, "network_options": {"hidden": (8,)}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = run(Setup.of(values), Path(folder), progress=False)
    ...     sorted(file.name for file in Path(folder).glob("*.safetensors"))
    ['checkpoint.safetensors', 'compact.safetensors', 'weights.safetensors']
    """
    start = load_weights(weights) if weights is not None else None
    config = _prepare(folder, setup, weights)
    result = setup.run(folder=folder, weights=start, dense=dense, progress=progress)
    summary = summarize(result, folder)
    write_atomically(folder / "summary.json", json.dumps(summary.json(), indent=2) + "\n")
    drawn = figures(result)
    for name, figure in drawn.items():
        write_atomically(folder / f"{name}.png", plots.png(figure))
    again = setup.command(*(["--weights", str(weights)] if weights is not None else []))
    # With the numbers that the network and the data gave.
    config |= {"settings": replace(setup, recipe=result.recipe).values()}
    page = report.html(summary, result.history, drawn, config, again)
    write_atomically(folder / "report.html", page)
    return summary


def default_folder(setup: Setup) -> Path:
    """Where a run goes if nothing else is said.

    >>> default_folder(Setup()).as_posix()
    'runs/digits-fcn-beta-bernoulli-1-seed0'
    """
    network = setup.network.replace(":", "-")
    recipe = setup.recipe
    level = "" if recipe.level is None else f"-{recipe.level:g}"
    data = Path(setup.dataset).name.replace(":", "-")
    return Path("runs", f"{data}-{network}-{recipe.label}{level}-seed{setup.seed}")


def versions(device: str) -> dict[str, str]:
    """What a run's numbers depend on besides its settings: versions and machine."""
    return {
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": machine.describe(device),
        "threads": str(torch.get_num_threads()),
    }


def _prepare(folder: Path, setup: Setup, weights: Path | None) -> dict[str, Any]:
    """Settle what the folder is for; returns the content of its ``config.json``."""
    config = {
        "settings": json.loads(json.dumps(setup.values())),
        "weights": _identify(weights),
        "version": __version__,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": versions(setup.device),
    }
    # Without a checkpoint nothing was begun that other settings could spoil.
    if next(folder.rglob(CHECKPOINT), None) is not None:
        begun = _read(folder)
        _refuse_others(folder, begun, config)
        config = begun
    # Written also where it is there already: a full disk shows itself now and not after training.
    write_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return config


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not {"settings", "weights", "version", "started", "machine"} <= config.keys():
            raise ValueError("entries are missing")
        return config
    except (FileNotFoundError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder} has a checkpoint, but no {file.name} that says of which run ({error}): "
            "choose another folder with --output"
        ) from error


def _refuse_others(folder: Path, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    # An option that is newer than the run had the default's effect in it.
    then, now = (Setup.of(config["settings"]).values() for config in (begun, wanted))
    differences = [
        f"{key} was {then[key]!r}, is {now[key]!r}"
        for key in now
        if key in then and then[key] != now[key]
    ]
    before, after = ((config["weights"] or {}).get("sha256") for config in (begun, wanted))
    if before != after:
        differences.append("the weights to start from are others")
    if differences:
        raise ValueError(
            f"{folder} has a run with other settings ({'; '.join(differences)}): choose another "
            "folder with --output, or delete this one"
        )


def _identify(weights: Path | None) -> dict[str, str] | None:
    if weights is None:
        return None
    return {"file": str(weights), "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
