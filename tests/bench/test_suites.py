"""The suites that ship, and the tables and the plot of error against size."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyrosparse import bench
from pyrosparse.bench.columns import along_the_knob
from pyrosparse.plots import plots, size_plots

ROOT = Path(__file__).parents[2]


def line(job: bench.Job, error: float, flops: int, **changes: Any) -> dict[str, Any]:
    compact = {
        "kept": "100-50",
        "units": {"fc1.input": [100, 784], "fc2.input": [50, 500]},
        "paper": [{"flops": 1000, "memory": 400}, {"flops": flops, "memory": 40}],
        "seconds": {"1": [2.0, 1.0], "128": [6.0, 1.0]},
    }
    return {
        "id": job.id,
        "cell": job.cell,
        "seed": job.setup.seed,
        "test_accuracy": 1 - error / 100,
        "sparsity": 0.9,
        "settings": job.setup.values(),
        "compact": compact | changes,
        "version": "1",
        "torch": "2",
        "machine": "m",
        "date": "d",
    }


def results(folder: Path, lines: list[dict[str, Any]]) -> Path:
    file = folder / "results.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return file


def own_jobs(suite: bench.Suite) -> list[Any]:
    """The runs of the paper's own methods."""
    return [job for job in suite.jobs if job.setup.recipe.name.endswith("beta-bernoulli")]


def test_beta_bernoulli_is_the_papers_grid() -> None:
    suite = bench.load("beta-bernoulli")
    assert {job.cell for job in suite.jobs} == set(suite.paper)
    jobs = own_jobs(suite)
    assert len(jobs) == 20
    for job in jobs:
        setup, recipe, gamma = job.setup, job.setup.recipe, job.setup.recipe.level
        assert (recipe.epochs, recipe.pretrain, setup.validation) == (30, 20, 0.0)
        if setup.network == "lenet5_caffe":
            assert recipe.kl_scale == {"conv1.*": 20 * gamma, "conv2.*": 8 * gamma, "*": gamma}
    figures = suite.paper["mnist-lenet_500_300-beta-bernoulli-6"]
    assert figures == {"error": 1.49, "speedup": 28.28, "memory": 3.55}
    assert suite.paper["mnist-lenet5_caffe-beta-bernoulli-8"]["memory"] == 5.87
    dependent = suite.paper["mnist-lenet_500_300-dependent-beta-bernoulli-6"]
    assert dependent == {"error": 1.59, "speedup": 47.07, "memory": 2.22}


def test_the_bottleneck_has_the_papers_gammas() -> None:
    suite = bench.load("beta-bernoulli")
    found: dict[str, set[float]] = {}
    for job in suite.jobs:
        if job.setup.recipe.name == "information-bottleneck":
            found.setdefault(job.setup.network, set()).add(job.setup.recipe.level)
    assert found == {
        "lenet_500_300": {1e-4, 1e-5, 5e-6, 1e-6, 5e-7},
        "lenet5_caffe": {1e-6, 5e-7, 1e-7, 5e-8, 1e-8},
    }
    figures = suite.paper["mnist-lenet5_caffe-information-bottleneck-5e-08"]
    assert figures == {"error": 0.69, "speedup": 5.25, "memory": 9.15}
    assert suite.paper["mnist-lenet_500_300-information-bottleneck-0.0001"]["error"] == 1.60


def test_variational_dropout_stands_beside_the_papers_figures() -> None:
    suite = bench.load("turbo-vbi")
    for data, recipe, left in (
        ("fashion-mnist-lenet5", "variational-dropout-1", 6.16),
        ("fashion-mnist-lenet5", "group-variational-dropout-1", 4.20),
        ("cifar10-alexnet_small", "variational-dropout-1", 3.17),
        ("cifar10-alexnet_small", "group-variational-dropout-1", 9.30),
    ):
        (job, *_) = (job for job in suite.jobs if job.cell == f"{data}-{recipe}")
        assert suite.paper[job.cell]["left"] == left
        assert (job.setup.recipe.epochs, job.setup.recipe.fine_tune) == (60, 15)


