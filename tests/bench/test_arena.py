"""The arena: all recipes on the same terms, its table, its plot, and packages not installed."""

import copy
import json
import math
from collections import Counter
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyrosparse import bench
from pyrosparse.bench.cell import other_starts
from pyrosparse.bench.columns import along_the_knob, contents
from pyrosparse.cli import app
from pyrosparse.plots import front_plots, plots
from pyrosparse.recipes import PEERS, peers
from tests.short import short_runs

TINY = """
title = "Three on digits"
source = "nobody"
[settings]
start = { epochs = 2, batch_size = 647 }
pretrain = 0
epochs = 2
fine_tune = 1
batch_size = 647
validation = 0.0
[[problem]]
dataset = "digits"
network = "fcn"
network_options = { hidden = [12] }
[[grid]]
recipe = ["none", "magnitude"]
sparsity = 0.5
[[grid]]
recipe = "one-shot"
"""


def suite(folder: Path, text: str = TINY) -> bench.Suite:
    (folder / "tiny.toml").write_text(text)
    return bench.load(str(folder / "tiny.toml"))


def _all_epochs(values: dict[str, Any]) -> int:
    return int(values["epochs"] + values.get("second_epochs", 0) + values["fine_tune"])


# Of recipes that train more than once.
def _after_cuts(values: dict[str, Any]) -> int:
    return int(values["epochs"] + values["cuts"] * values["fine_tune"])


def _of_tickets(values: dict[str, Any]) -> int:
    trainings = 1 + round(math.log(1 - values["sparsity"]) / math.log(1 - values["fraction"]))
    return int(trainings * values["epochs"] + values["fine_tune"])


