"""The commands on suites of runs: ``bench`` and ``table``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pyrosparse import bench
from pyrosparse.assess import plots, size_plots, suite_tables
from pyrosparse.cli.app import app, say, width
from pyrosparse.files import write_atomically

_Suite = Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")]


@app.command("bench")
def run_bench(
    suite: _Suite,
    only: Annotated[str, typer.Option(help="Runs whose name matches this glob.")] = "*",
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds in every cell.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs side by side; -1: one a core.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="What to compute on, as torch names it: `cpu`, `cuda`.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="By default docs/results/SUITE.jsonl, or below runs/bench/ without it."),
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option(help="For unfinished runs; by default runs/bench/SUITE.")
    ] = None,
) -> None:
    """Run what is missing of a suite; the same command goes on where it was interrupted."""
    grid = bench.load(suite, seeds=seeds, device=device)
    file = results or _results(grid)
    folder = scratch or Path("runs", "bench", grid.name)
    done = 0
    for line in bench.run(grid, results=file, scratch=folder, only=only, jobs=jobs):
        done += 1
        accuracy, sparsity = 100 * line["test_accuracy"], 100 * line["sparsity"]
        size = line["compact"]["kept"] or f"sparse {sparsity:.1f} %"
        typer.echo(f"{line['id']}  {accuracy:.2f} %  {size}  {line['seconds']} s")
    typer.echo(f"{done} runs added to {file}" if done else f"nothing is missing in {file}")


@app.command()
def table(
    suite: _Suite,
    results: Annotated[
        Path | None, typer.Option(help="By default the file that `bench` writes.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="For error against speed-up, of a suite with gates: .svg or .png."),
    ] = None,
) -> None:
    """Print a suite's results beside the paper's: accuracies, or with gates error and size; with
    outside data, what the predictive probabilities are worth."""
    grid = bench.load(suite)
    if plot is not None and not grid.gated:
        raise ValueError(f"{suite} has no method with gates: there is no speed-up to plot")
    file = results or _results(grid)
    costs = bench.cost_table(grid, file) if grid.gated else []
    structures = bench.structure_table(grid, file) if grid.structured else []
    predictive = bench.predictive_table(grid, file) if grid.outside is not None else []
    rows = predictive or costs or structures or bench.table(grid, file)
    if not rows:
        raise ValueError(f"{file} has no results: run `pyrosparse bench {suite}` first")
    if markdown:
        typer.echo(suite_tables.suite_markdown(rows) + f"\n\n{bench.provenance(file)}.")
    else:
        say(f"{escape(grid.title)}. Source: {escape(grid.source)}.")
        for part in suite_tables.suite(rows, width(sys.stdout)):
            say(part)
        say(escape(bench.provenance(file)))
    if plot is not None:
        figure = size_plots.trade_off(costs)
        svg = plot.suffix == ".svg"
        write_atomically(plot, plots.svg(figure) if svg else plots.png(figure))


def _results(suite: bench.Suite) -> Path:
    published = Path("docs", "results", f"{suite.name}.jsonl")
    return published if published.exists() else Path("runs", "bench", f"{suite.name}.jsonl")
