"""Compression in two stages: gates, then gates that depend on the input."""

from pathlib import Path
from typing import Any

import pytest
import torch

import pyrosparse as ps
from pyrosparse.recipes import Result, find
from pyrosparse.recipes.setup import Setup
from tests.short import short_runs


def setup(**options: Any) -> Setup:
    own = {
        "recipe": "dependent-beta-bernoulli",
        "network_options": {"hidden": (30, 20)},
        "normalise": "unit",
        "pretrain": 3,
        "epochs": 12,
        "second_epochs": 3,
        "gate_rate": 0.2,
    }
    return Setup.of(own | options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dependent")


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    with short_runs():
        return setup().run(folder=folder, progress=False)


def test_the_compact_network_predicts_what_the_second_stage_does(result: Result) -> None:
    assert result.small is not None
    x = result.data.test.x
    with torch.no_grad():
        expected = result.posterior.eval().mean_forward(x)
        assert torch.allclose(result.small(x), expected, atol=1e-5)
        right = (expected.argmax(1) == result.data.test.y).float().mean()
    assert result.quality["accuracy"] == pytest.approx(float(right), abs=1e-6)


def test_an_average_datum_needs_no_more_than_all_data_do(result: Result) -> None:
    compaction = result.compaction
    assert compaction.active.keys() == compaction.units.keys()
    for key, mean in compaction.active.items():
        assert 0 < mean <= compaction.units[key][0]
    assert any(mean < compaction.units[key][0] for key, mean in compaction.active.items())
    assert compaction.counts is not None and compaction.report is not None
    before, after = compaction.counts
    assert compaction.report.paper is not None
    assert before == compaction.report.paper[0]
    assert after.flops < compaction.report.paper[1].flops
    assert compaction.figures()["active_counts"][1]["flops"] == after.flops


def test_a_first_stage_that_is_done_is_used(result: Result, folder: Path) -> None:
    first = folder / "first" / "checkpoint.safetensors"
    before = first.read_bytes()
    again = setup().run(folder=folder, progress=False)
    assert first.read_bytes() == before
    assert again.quality == result.quality
    # Also where a run of the first stage alone has left it.
    alone = setup(recipe="beta-bernoulli").run(folder=folder / "first", progress=False)
    assert first.read_bytes() == before
    assert alone.compaction.units["fc2.input"][0] >= result.compaction.units["fc2.input"][0]


def test_the_network_on_disk_needs_no_other_code(result: Result, tmp_path: Path) -> None:
    assert result.small is not None
    ps.save(tmp_path / "compact.safetensors", result.small)
    x = result.data.test.x
    assert torch.equal(ps.load(tmp_path / "compact.safetensors")(x), result.small(x))


def test_stages_are_named_by_their_place(result: Result) -> None:
    names = [stage.name for stage in result.stages]
    assert names == ["first/pretraining", "first/beta-bernoulli", "dependent-beta-bernoulli"]


def test_a_pool_shares_the_first_stage_with_a_run_of_it_alone(tmp_path: Path) -> None:
    options = {"epochs": 2, "second_epochs": 1, "pretrain": 1}
    setup(recipe="beta-bernoulli", **options).run(pool=tmp_path, progress=False)
    (first,) = tmp_path.glob("beta-bernoulli-*/checkpoint.safetensors")
    before = first.stat().st_mtime_ns
    setup(**options).run(pool=tmp_path, progress=False)
    assert [first] == list(tmp_path.glob("beta-bernoulli-*/checkpoint.safetensors"))
    assert first.stat().st_mtime_ns == before


def test_the_second_stage_is_as_long_as_the_first() -> None:
    recipe = find("dependent-beta-bernoulli").of({"epochs": 12})
    assert recipe.values()["second_epochs"] is None
    assert "second_epochs" not in find("beta-bernoulli").options()
