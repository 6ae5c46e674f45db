"""Turbo-VBI: options, resumed runs, and what is left."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pyrosparse.recipes import Result, Split, TurboVBI
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports.figures import figures
from tests.stopped import stopped_after

VALUES = {
    "recipe": "turbo-vbi",
    "network_options": {"hidden": [12]},
    "pretrain": 1,
    "epochs": 4,
    "fine_tune": 1,
    "batch_size": 647,
    "learning_rate": 0.01,
    "active": 0.2,
    "least_units": 3,
}


def tiny(**changes: Any) -> Setup:
    return Setup.of(VALUES | changes)


@pytest.fixture(scope="module")
def uninterrupted() -> Result:
    return tiny().run(progress=False)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("method", ["turbo-vbi", "independent-support"])
def test_what_is_taken_stays_zero_through_the_fine_tuning(method: str) -> None:
    result = tiny(recipe=method).run(progress=False)
    masks = result.posterior.masks()
    support = result.stages[1].history
    kept = sum(int(mask.count_nonzero()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    assert kept / total == pytest.approx(support[-1]["kept"])
    assert 0 < kept < 0.4 * total
    for name, mask in masks.items():
        weight = result.net.get_parameter(name)
        assert torch.equal(weight != 0, mask)
        moved = weight != result.original.get_parameter(name)
        assert moved[mask].any()
    assert len(support) == 4


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    "saves", [0, 1, 3, 5], ids=["at once", "before the support", "between exchanges", "at the end"]
)
def test_a_stopped_run_ends_like_a_whole_one(
    tmp_path: Path, saves: int, uninterrupted: Result
) -> None:
    with stopped_after(saves):
        tiny().run(folder=tmp_path, progress=False)
    resumed = tiny().run(folder=tmp_path, progress=False)
    for key, value in resumed.net.state_dict().items():
        assert torch.equal(value, uninterrupted.net.state_dict()[key])


def test_epochs_follow_the_data() -> None:
    net = torch.nn.Linear(20, 100)
    few, many = (TurboVBI().resolve(net, Split((), None, None, n)) for n in (1294, 54_000))
    for name in ("epochs", "pretrain", "fine_tune"):
        assert getattr(few, name) > getattr(many, name) > 0
    assert few.kl_scale == pytest.approx(1294 / 2000) and many.kl_scale == 1.0
    assert few.scale == pytest.approx((1e-4 * 1294) ** -0.5)


@pytest.mark.parametrize(
    "wrong",
    [{"active": 0.0}, {"active": 1.0}, {"fine_tune": -1}, {"least_units": 0}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TurboVBI(**wrong)


def test_without_fine_tuning_the_time_counts_once() -> None:
    result = tiny(fine_tune=0).run(progress=False)
    assert [stage.name for stage in result.stages] == ["pretraining", "support"]
    entries = [entry for stage in result.stages for entry in stage.history]
    assert result.seconds == pytest.approx(sum(entry["seconds"] for entry in entries))
    assert "convergence" in figures(result)