@pytest.mark.parametrize(
    ("recipe", "network", "levels", "first", "last"),
    [
        ("structured-bayesian-pruning", "lenet_500_300", "1 2 4 6 8", 18.92, 45.78),
        ("structured-bayesian-pruning", "lenet5_caffe", "1 2 4 6 8", 11.41, 20.13),
        ("hard-concrete", "lenet_500_300", "0.005 0.01 0.02 0.05 0.1", 7.57, 16.16),
        ("hard-concrete", "lenet5_caffe", "0.005 0.01 0.02 0.05 0.1", 2.86, 5.23),
        ("generalized-dropout", "lenet_500_300", "1e-06 1e-05 0.0001 0.001", 4.31, 1.0),
        ("generalized-dropout", "lenet5_caffe", "1e-06 1e-05 0.0001 0.001", 2.03, 1.93),
    ],
)
def test_what_beta_bernoulli_is_compared_with(
    recipe: str, network: str, levels: str, first: float, last: float
) -> None:
    suite = bench.load("beta-bernoulli")
    jobs = [
        job for job in suite.jobs if (job.setup.recipe.name, job.setup.network) == (recipe, network)
    ]
    jobs.sort(key=lambda job: job.setup.recipe.level or 0.0)
    assert [f"{job.setup.recipe.level:g}" for job in jobs] == levels.split()
    assert suite.paper[jobs[0].cell]["speedup"] == first
    assert suite.paper[jobs[-1].cell]["speedup"] == last
    for job in jobs:
        one = job.setup.recipe
        assert (one.epochs, one.pretrain, job.setup.validation) == (30, 20, 0.0)
        if recipe.startswith("structured") and network == "lenet5_caffe":
            assert one.kl_scale == {
                "conv1.*": 20 * one.level,
                "conv2.*": 8 * one.level,
                "*": one.level,
            }


def test_results_of_gates_are_those_of_their_suite(tmp_path: Path) -> None:
    suite, file = bench.load("beta-bernoulli"), ROOT / "docs" / "results" / "beta-bernoulli.jsonl"
    done = {one["id"] for one in bench.read(file)}
    runs = [job for job in suite.jobs if job.id in done]
    only = bench.Suite(suite.name, "", "", runs, suite.paper)
    assert runs and not list(bench.run(only, results=file, scratch=tmp_path))
    cells = along_the_knob(bench.table(suite, file))
    rows = [row for row in cells if "500_300-beta" in row.name]
    assert [row.setup.recipe.level for row in rows] == [1, 2, 4, 6, 8]
    # More of the divergence leaves less of the network.
    speedups = [row.speedup or 0.0 for row in rows]
    assert speedups == sorted(speedups)


@pytest.mark.parametrize("name", ["bayesian-pruning", "fcn-width"])
def test_results_that_are_there_are_those_of_their_suite(name: str, tmp_path: Path) -> None:
    suite, file = bench.load(name), ROOT / "docs" / "results" / f"{name}.jsonl"
    done = {one["id"] for one in bench.read(file)}
    runs = [job for job in suite.jobs if job.id in done]
    assert runs
    only = bench.Suite(suite.name, "", "", runs, suite.paper)
    assert not list(bench.run(only, results=file, scratch=tmp_path))
    row = bench.table(suite, file)[0]
    assert "| 98.29 | 1 | 0.0 | 97.82 | +0.47 |" in bench.markdown([row]) or name != (
        "bayesian-pruning"
    )
    assert row.paper["accuracy"] > 0.9


