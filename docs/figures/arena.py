"""The arena's results as a figure and tables.

    python docs/figures/arena.py

reads ``docs/results/arena.jsonl``, with whatever runs are in it, and writes beside itself
``arena.md``, which the page ``which-method`` includes, and ``arena.svg``: test error against
multiply-accumulates and against bytes, each with its Pareto front, and calibration. Seconds on one
core.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib

from pyrosparse import bench
from pyrosparse.bench import tables
from pyrosparse.plots import front_plots
from pyrosparse.plots.style import STYLE
from pyrosparse.util.files import write_atomically

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "results" / "arena.jsonl"
SIZES = ("macs", "file_bytes")


def cells(results: Path = RESULTS) -> list[bench.Cell]:
    """The arena's cells with results; none without a file."""
    return bench.table(bench.load("arena"), results) if results.exists() else []


def problems(found: Sequence[bench.Cell]) -> dict[str, list[bench.Cell]]:
    """The cells of each network and data set."""
    sorted_out: dict[str, list[bench.Cell]] = {}
    for cell in found:
        name = f"{cell.setup.network} on {cell.setup.dataset}"
        sorted_out.setdefault(name, []).append(cell)
    return sorted_out


def front(members: Sequence[bench.Cell], size: str) -> list[bench.Cell]:
    """The cells that no other beats in size and error, the smallest first; size: of ``SIZES``."""
    at: dict[tuple[float, float], bench.Cell] = {}
    for cell in members:
        if (cost := cell.compact_mean(size)) is not None:
            at.setdefault((cost, mean(cell.errors)), cell)
    return [at[point] for point in front_plots.pareto_front(list(at))]


def front_table(found: Sequence[bench.Cell]) -> str:
    """What is on the front of each problem, by multiply-accumulates and by bytes."""
    rows = [
        "| problem | cell | seeds | accuracy, % | MACs | file, kB | ECE | on the front by |",
        "|:--|:--|--:|--:|--:|--:|--:|:--|",
    ]
    for name, members in problems(found).items():
        by_macs, by_bytes = (front(members, size) for size in SIZES)
        both = {id(cell): cell for cell in (*by_macs, *by_bytes)}
        for cell in sorted(both.values(), key=lambda cell: mean(cell.errors)):
            where = [
                label
                for label, on in (("MACs", by_macs), ("bytes", by_bytes))
                if any(cell is one for one in on)
            ]
            ece = mean(line["test_ece"] for line in cell.lines)
            rows.append(
                f"| {name} | `{label_of(cell)}` | {len(cell.lines)} "
                f"| {mean(cell.accuracies):.2f} | {cell.compact_mean('macs') or 0:,.0f} "
                f"| {(cell.compact_mean('file_bytes') or 0) / 1e3:,.1f} | {ece:.4f} "
                f"| {' and '.join(where)} |"
            )
    return "\n".join(rows) + "\n"


def label_of(cell: bench.Cell) -> str:
    """The recipe and its knob's value: the cell's name without data and network."""
    return cell.name.removeprefix(f"{cell.setup.dataset}-{cell.setup.network}-")


def runs(found: Sequence[bench.Cell]) -> str:
    """Which runs are there, by problem: how many of all, and of which recipes."""
    setups = [job.setup for job in bench.load("arena").jobs]
    planned = Counter(f"{setup.network} on {setup.dataset}" for setup in setups)
    there = problems(found)
    lines = []
    for name, total in planned.items():
        members = there.get(name, [])
        done = sum(len(cell.lines) for cell in members)
        labels = dict.fromkeys(f"`{cell.setup.recipe.label}`" for cell in members)
        recipes = f", of {', '.join(labels)}" if labels else ""
        lines.append(f"- {name}: {done} of {total} runs{recipes}.")
    return "\n".join(lines) + "\n"


def page(found: Sequence[bench.Cell]) -> str:
    """What the page includes, as Markdown."""
    text = f"**Which runs are there:**\n\n{runs(found)}"
    if not any(cell.compact_mean("macs") for cell in found):
        return text
    return f"""{text}
```{{image}} figures/arena.svg
:alt: test error against multiply-accumulates and bytes with the Pareto fronts, and calibration
:width: 100%
```

The recipes on a front, the most accurate first:

{front_table(found)}
All cells, the mean over their seeds:

{tables.markdown(found)}"""


def main(folder: Path = FOLDER, results: Path = RESULTS) -> int:
    found = cells(results)
    write_atomically(folder / "arena.md", page(found))
    if any(cell.compact_mean("macs") for cell in found):
        file = io.StringIO()
        with matplotlib.rc_context(STYLE):
            front_plots.fronts(found).savefig(file, format="svg", metadata={"Date": None})
        write_atomically(folder / "arena.svg", file.getvalue())
    return len(found)


if __name__ == "__main__":
    print(f"{main()} cells")
