"""Compression by Turbo-VBI: settings, resumed runs, and what is left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyrosparse.compress import Settings, compress
from pyrosparse.compress.turbo import train

from pyrosparse import data, networks, run_folder
from pyrosparse.assess import summarize
from tests.stopped import stopped_after

TINY = Settings(
    method="turbo-vbi",
    network_options={"hidden": [12]},
    pretrain=1,
    epochs=4,
    fine_tune=1,
    batch_size=647,
    learning_rate=0.01,
    active=0.2,
    least_units=3,
)


def trained(settings: Settings, **options: Any) -> Any:
    digits = data.load("digits")
    torch.manual_seed(0)
    net = networks.fcn((1, 8, 8), hidden=(12,))
    return train(settings.for_data(len(digits.train)), net, digits, progress=False, **options)


@pytest.mark.parametrize("method", ["turbo-vbi", "independent-support"])
def test_what_is_taken_stays_zero_through_the_fine_tuning(method: str) -> None:
    own = {**TINY.__dict__, "method": method}
    if method == "independent-support":
        own |= {name: None for name in ("unit_cost", "least_units")}
    result = trained(Settings(**{k: v for k, v in own.items() if v is not None}))
    masks = result.bnn.masks()
    kept = sum(int(mask.count_nonzero()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    assert kept / total == pytest.approx(result.first.history[-1]["kept"])
    assert 0 < kept < 0.4 * total
    for name, mask in masks.items():
        weight = result.net.get_parameter(name)
        assert torch.equal(weight != 0, mask)
        moved = weight != result.original.get_parameter(name)
        assert moved[mask].any()
    assert len(result.first.history) == 4


@pytest.mark.parametrize("saves", [1, 3], ids=["in the pretraining", "between exchanges"])
def test_a_stopped_run_ends_like_a_whole_one(tmp_path: Path, saves: int) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    expected = trained(TINY, folder=whole)
    with stopped_after(saves):
        trained(TINY, folder=stopped)
    resumed = trained(TINY, folder=stopped)
    for key, value in resumed.net.state_dict().items():
        assert torch.equal(value, expected.net.state_dict()[key])


def test_epochs_follow_the_data() -> None:
    few = Settings(method="turbo-vbi").for_data(1294)
    many = Settings(method="turbo-vbi").for_data(54_000)
    for name in ("epochs", "pretrain", "fine_tune"):
        assert getattr(few, name) > getattr(many, name) > 0
    assert few.for_data(10) == few
    assert few.scale is not None


@pytest.mark.parametrize(
    "wrong",
    [{"active": 0.0}, {"active": 1.0}, {"fine_tune": -1}, {"least_units": 0}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"active|fine_tune|at_least"):
        Settings(method="turbo-vbi", **wrong)


def test_options_of_other_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="no option least_units"):
        Settings(method="independent-support", least_units=3)
    with pytest.raises(ValueError, match="no option active"):
        Settings(method="magnitude", active=0.1)


def test_without_fine_tuning_the_time_counts_once(tmp_path: Path) -> None:
    outcome = compress(replace(TINY, fine_tune=0), progress=False)
    trained = outcome.trained
    assert trained.first is None and trained.pretraining is not None
    entries = [*trained.pretraining.history, *trained.run.history]
    assert outcome.seconds == pytest.approx(sum(entry["seconds"] for entry in entries))
    assert "convergence" in run_folder.figures(outcome, summarize(outcome, tmp_path))
