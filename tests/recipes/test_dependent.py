"""Compression in two stages: gates, then gates that depend on the input."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pyrosparse.compress import Settings, compress
from pyrosparse.compress.outcome import Outcome

import pyrosparse as ps


def settings(**options: Any) -> Settings:
    own = {
        "method": "dependent-beta-bernoulli",
        "network_options": {"hidden": (30, 20)},
        "normalise": "unit",
        "pretrain": 3,
        "epochs": 12,
        "second_epochs": 3,
        "gate_rate": 0.2,
    }
    return Settings(**(own | options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dependent")


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Outcome:
    return compress(settings(), folder=folder, progress=False)


def test_the_compact_network_predicts_what_the_second_stage_does(outcome: Outcome) -> None:
    assert outcome.small is not None
    x = outcome.data.test.x
    with torch.no_grad():
        expected = outcome.trained.bnn.eval().mean_forward(x)
        assert torch.allclose(outcome.small(x), expected, atol=1e-5)
        right = (expected.argmax(1) == outcome.data.test.y).float().mean()
    assert outcome.test.accuracy == pytest.approx(float(right), abs=1e-6)


def test_an_average_datum_needs_no_more_than_all_data_do(outcome: Outcome) -> None:
    compaction = outcome.compaction
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


def test_a_first_stage_that_is_done_is_used(outcome: Outcome, folder: Path) -> None:
    first = folder / "first" / "checkpoint.safetensors"
    before = first.read_bytes()
    again = compress(settings(), folder=folder, progress=False)
    assert first.read_bytes() == before
    assert again.test == outcome.test
    # Also where a run of the first stage alone has left it.
    alone = compress(
        settings(method="beta-bernoulli", second_epochs=None),
        folder=folder / "first",
        progress=False,
    )
    assert first.read_bytes() == before
    assert alone.compaction.units["fc2.input"][0] >= outcome.compaction.units["fc2.input"][0]


def test_the_network_on_disk_needs_no_other_code(outcome: Outcome, tmp_path: Path) -> None:
    assert outcome.small is not None
    ps.save(tmp_path / "compact.safetensors", outcome.small)
    x = outcome.data.test.x
    assert torch.equal(ps.load(tmp_path / "compact.safetensors")(x), outcome.small(x))


def test_the_option_is_of_this_method_alone() -> None:
    with pytest.raises(ValueError, match="it is one of dependent-beta-bernoulli"):
        Settings(second_epochs=3)
    assert settings(second_epochs=None).for_data(1294).second_epochs == 12
    assert Settings().for_data(1294).second_epochs is None
