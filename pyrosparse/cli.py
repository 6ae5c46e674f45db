"""The command line: each command is a call of public functions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

import pyrosparse
from pyrosparse import bench, data, run_folder
from pyrosparse import networks as known_networks
from pyrosparse.assess import tables
from pyrosparse.compress import METHODS, Settings

_DEFAULT = Settings()
_DATASETS = {
    "digits": "8 x 8 grey images of digits, 10 classes; comes with scikit-learn",
    "mnist": "28 x 28 grey images of digits, 10 classes",
    "fashion-mnist": "28 x 28 grey images of clothes, 10 classes",
    "cifar10": "32 x 32 colour images, 10 classes",
}


class _Commands(TyperGroup):
    """Says in one line what the user can put right; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("stopped; the same command goes on from the last epoch", stderr=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise
        except (ValueError, OSError, ImportError) as error:
            _say(f"[bold red]error:[/] {escape(str(error))}", stderr=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Commands,
    help="Sparse Bayesian neural networks: train, prune by evidence, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"pyrosparse {pyrosparse.__version__}")
        raise typer.Exit()


@app.command()
def compress(
    network: Annotated[str, typer.Option(help="See `pyrosparse networks`.")] = _DEFAULT.network,
    network_options: Annotated[
        str, typer.Option(help="What the network takes, as JSON: '{\"hidden\": [100, 50]}'.")
    ] = "{}",
    dataset: Annotated[
        str, typer.Option(help="See `pyrosparse datasets`; or a folder of images.")
    ] = _DEFAULT.dataset,
    method: Annotated[str, typer.Option(help="See `pyrosparse methods`.")] = _DEFAULT.method,
    sparsity: Annotated[
        float, typer.Option(help="Fraction of the weights that goes, in [0, 1).")
    ] = _DEFAULT.sparsity,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = _DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(help="Data in a step.")] = _DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = _DEFAULT.learning_rate,
    scale: Annotated[
        float, typer.Option(help="Standard deviation of the Gaussian prior.")
    ] = _DEFAULT.scale,
    ramp: Annotated[
        float, typer.Option(help="Share of training over which the sparsity rises; 0: at once.")
    ] = _DEFAULT.ramp,
    freeze: Annotated[
        bool, typer.Option(help="Pruned weights stay zero, or may grow back between rounds.")
    ] = _DEFAULT.freeze,
    threshold: Annotated[
        float, typer.Option(help="Prune where the last log Bayes factor exceeds this; nats.")
    ] = _DEFAULT.threshold,
    likelihood: Annotated[
        str, typer.Option(help="Its likelihood part: `mean` or `sum` over the data.")
    ] = _DEFAULT.likelihood,
    per_datum: Annotated[
        bool, typer.Option(help="Compare the log Bayes factor per datum.")
    ] = _DEFAULT.per_datum,
    validation: Annotated[
        float, typer.Option(help="Share of the training data that is held out.")
    ] = _DEFAULT.validation,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = _DEFAULT.seed,
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from a state dict: .safetensors, or a file of torch.save."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default one below runs/.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the report's path.")] = False,
) -> None:
    """Train a network, prune it, evaluate it, and leave a folder with a report.

    The same command goes on where it was interrupted.
    """
    settings = Settings(
        network=network,
        network_options=_options(network_options),
        dataset=dataset,
        method=method,
        sparsity=sparsity,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        scale=scale,
        ramp=ramp,
        freeze=freeze,
        threshold=threshold,
        likelihood=likelihood,  # type: ignore[arg-type]  # the pruner checks it
        per_datum=per_datum,
        validation=validation,
        seed=seed,
    )
    folder = output or run_folder.default_folder(settings)
    summary = run_folder.run(settings, folder, weights=weights, progress=False if quiet else None)
    if not quiet:
        _say(tables.layers(summary))
        _say(tables.numbers(summary))
    typer.echo(folder / "report.html")


@app.command()
def methods() -> None:
    """List the methods."""
    _say(tables.listing("method", "what it does", rows=list(METHODS.items())))


@app.command()
def datasets() -> None:
    """List the data sets."""
    rows = [(name, _DATASETS.get(name, "")) for name in data.names()]
    _say(tables.listing("data set", "what it is", rows=rows))
    _say(f"kept in {data.default_root()}; any folder of images in one folder a class will do too")


@app.command()
def networks() -> None:
    """List the networks, with their parameters for 3 x 32 x 32 images of 10 classes."""
    rows = []
    for name in known_networks.names():
        with torch.device("meta"):  # shapes alone: no time and no memory
            net = known_networks.create(name, (3, 32, 32), 10)
        count = sum(parameter.numel() for parameter in net.parameters())
        rows.append((name, f"{count:,}", known_networks.describe(name)))
    _say(tables.listing("network", "parameters", "what it is", rows=rows))
    _say("parameters are for 3 x 32 x 32 images; torchvision:<model> names torchvision's own")


@app.command("bench")
def run_bench(
    suite: Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")],
    only: Annotated[str, typer.Option(help="Runs whose name matches this glob.")] = "*",
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds in every cell.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs side by side; -1: one a core.")] = 1,
    results: Annotated[
        Path | None,
        typer.Option(help="By default docs/results/SUITE.jsonl, or below runs/bench/ without it."),
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option(help="For unfinished runs; by default runs/bench/SUITE.")
    ] = None,
) -> None:
    """Run what is missing of a suite; the same command goes on where it was interrupted."""
    grid = bench.load(suite, seeds=seeds)
    file = results or _results(grid)
    folder = scratch or Path("runs", "bench", grid.name)
    done = 0
    for line in bench.run(grid, results=file, scratch=folder, only=only, jobs=jobs):
        done += 1
        accuracy, sparsity = 100 * line["test_accuracy"], 100 * line["sparsity"]
        typer.echo(f"{line['id']}  {accuracy:.2f} %  sparse {sparsity:.1f} %  {line['seconds']} s")
    typer.echo(f"{done} runs added to {file}" if done else f"nothing is missing in {file}")


@app.command()
def table(
    suite: Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")],
    results: Annotated[
        Path | None, typer.Option(help="By default the file that `bench` writes.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Print a suite's test accuracies beside the paper's, with the difference and the seeds."""
    grid = bench.load(suite)
    file = results or _results(grid)
    rows = bench.table(grid, file)
    if not rows:
        raise ValueError(f"{file} has no results: run `pyrosparse bench {suite}` first")
    if markdown:
        typer.echo(tables.suite_markdown(rows) + f"\n\n{bench.provenance(file)}.")
    else:
        _say(f"{escape(grid.title)}. Paper: {escape(grid.source)}.")
        _say(tables.suite(rows))
        _say(escape(bench.provenance(file)))


def _results(suite: bench.Suite) -> Path:
    published = Path("docs", "results", f"{suite.name}.jsonl")
    return published if published.exists() else Path("runs", "bench", f"{suite.name}.jsonl")


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--network-options is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"--network-options must be a JSON object, got {text}")
    return options


def _say(content: Any, *, stderr: bool = False) -> None:
    # A console of the moment: the streams change under a test runner.
    stream = sys.stderr if stderr else sys.stdout
    Console(file=stream, highlight=False).print(content, soft_wrap=isinstance(content, str))


if __name__ == "__main__":
    app()
