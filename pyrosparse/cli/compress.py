"""The command ``compress``: one network, trained, compressed, evaluated, reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pyrosparse import run_folder
from pyrosparse.assess import tables
from pyrosparse.assess.costs import costs
from pyrosparse.assess.remarks import remarks
from pyrosparse.cli.app import app, say
from pyrosparse.compress import Settings

_DEFAULT = Settings()


def _option(text: str, panel: str = "Options") -> Any:
    return typer.Option(help=text, rich_help_panel=panel)


_TRAINING, _PRUNING, _GATES = "Training", "Pruning of weights", "Gates on units"
_EVIDENCE, _TURBO, _MASKS = "Pruning by the evidence", "Turbo-VBI", "Gibbs pruning"


@app.command()
def compress(
    network: Annotated[
        str, _option("See `pyrosparse networks`; or torchvision:<model>.")
    ] = _DEFAULT.network,
    network_options: Annotated[
        str, _option("What the network takes, as JSON: '{\"hidden\": [100, 50]}'.")
    ] = "{}",
    dataset: Annotated[
        str, _option("See `pyrosparse datasets`; or a folder of images.")
    ] = _DEFAULT.dataset,
    size: Annotated[
        str | None,
        _option(
            "Resize the images of a folder: `64`, or height and width, `48x64`; by default they "
            "must all have one size."
        ),
    ] = None,
    method: Annotated[str, _option("See `pyrosparse methods`.")] = _DEFAULT.method,
    weights: Annotated[
        Path | None,
        _option("Start from a state dict: .safetensors, or a file of torch.save."),
    ] = None,
    output: Annotated[
        Path | None, _option("Folder of the run; by default one below runs/.")
    ] = None,
    dense: Annotated[
        bool,
        _option("Where nothing is pretrained, train an unpruned network too, to compare with."),
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the report's path.")] = False,
    seed: Annotated[int, _option("Of everything random.")] = _DEFAULT.seed,
    device: Annotated[
        str, _option("What to compute on, as torch names it: `cpu`, `cuda`.")
    ] = _DEFAULT.device,
    epochs: Annotated[
        int | None,
        _option("Passes over the data; by default 30, with gates on few data more.", _TRAINING),
    ] = None,
    batch_size: Annotated[
        int | None, _option("Data in a step; by default 100, pruning 64.", _TRAINING)
    ] = None,
    learning_rate: Annotated[
        float | None, _option("Of Adam; by default 2e-3, pruning 1e-3.", _TRAINING)
    ] = None,
    scale: Annotated[
        float | None,
        _option(
            "Standard deviation of the Gaussian prior; by default that of a weight decay of "
            "1e-4, pruning 1, for the evidence 0.3.",
            _TRAINING,
        ),
    ] = None,
    validation: Annotated[
        float, _option("Share of the training data that is held out.", _TRAINING)
    ] = _DEFAULT.validation,
    normalise: Annotated[
        str, _option("Of the images: `standard`, or `unit`, pixels in [0, 1].", _TRAINING)
    ] = _DEFAULT.normalise,
    kl_scale: Annotated[
        str | None,
        _option(
            "Gamma, the weight of the KL divergence: more of it leaves fewer units; by default 1, "
            'for Turbo-VBI at most 1. Or numbers by gate, as JSON: \'{"conv1.*": 20, "*": 1}\'.',
            _GATES,
        ),
    ] = None,
    pretrain: Annotated[
        int | None,
        _option(
            "Epochs before gates or Turbo-VBI, unless --weights are given; by default 20 or more.",
            _TRAINING,
        ),
    ] = None,
    kl_warmup: Annotated[
        int | None,
        _option("Epochs in which gamma rises from 0; by default a fifteenth of all.", _GATES),
    ] = None,
    gate_rate: Annotated[
        float | None, _option("Learning rate of the gates; by default 0.05.", _GATES)
    ] = None,
    temperature: Annotated[
        float | None, _option("Of the relaxed gates; by default 0.3.", _GATES)
    ] = None,
    pi: Annotated[
        str | None, _option("`collapsed`, the default, or `sampled`: see the docs.", _GATES)
    ] = None,
    initial: Annotated[
        float | None, _option("How open gates are at first; by default 0.95.", _GATES)
    ] = None,
    second_epochs: Annotated[
        int | None,
        _option("Epochs of gates that depend on the input; by default as many.", _GATES),
    ] = None,
    sparsity: Annotated[
        float | None,
        _option("Fraction of the weights that goes, in [0, 1); by default 0.9.", _PRUNING),
    ] = None,
    ramp: Annotated[
        float | None,
        _option(
            "Share of training over which the sparsity rises; 0: at once; by default 0.6.",
            _PRUNING,
        ),
    ] = None,
    freeze: Annotated[
        bool | None,
        _option("Pruned weights stay zero, the default, or may grow back.", _PRUNING),
    ] = None,
    threshold: Annotated[
        float | None,
        _option(
            "Prune where the last log Bayes factor exceeds this; nats; by default log 0.9.",
            _PRUNING,
        ),
    ] = None,
    likelihood: Annotated[
        str | None,
        _option("Its likelihood part: `sum`, the default, or `mean` over the data.", _PRUNING),
    ] = None,
    per_datum: Annotated[
        bool | None,
        _option("Compare the log Bayes factor per datum, the default, or in all.", _PRUNING),
    ] = None,
    fraction: Annotated[
        float | None,
        _option("Share of what is left that goes in a batch, at most; by default 0.5.", _EVIDENCE),
    ] = None,
    rows: Annotated[
        bool | None,
        _option("Whole rows of weights go, or, the default, single ones.", _EVIDENCE),
    ] = None,
    warmup: Annotated[
        int | None,
        _option("Epochs before the first batch; by default a quarter of all.", _EVIDENCE),
    ] = None,
    active: Annotated[
        float | None,
        _option("Share of the weights that is active at the end; by default 0.02.", _TURBO),
    ] = None,
    unit_cost: Annotated[
        str | None,
        _option(
            "What must speak for a unit if it is to stay; nats; by default 0. Or numbers by "
            'layer, as JSON: \'{"conv*": 100, "*": 300}\'.',
            _TURBO,
        ),
    ] = None,
    least_units: Annotated[
        str | None,
        _option(
            "How many units a layer keeps; by default 4. Or numbers by layer, as JSON: "
            '\'{"conv*": 5, "*": 20}\'.',
            _TURBO,
        ),
    ] = None,
    fine_tune: Annotated[
        int | None,
        _option("Epochs for what is left; by default 30, on few data more.", _TURBO),
    ] = None,
    structure: Annotated[
        str | None,
        _option("What goes together: `weight`, the default, `kernel` or `filter`.", _MASKS),
    ] = None,
    coupling: Annotated[
        float | None, _option("c; by default 0, of kernels 0.01, of filters 1.", _MASKS)
    ] = None,
    beta_start: Annotated[
        float | None,
        _option("Inverse temperature at first; by default 0.7, of filters 0.003.", _MASKS),
    ] = None,
    beta_end: Annotated[
        float | None,
        _option("And when it has risen; by default 1e4, of filters 1.", _MASKS),
    ] = None,
    annealed: Annotated[
        float | None,
        _option("The share of training in which it rises; by default 0.64.", _MASKS),
    ] = None,
    rate_schedule: Annotated[
        str | None,
        _option("How the learning rate falls: in `steps`, the default, or as `cosine`.", _MASKS),
    ] = None,
    relative: Annotated[
        bool | None, _option("Measure weights in units of their layer's deviation.", _MASKS)
    ] = None,
    final: Annotated[
        str | None,
        _option("The mask at the end: one `draw`, the default, `mode` or `magnitude`.", _MASKS),
    ] = None,
    augment: Annotated[
        bool | None,
        _option("Shift training images; by default those of 10 pixels or more.", _MASKS),
    ] = None,
    flip: Annotated[
        bool | None,
        _option(
            "And mirror them; by default of Fashion-MNIST and CIFAR-10, and not of digits, MNIST "
            "and folders.",
            _MASKS,
        ),
    ] = None,
) -> None:
    """Train a network, make it smaller, evaluate it, and leave a folder with a report.

    The same command goes on where it was interrupted.
    """
    settings = Settings(
        network=network,
        network_options=_object("--network-options", network_options),
        dataset=dataset,
        size=_size(size),
        normalise=normalise,  # type: ignore[arg-type]  # data.load checks it
        method=method,
        validation=validation,
        seed=seed,
        device=device,
        **{  # type: ignore[arg-type]  # None is for the method to fill in
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "scale": scale,
            "sparsity": sparsity,
            "ramp": ramp,
            "freeze": freeze,
            "threshold": threshold,
            "likelihood": likelihood,
            "per_datum": per_datum,
            "pretrain": pretrain,
            "kl_scale": _number_or_object("--kl-scale", kl_scale),
            "kl_warmup": kl_warmup,
            "gate_rate": gate_rate,
            "temperature": temperature,
            "pi": pi,
            "initial": initial,
            "second_epochs": second_epochs,
            "fraction": fraction,
            "rows": rows,
            "warmup": warmup,
            "active": active,
            "unit_cost": _number_or_object("--unit-cost", unit_cost),
            "least_units": _number_or_object("--least-units", least_units),
            "fine_tune": fine_tune,
            "structure": structure,
            "coupling": coupling,
            "beta_start": beta_start,
            "beta_end": beta_end,
            "annealed": annealed,
            "rate_schedule": rate_schedule,
            "relative": relative,
            "final": final,
            "augment": augment,
            "flip": flip,
        },
    )
    folder = output or run_folder.default_folder(settings)
    summary = run_folder.run(
        settings, folder, weights=weights, dense=dense, progress=False if quiet else None
    )
    if not quiet:
        say(tables.layers(summary))
        say(tables.numbers(summary))
        if costs(summary):
            say(tables.compact(summary))
        for one in remarks(summary):
            say(escape(one))
    typer.echo(folder / "report.html")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.split("x")
    if not (len(sides) <= 2 and all(side.isdecimal() for side in sides)):
        raise ValueError(f"--size is a number of pixels, 64, or height x width, 48x64; got {text}")
    return int(sides[0]), int(sides[-1])


def _number_or_object(option: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return _object(option, text)


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{option} must be a JSON object, got {text}")
    return value
