"""The commands on suites of runs: ``bench`` and ``table``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pyrosparse.cli.app import app, say, width

if TYPE_CHECKING:
    from pyrosparse import bench

_Suite = Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")]
_Results = typer.Option(
    help="File of results. Default: docs/results/SUITE.jsonl if it exists, else "
    "runs/bench/SUITE.jsonl."
)


@app.command("bench")
def run_bench(
    suite: _Suite,
    only: Annotated[str, typer.Option(help="Runs whose name matches this glob.")] = "*",
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Number of seeds in every cell. Default: that of the suite."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Parallel runs; -1: one for each core. Default: 1, or all workers of the cluster."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Run on the workers of Dask, `tcp://HOST:8786`, or Ray, `ray://HOST:10001`."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device, as torch names it: `cpu`, `cuda`.")
    ] = None,
    results: Annotated[Path | None, _Results] = None,
    scratch: Annotated[
        Path | None, typer.Option(help="Folder for unfinished runs. Default: runs/bench/SUITE.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the finished and missing runs, and run nothing.")
    ] = False,
) -> None:
    """Run the missing runs of a suite. The same command continues after an interruption.

    The same command on several machines that share the folders divides the runs among them. Runs
    that fail are recorded beside the results; the others go on, and the exit status is 1.
    """
    from pyrosparse import bench

    grid = bench.load(suite, seeds=seeds, device=device)
    file = results or _results(grid)
    if dry_run:
        _list(bench.plan(grid, file, only=only))
        return
    folder = scratch or Path("runs", "bench", grid.name)
    done, problem = 0, ""
    with nullcontext() if cluster is None else bench.cluster(cluster):
        try:
            for line in bench.run(grid, results=file, scratch=folder, only=only, jobs=jobs):
                done += 1
                typer.echo(_told(line))
        except bench.FailedRunsError as error:
            problem = str(error)
    missing = len(bench.plan(grid, file, only=only).missing)
    nothing = not done and not missing
    typer.echo(f"nothing is missing in {file}" if nothing else f"{done} runs added to {file}")
    if problem:
        say(f"[bold red]error:[/] {escape(problem)}", stderr=True)
        raise typer.Exit(1)
    if missing:
        typer.echo(f"{missing} runs are missing: another command is at work on them, or left out")


def _told(line: Mapping[str, Any]) -> str:
    """A run in a line: how good, how large and how long."""
    known = "test_accuracy" in line
    good = f"{100 * line['test_accuracy']:.2f} %" if known else f"NLL {line['test_nll']:.3f}"
    size = line["compact"]["kept"] or f"sparse {100 * line['sparsity']:.1f} %"
    return f"{line['id']}  {good}  {size}  {line['seconds']} s"


def _list(plan: bench.Plan) -> None:
    for job in plan.done:
        typer.echo(f"{job.id}  done")
    for job in plan.missing:
        seconds = plan.seconds[job.id]
        typer.echo(f"{job.id}  missing" + ("" if seconds is None else f", about {seconds:.0f} s"))
    unknown = sum(one is None for one in plan.seconds.values())
    more = f", and {unknown} runs of unknown length" if unknown else ""
    typer.echo(
        f"{len(plan.done)} done, {len(plan.missing)} missing: about {plan.total / 60:.0f} minutes "
        f"one after the other{more}"
    )


@app.command()
def table(
    suite: _Suite,
    results: Annotated[
        Path | None, typer.Option(help="File of results. Default: the file that `bench` writes.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="File for a plot, .svg or .png: error against speed-up for suites that cut units, "
            "accuracy against size for suites with one start for all recipes."
        ),
    ] = None,
) -> None:
    """Print a suite's results beside the paper's."""
    from pyrosparse import bench
    from pyrosparse.bench import tables
    from pyrosparse.bench.cell import other_starts
    from pyrosparse.bench.columns import along_the_knob
    from pyrosparse.plots import front_plots, plots, size_plots
    from pyrosparse.util.files import write_atomically

    grid = bench.load(suite)
    file = results or _results(grid)
    cells = bench.table(grid, file)
    if not cells:
        raise ValueError(f"{file} has no results: run `pyrosparse bench {suite}` first")
    if markdown:
        typer.echo(tables.markdown(cells) + f"\n\n{bench.provenance(file)}.")
    else:
        say(f"{escape(grid.title)}. Source: {escape(grid.source)}.")
        for part in tables.suite(cells, width(sys.stdout)):
            say(part)
        say(escape(bench.provenance(file)))
    if other := other_starts(cells):
        say(
            f"Not of the start that the other cells have, and not to be compared with them: "
            f"{', '.join(other)}. Remove their lines, and bench runs them again."
        )
    if plot is not None:
        shared = any(cell.starts for cell in cells)
        draw = front_plots.fronts if shared else size_plots.trade_off
        figure = draw(along_the_knob(cells))
        svg = plot.suffix == ".svg"
        write_atomically(plot, plots.svg(figure) if svg else plots.png(figure))


def _results(suite: bench.Suite) -> Path:
    published = Path("docs", "results", f"{suite.name}.jsonl")
    return published if published.exists() else Path("runs", "bench", f"{suite.name}.jsonl")