def test_the_cost_table_has_means_over_seeds_and_the_paper(tmp_path: Path) -> None:
    suite = bench.load("beta-bernoulli", seeds=2)
    first, second = (job for job in suite.jobs if job.cell.endswith("300-beta-bernoulli-8"))
    other = {"units": {"fc1.input": [103, 784], "fc2.input": [60, 500]}}
    file = results(tmp_path, [line(second, 2.0, 20, **other), line(first, 1.0, 10)])
    (row,) = bench.table(suite, file)
    assert row.errors == pytest.approx([1.0, 2.0])
    assert row.kept == "102-55"
    assert row.speedup == pytest.approx(75.0) and row.memory == pytest.approx(10.0)
    assert row.latency == {1: 2.0, 128: 6.0}
    assert "| 2 | 1.50 ± 0.71 | 1.59 | 102-55 | 75.00 | 33.81 |" in bench.markdown([row])


def test_cells_without_a_compact_network_have_no_speedup(tmp_path: Path) -> None:
    suite = bench.load("beta-bernoulli")
    job, other = suite.jobs[:2]
    closed = line(job, 90.0, 1, units={"fc1.input": [0, 784]})
    del closed["compact"]["paper"], closed["compact"]["seconds"]
    (row,) = bench.table(suite, results(tmp_path, [closed]))
    assert (row.speedup, row.memory, row.latency, row.kept) == (None, None, {}, "0")
    with pytest.raises(ValueError, match="no compact network"):
        size_plots.trade_off([row])
    file = results(tmp_path, [closed, line(other, 1.7, 30)])
    rows = bench.table(suite, file)
    assert plots.svg(size_plots.trade_off(rows)).startswith("<svg")


def test_the_plot_has_a_panel_a_network_and_the_papers_points(tmp_path: Path) -> None:
    suite = bench.load("beta-bernoulli")
    file = results(tmp_path, [line(job, 1.5, 50) for job in suite.jobs])
    everything = size_plots.trade_off(along_the_knob(bench.table(suite, file))).axes[0].lines
    marks = {(one.get_color(), one.get_marker()) for one in everything}
    assert len(marks) == len(everything) >= 10
    jobs = own_jobs(suite)
    file = results(tmp_path, [line(job, 1.5, 50) for job in jobs])
    panels = size_plots.trade_off(along_the_knob(bench.table(suite, file))).axes
    assert [axes.get_title("left") for axes in panels] == [
        "lenet_500_300 on mnist",
        "lenet5_caffe on mnist",
    ]
    # A line of ours and one of the paper's for each of the two methods.
    ours, papers, _, dependent = panels[0].lines
    assert list(ours.get_xdata()) == [20.0] * 5
    assert list(papers.get_xdata()) == [13.38, 16.23, 21.79, 28.28, 33.81]
    assert list(dependent.get_xdata()) == [34.98, 38.75, 43.27, 47.07, 52.09]
    assert {text.get_text() for text in panels[0].texts} == {"1", "2", "4", "6", "8"}


VARIANTS = """
title = "t"
source = "s"
settings = {{ dataset = "digits", recipe = "magnitude", epochs = 1 }}

[[grid]]
sparsity = 0.9

[[grid]]
{variant}
sparsity = [0.5, 0.9]
ramp = 0.5

[[paper]]
dataset = "digits"
recipe = "magnitude"
variant = "short"
sparsity = 0.9
accuracy = 0.5
"""


def test_a_variant_tells_cells_of_one_recipe_and_level_apart(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(VARIANTS.format(variant='variant = "short"'))
    suite = bench.load(str(file))
    assert [job.id for job in suite.jobs] == [
        "digits-fcn-magnitude-90-seed0",
        "digits-fcn-magnitude-50-short-seed0",
        "digits-fcn-magnitude-90-short-seed0",
    ]
    assert suite.paper == {"digits-fcn-magnitude-90-short": {"accuracy": 0.5}}
    on = bench.load(str(file), device="cuda").jobs
    assert [job.id for job in on] == [job.id for job in suite.jobs]


def test_runs_of_one_name_that_differ_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(VARIANTS.format(variant=""))
    with pytest.raises(ValueError, match=r"magnitude-90-seed0 and differ .* variant"):
        bench.load(str(file))
    file.write_text(VARIANTS.format(variant='variant = "../short"'))
    with pytest.raises(ValueError, match="small letters, digits and dashes"):
        bench.load(str(file))
