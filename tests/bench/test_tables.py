"""Tables of suites: nothing is lost where a terminal is narrow."""

import io

import pytest
from rich.console import Console

from pyrosparse.bench import Cell
from pyrosparse.bench.tables import suite


def line(accuracy: float, left: float) -> dict[str, object]:
    compact = {"structure": "3-5-10", "macs": {"a": [4, 2]}, "seconds": {"1": [1.5, 1.0]}}
    return {"test_accuracy": accuracy, "sparsity": 1 - left / 100, "compact": compact}


ROWS = [
    Cell(f"mnist-lenet5-{recipe}", [line(0.98, 1.0), line(0.97, 1.2)], paper)
    for recipe, paper in (
        ("turbo-vbi", {"accuracy": 0.9, "left": 1.0, "structure": "2-4", "macs": 80.0}),
        ("independent-support", {}),
    )
]


def lines(width: int | None) -> list[str]:
    stream = io.StringIO()
    for table in suite(ROWS, width):
        Console(file=stream, width=width or 1000).print(table)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_and_hold_every_column(width: int):
    whole, *others = suite(ROWS)
    assert not others
    headers = [str(column.header) for column in whole.columns]
    parts = [[str(column.header) for column in table.columns] for table in suite(ROWS, width)]
    assert len(parts) > 1
    assert [name for part in parts for name in part[1:]] == headers[1:]
    # What the paper has is beside what it is of.
    assert all(part[1] != "paper" for part in parts)
    assert all(part[0] == "mnist-lenet5-…" for part in parts)
    text = lines(width)
    assert max(map(len, text)) <= width
    assert not any("…" in line for line in text if line.startswith("│"))


def test_table_that_fits_is_one_with_whole_names():
    text = lines(None)
    assert any("mnist-lenet5-independent-support" in line for line in text)
    assert lines(max(map(len, text))) == text


def test_rows_of_gates_do_not_hide_what_the_paper_prints():
    gated = line(0.97, 5.0)
    gated["compact"] = {"active": {"a": 3.0}, **gated["compact"]}
    (alone,), (mixed,) = suite(ROWS), suite([*ROWS, Cell("mnist-lenet5-gates", [gated], {})])
    assert [one.header for one in mixed.columns] == [one.header for one in alone.columns]
