"""The folder of a compression run: what was asked, what came of it, and how to go on."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import json
import platform
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import NoneType
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure

import pyrosparse
from pyrosparse import machine
from pyrosparse.assess import (
    calibration_plots,
    gate_plots,
    plots,
    posterior_plots,
    report,
    size_plots,
    support_plots,
)
from pyrosparse.assess.summary import Summary, summarize
from pyrosparse.compact import active_features
from pyrosparse.compress import Outcome, Settings, compress
from pyrosparse.compress.families import TURBO
from pyrosparse.compress.pretraining import FILE as PRETRAINING
from pyrosparse.compress.run_files import CHECKPOINT
from pyrosparse.compress.turbo import SUPPORT
from pyrosparse.diagnostics import Calibration, calibration, log_probabilities, to_datatree
from pyrosparse.files import read_text, write_atomically
from pyrosparse.locks import locked_folder
from pyrosparse.weights_file import load_weights

CONFIG = "config.json"
_TYPES: dict[str, Any] = {"settings": dict, "weights": (dict, NoneType), "machine": dict}
CHECKPOINTS = (CHECKPOINT, PRETRAINING, SUPPORT)


def run(
    settings: Settings,
    folder: Path,
    *,
    weights: Path | None = None,
    dense: bool = True,
    progress: bool | None = None,
) -> Summary:
    """Train, compress and evaluate as ``compress`` does, and leave all of it in a folder.

    folder:  made where it is missing. A run of the same settings that stopped there goes on, one
             that finished is not repeated. It is tried out before the training starts.
    weights: a file that ``load_weights`` reads, to start from.
    dense:   as for ``compress``.

    Leaves ``config.json``, ``metrics.jsonl`` (a line an epoch), ``checkpoint.safetensors``,
    ``weights.safetensors`` (sparse: ``load_sparse``), ``compact.safetensors`` (``ps.load``) and
    ``account.txt``, ``summary.json``, PNG plots and ``report.html``, each whole or not at all; with
    gates, the checkpoint and metrics of the pretraining too, and with pruning those of the dense
    network. Where no compact network can be made,
    the summary says why.

    Raises ValueError where the folder has a run of other settings or another run is at work in it,
    OSError where it cannot be written to or is removed before the end, and what ``compress`` and
    ``load_weights`` raise.

    >>> import tempfile
    >>> settings = Settings(method="none", epochs=1, network_options={"hidden": (8,)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = run(settings, Path(folder), progress=False)
    ...     sorted(file.name for file in Path(folder).glob("*.safetensors"))
    ['checkpoint.safetensors', 'compact.safetensors', 'weights.safetensors']
    """
    start = load_weights(weights) if weights is not None else None
    # Before a look at whose folder it is: of two that look at once, both would find it free.
    with _alone(folder):
        config = _prepare(folder, settings, weights)
        outcome = compress(settings, folder=folder, weights=start, dense=dense, progress=progress)
        _refuse_another(folder, config)
        summary = summarize(outcome, folder)
        _write(folder / "summary.json", json.dumps(summary.json(), indent=2) + "\n")
        drawn = figures(outcome, summary)
        for name, figure in drawn.items():
            _write(folder / f"{name}.png", plots.png(figure))
        again = command(settings, weights=weights)
        whole = config | {"settings": asdict(outcome.settings)}  # with the numbers of the data
        page = report.html(summary, outcome.history, drawn, whole, again)
        _write(folder / "report.html", page)
        _refuse_another(folder, config)
    return summary


def default_folder(settings: Settings) -> Path:
    """Where a run goes if nothing else is said.

    >>> default_folder(Settings()).as_posix()
    'runs/digits-fcn-beta-bernoulli-1-seed0'
    """
    network = settings.network.replace(":", "-")
    level = "" if settings.level is None else f"-{settings.level:g}"
    name = f"{Path(settings.dataset).name}-{network}-{settings.label}{level}-seed{settings.seed}"
    return Path("runs", name)


def command(settings: Settings, *, weights: Path | None = None) -> str:
    """The shell command that repeats a run; what is not in it is as by default.

    >>> command(Settings(method="magnitude", sparsity=0.99, freeze=False))
    'pyrosparse compress --method magnitude --sparsity 0.99 --no-freeze'
    """
    words = ["pyrosparse", "compress"]
    default = asdict(Settings(method=settings.method)) | {"method": Settings().method}
    for field in fields(Settings):
        value, option = getattr(settings, field.name), field.name.replace("_", "-")
        if value == default[field.name]:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, tuple):
            words += [f"--{option}", "x".join(str(side) for side in value)]
        elif isinstance(value, Mapping):
            words += [f"--{option}", json.dumps(value)]
        else:
            words += [f"--{option}", str(value)]
    if weights is not None:
        words += ["--weights", str(weights)]
    return shlex.join(words)


def figures(outcome: Outcome, summary: Summary) -> dict[str, Figure]:
    """The plots of a run by the names of their files, those that there are data for."""
    history, settings = outcome.history, outcome.settings
    threshold = None
    if settings.method.startswith("bayesian-"):
        threshold = settings.threshold / (1 if settings.per_datum else summary.train)
    drawn = {}
    calibrations = _calibrations(outcome)
    if calibrations:
        drawn["reliability_diagram"] = calibration_plots.reliability_diagram(calibrations)
    if {"train_nll", "validation_nll"} & history[-1].keys():
        drawn["learning_curves"] = plots.learning_curves(history, threshold=threshold)
    if settings.gated:
        drawn["kept_units"] = size_plots.kept_units(history, outcome.compaction.units)
        if outcome.trained.gates:
            drawn |= _dependent_figures(outcome)
        else:
            drawn |= _gate_forests(outcome)
    elif settings.method not in ("none", "dense", "mean-field"):
        if settings.method in TURBO:
            drawn |= _turbo_figures(outcome)
        elif settings.method == "model-reduction":
            drawn["elbo_gains"] = plots.elbo_gains(history)
        elif "log_bayes_factor" in history[-1]:
            drawn["bayes_factor_parts"] = plots.bayes_factor_parts(history)
        layers = {layer.name: layer.sparsity for layer in summary.layers}
        drawn["sparsity_by_layer"] = plots.sparsity_by_layer(layers)
    return drawn


def _calibrations(outcome: Outcome) -> dict[str, Calibration]:
    """The calibration on the test data of the network before, where there is one, and after."""
    trained, test = outcome.trained, outcome.data.test
    networks = {} if trained.original is trained.net else {"before": trained.original}
    if outcome.small is not None:
        networks["compact"] = outcome.small
    elif not trained.gates:  # without which the network is another one
        networks["after"] = trained.net
    return {
        name: calibration(log_probabilities(net, test.x), test.y) for name, net in networks.items()
    }


def _turbo_figures(outcome: Outcome) -> dict[str, Figure]:
    """How Turbo-VBI converged, and what it left of the kernels."""
    trained = outcome.trained
    run = trained.first or trained.run  # the second run is the fine-tuning
    names = {"epoch": "iteration", "validation_accuracy": "accuracy"}
    history = [
        {names.get(key, key): value for key, value in entry.items()} for entry in run.history
    ]
    drawn = {"convergence": support_plots.convergence(history)}
    nets = trained.original, trained.net
    pairs = [[net.get_parameter(name) for net in nets] for name in outcome.prunable]
    kernels = [pair for pair in pairs if pair[0].dim() == 4 and min(pair[0].shape[2:]) > 1]
    if kernels:
        drawn["kernels"] = support_plots.kernels_before_and_after(*kernels[0])
    return drawn


def _gate_forests(outcome: Outcome) -> dict[str, Figure]:
    """How sure the posterior is of each gate, where the extra ``plots`` is installed."""
    if importlib.util.find_spec("arviz_plots") is None:
        return {}
    trained, few = outcome.trained, outcome.data.train.subset(torch.arange(1))  # gates need no data
    tree = to_datatree(trained.bnn, trained.model, few)
    sites = [target.site for target in trained.bnn.targets if target.kind != "weight"]
    return {
        f"gate_forest-{site}": posterior_plots.gate_forest(tree, site, units=20) for site in sites
    }


def _dependent_figures(outcome: Outcome) -> dict[str, Figure]:
    """What gates that depend on the input have to do with the classes."""
    data = outcome.data
    classes = len(data.classes)
    active = active_features(outcome.trained.bnn, data.test, classes=classes)
    drawn = {"class_correlations": gate_plots.class_correlations(active)}
    first = next(iter(active.values()))
    channels, height, width = data.image_shape
    if channels == 1 and len(first.frequency) == height * width:
        drawn["input_regions"] = gate_plots.input_regions(first, (height, width), data.classes)
    return drawn


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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Have a folder for oneself.

    Raises ValueError where another process has it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder, wait=False))
        except BlockingIOError as error:
            raise ValueError(
                f"another run is at work in {folder}: wait for its end, or choose another folder "
                "with --output"
            ) from error
        yield


def _write(file: Path, content: str | bytes) -> None:
    # A folder that was removed is not made again: it would have nothing else of the run.
    write_atomically(file, content, parents=False)


def _refuse_another(folder: Path, config: dict[str, Any]) -> None:
    """Whether the folder is still the one that the run began in."""
    try:
        same = _read(folder) == config
    except (OSError, ValueError):
        same = False
    if not same:
        raise FileNotFoundError(
            f"{folder} was removed or changed during the run, and its results are lost: its "
            f"{CONFIG} is not this run's. Run again, and leave the folder alone"
        )


def _prepare(folder: Path, settings: Settings, weights: Path | None) -> dict[str, Any]:
    """Settle what the folder is for; returns the content of its ``config.json``."""
    config = {
        "settings": json.loads(json.dumps(asdict(settings))),
        "weights": _identify(weights),
        "version": pyrosparse.__version__,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": versions(settings.device),
    }
    # Without a checkpoint nothing was begun that other settings could spoil.
    if any((folder / name).exists() for name in CHECKPOINTS):
        config = _begun(folder, config)
    # Written also where it is there already: a full disk shows itself now and not after training.
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return config


def _begun(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The config of the run that is in the folder, which must be the one that is wanted."""
    try:
        begun = _read(folder)
        differences = _differences(begun, wanted)
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{folder} has a checkpoint, but no {CONFIG} that says of which run ({error}): "
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
        raise ValueError("it is no object")
    for name in ("settings", "weights", "version", "started", "machine"):
        if not isinstance(config.get(name, ...), _TYPES.get(name, str)):
            raise ValueError(f"its entry {name!r} is missing, or of a wrong type")
    return config


def _differences(begun: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    # An option that is newer than the run had the default's effect in it.
    then, now = (asdict(Settings.of(config["settings"])) for config in (begun, wanted))
    differences = [
        f"{key} was {then[key]!r}, is {now[key]!r}" for key in now if then[key] != now[key]
    ]
    before, after = ((config["weights"] or {}).get("sha256") for config in (begun, wanted))
    if before != after:
        differences.append("the weights to start from are others")
    return differences


def _identify(weights: Path | None) -> dict[str, str] | None:
    if weights is None:
        return None
    return {"file": str(weights), "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