ALL_EPOCHS = {
    "reinitialised": lambda values: 2 * values["epochs"] + values["fine_tune"],
    "turbo-units-first": lambda values: (
        values["unit_epochs"] + values["epochs"] + values["fine_tune"]
    ),
    "han": _after_cuts,
    "l1-norm": _after_cuts,
    "thinet": lambda values: values["epochs"] + values["last_fine_tune"],
    "lottery": _of_tickets,
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of two runs, and as it were of a third."""
    folder = tmp_path_factory.mktemp("arena")
    options = {"results": folder / "tiny.jsonl", "scratch": folder / "scratch"}
    made = suite(folder)
    with short_runs():
        runs = list(bench.run(replace(made, jobs=made.jobs[:2]), **options))
    none, magnitude = json.loads(json.dumps(runs))
    third = copy.deepcopy(magnitude)
    job = made.jobs[2]
    third |= {"id": job.id, "cell": job.cell, "settings": job.setup.values()}
    return [none, magnitude, third]


def cells(lines: list[dict[str, Any]]) -> list[bench.Cell]:
    return along_the_knob([bench.Cell(one["cell"], [one]) for one in lines])


@pytest.mark.parametrize(("name", "epochs"), [("arena", 30), ("arena-longer", 80)])
def test_all_runs_of_the_arena_are_on_the_same_terms(name: str, epochs: int) -> None:
    jobs = bench.load(name, seeds=1).jobs
    for job in jobs:
        values = job.setup.values()
        assert values["start"] == {"epochs": 20} and values["validation"] == 0.0
        assert values.get("pretrain", 0) == 0 and not values.get("augment")
        assert ALL_EPOCHS.get(values["recipe"], _all_epochs)(values) == epochs, job.id
    problems = {(job.setup.dataset, job.setup.network) for job in jobs}
    assert problems == {("fashion-mnist", "lenet5"), ("mnist", "fcn")}
    # Where there is a choice along the knob, all have as many.
    labels = Counter(
        (job.setup.dataset, job.setup.recipe.label)
        for job in jobs
        if job.setup.recipe.knob not in ("", "scale")
    )
    assert set(labels.values()) <= {4}


def test_all_runs_begin_with_the_same_weights_and_train_for_as_long(
    lines: list[dict[str, Any]],
) -> None:
    assert [line["cell"] for line in lines[:2]] == ["digits-fcn-none", "digits-fcn-magnitude-50"]
    assert len({line["start"] for line in lines}) == 1
    assert {line["epochs"] for line in lines} == {3}
    # What trained the start is not of a run's own time, and is trained once.
    assert len({line["pretraining_seconds"] for line in lines}) == 1
    assert lines[1]["sparsity"] == pytest.approx(0.5, abs=0.01)
    for line in lines:
        assert line["settings"]["start"] == {"epochs": 2, "batch_size": 647}
        assert line["compact"]["file_bytes"] > 0
    # The file holds no zeros, and the network in memory does.
    dense, sparse = (line["compact"] for line in lines[:2])
    assert sparse["file_bytes"] < 0.8 * dense["file_bytes"]
    assert sparse["bytes"] == dense["bytes"]


def test_the_table_has_what_a_network_is_worth_and_what_it_costs(
    lines: list[dict[str, Any]],
) -> None:
    names, rows = contents(cells(lines))
    assert names == [
        "cell",
        "seeds",
        "accuracy, %",
        "NLL",
        "ECE",
        "sparsity, %",
        "parameters",
        "MACs",
        "file, kB",
        "ms, batch 1 / 128",
        "training, s",
    ]
    row = dict(zip(names, next(row for row in rows if "magnitude" in row[0]), strict=True))
    line = lines[1]
    assert row["accuracy, %"] == f"{100 * line['test_accuracy']:.2f}"
    assert (row["NLL"], row["ECE"]) == (f"{line['test_nll']:.4f}", f"{line['test_ece']:.4f}")
    assert (row["parameters"], row["MACs"]) == ("910", "888")
    assert row["file, kB"] == f"{line['compact']['file_bytes'] / 1000:.1f}"
    times = [1e3 * line["compact"]["seconds"][size][1] for size in ("1", "128")]
    assert row["ms, batch 1 / 128"] == f"{times[0]:.3g} / {times[1]:.3g}"


def test_costs_are_means_over_the_seeds_where_all_have_a_compact_network(
    lines: list[dict[str, Any]],
) -> None:
    one, other, none = (copy.deepcopy(lines[1]) for _ in range(3))
    other |= {"seed": 1}
    other["compact"]["macs"] = {"fc1": [768, 300], "fc2": [120, 100]}
    none["compact"] = {"kept": "", "units": {}, "problem": "a layer is empty"}
    assert bench.Cell("a", [one, other]).compact_mean("macs") == (888 + 400) / 2
    assert bench.Cell("a", [one, none]).compact_mean("macs") is None
    assert bench.Cell("a", [one, none]).milliseconds == {}
    row = contents([bench.Cell("a", [none])])[1][0]
    assert row[6:10] == [""] * 4


def test_cells_of_another_start_are_named(lines: list[dict[str, Any]]) -> None:
    assert other_starts(cells(lines)) == []
    changed = copy.deepcopy(lines)
    changed[1]["start"] = "other"
    assert other_starts(cells(changed)) == ["digits-fcn-magnitude-50"]
    # Another seed has another start, and so has another network.
    for where in ({"seed": 1}, {"settings": changed[1]["settings"] | {"network": "cnn"}}):
        others = copy.deepcopy(changed)
        others[1] |= where
        assert other_starts(cells(others)) == []


def test_the_plot_has_the_front_and_every_recipe(lines: list[dict[str, Any]]) -> None:
    more = copy.deepcopy(lines[1])
    more["compact"] = {"kept": "", "units": {}, "problem": "a layer is empty"}
    more["settings"]["sparsity"] = 0.99
    figure = front_plots.fronts(cells([*lines, more]))
    macs, files, calibration = figure.axes
    for axes, name in ((macs, "macs"), (files, "file_bytes")):
        drawn = {str(line.get_label()): line for line in axes.lines}
        assert set(drawn) == {"none", "magnitude", "one-shot", "front"}
        (x,) = drawn["none"].get_xdata()
        assert x == cells(lines[:1])[0].compact_mean(name)
    # What has no compact network is in the last panel.
    (curve,) = (line for line in calibration.lines if line.get_label() == "magnitude")
    assert list(curve.get_ydata()) == [lines[1]["test_ece"]] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "front"
    assert plots.svg(figure).startswith("<svg")
    with pytest.raises(ValueError, match="no compact network"):
        front_plots.fronts(cells([more]))


def test_the_command_prints_draws_and_names_other_starts(
    lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    suite(tmp_path)
    changed = copy.deepcopy(lines)
    changed[2]["start"] = "other"
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in changed))
    words = ["table", f"{tmp_path}/tiny.toml", "--results", f"{results}"]
    found = CliRunner().invoke(app, [*words, "--plot", f"{tmp_path}/fronts.svg"])
    assert found.exit_code == 0, found.output
    assert "not to be compared with them: digits-fcn-one-shot-90." in " ".join(found.output.split())
    assert "expected calibration error" in (tmp_path / "fronts.svg").read_text()


def test_a_grid_is_run_on_every_problem_unless_it_names_its_own(tmp_path: Path) -> None:
    text = TINY + '[[grid]]\nrecipe = "gibbs"\ndataset = "mnist"\nnetwork = "cnn"\n'
    text = text.replace("[[grid]]", '[[problem]]\ndataset = "mnist"\nnetwork = "fcn"\n[[grid]]', 1)
    names = [job.cell for job in suite(tmp_path, text).jobs]
    assert names == [
        "digits-fcn-none",
        "digits-fcn-magnitude-50",
        "mnist-fcn-none",
        "mnist-fcn-magnitude-50",
        "digits-fcn-one-shot-90",
        "mnist-fcn-one-shot-90",
        "mnist-cnn-gibbs-90",
    ]
    with pytest.raises(ValueError, match="'problem' is not a list of tables"):
        suite(tmp_path, TINY.replace("[[problem]]", "[problem]"))


def test_runs_of_packages_that_are_missing_are_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def nothing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(peers, "distribution", nothing)
    names = [peer.name for peer in PEERS]
    text = TINY[: TINY.index("[[grid]]")] + f"[[grid]]\nrecipe = {names}\n"
    runs = bench.run(suite(tmp_path, text), results=tmp_path / "a.jsonl", scratch=tmp_path)
    with pytest.warns(UserWarning) as told:
        assert list(runs) == []
    assert len(told) == len(PEERS)
    assert "1 runs are left out: torch-pruning-magnitude runs the package" in str(told[0].message)
    with pytest.raises(ValueError, match="pip install torch-pruning"):
        suite(tmp_path, text).jobs[0].setup.run(progress=False)


@pytest.mark.parametrize("peer", PEERS)
def test_peers_cut_the_units_that_they_would_cut(peer: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    text = TINY[: TINY.index("[[grid]]")] + f'[[grid]]\nrecipe = "{peer.name}"\nsparsity = 0.5\n'
    (line,) = bench.run(suite(tmp_path, text), results=tmp_path / "a.jsonl", scratch=tmp_path)
    assert line["compact"]["structure"] == "6-10" and line["epochs"] == 3
