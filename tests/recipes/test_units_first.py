"""Units first, then weights: stages, rates, what is frozen when, and resumed runs."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.infer import schedules
from pyrosparse.models import distill
from pyrosparse.recipes.named import Teacher
from pyrosparse.supports import Grid
from tests.recipes.test_parts import COSINE, ONE, N, Record, X, Y, along, rates
from tests.short import short_runs
from tests.stopped import stopped_after

OPTIONS: dict[str, Any] = {
    "pretrain": 2,
    "unit_epochs": 10,
    "epochs": 10,
    "fine_tune": 3,
    "batch_size": ONE,
    "active": 0.1,
    "least_units": {"0": 4, "*": 3},
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def run(**changes: Any) -> tuple[Record, recipes.Result]:
    found = Record()
    recipe = recipes.TurboUnitsFirst(**(OPTIONS | changes))
    return found, ps.compress(net(), (X, Y), recipe, callbacks=[found], progress=False)


@pytest.mark.parametrize("kind", ["information", "common"])
def test_it_ends_with_the_units_and_the_weights_that_were_wanted(kind: str) -> None:
    _, result = run(rates=kind)
    assert result.small is not None
    assert [result.small.get_submodule(name).out_features for name in "02"] == [4, 3]
    total = 6 * 16 + 16 * 12 + 12 * 3
    kept = sum(int(mask.sum()) for mask in result.posterior.masks().values())
    # Each of the seven units keeps a weight, wanted or not.
    assert round(0.1 * total) <= kept <= round(0.1 * total) + 7
    for name, mask in result.posterior.masks().items():
        assert torch.equal(result.net.get_parameter(name) != 0, mask)


@pytest.mark.usefixtures("whole")
def test_rates_and_weights_of_the_divergence_by_stage() -> None:
    found, result = run(learning_rate=0.01, unit_rate=0.004, kl_scale=0.2, unit_kl_scale=0.7)
    assert rates(found, "pretraining") == along(COSINE, 0.004, 2)
    assert rates(found, "units") == along(schedules.constant, 0.004, 10)
    # One cosine over weights and settling.
    whole = [0.01 * COSINE(step / 10) for step in range(10)]
    assert rates(found, "weights") == pytest.approx(whole[:6])
    assert rates(found, "settling") == pytest.approx(whole[6:])
    assert rates(found, "fine-tuning") == along(COSINE, 0.01, 3)
    scales = {stage.name: {e["kl_scale"] for e in stage.history} for stage in result.stages}
    assert scales == {
        "pretraining": {1.0},
        "units": {0.7},
        "weights": {0.2},
        "settling": {1.0},
        "fine-tuning": {1.0},
    }


def test_units_go_by_equal_factors_and_weights_of_the_others_all_stay() -> None:
    found, result = run()
    (units,) = [stage for stage in result.stages if stage.name == "units"]
    on = [entry["units"]["0"] for entry in units.history]
    path = [16 * (4 / 16) ** min(max((epoch / 10 - 0.1) / 0.8, 0), 1) for epoch in range(1, 11)]
    # As few may go, so many must stay; the factor and the evidence decide how many do.
    assert all(one >= int(least + 1e-9) for one, least in zip(on, path, strict=True))
    assert on[0] == 16 and on[-1] >= 4
    end = found.start["weights"]
    first = end["0.weight"].all(1)
    assert int(first.sum()) == 4 and not end["0.weight"][~first].any()
    second = end["2.weight"].any(1)
    assert end["2.weight"][second][:, first].all() and int(second.sum()) == 3


def test_weights_go_along_a_cubic_and_none_comes_back() -> None:
    found, result = run(epochs=40)
    shares = found.frozen["weights"]
    total = {"0.weight": 96, "2.weight": 192, "4.weight": 36}
    kept = [sum(total[k] * v for k, v in one.items()) / 324 for one in shares]
    start = (4 * 6 + 4 * 3 + 3 * 3) / 324
    ramp = schedules.cubic(end=1.0, start=0.05 / 0.6)
    # `Record` sees the epoch after the exchange. The last weights of a unit stay for it.
    expected = [start + (0.1 - start) * ramp(epoch / 24) for epoch in range(1, 25)]
    assert kept == pytest.approx(expected, abs=0.012)
    assert all(a >= b for a, b in pairwise(kept))
    for key, mask in found.start["settling"].items():
        assert torch.equal(found.start["fine-tuning"][key], mask)
        assert torch.equal(result.net.get_parameter(key) != 0, mask)
    left = sum(int(mask.sum()) for mask in found.start["settling"].values())
    assert 32 <= left <= 32 + 7


def test_the_trained_network_teaches_until_the_fine_tuning() -> None:
    found, result = run()
    models = {stage: type(one.model) for stage, one in found.runs.items()}
    assert models["units"] is models["weights"] is models["settling"] is distill
    assert models["pretraining"] is models["fine-tuning"] is ps.classifier
    teacher = found.runs["weights"].model.teacher
    for key, value in result.original.state_dict().items():
        assert torch.equal(teacher.state_dict()[key], value)
    assert found.runs["weights"].model.weight == 0.9
    found, _ = run(distillation=0.0)
    assert type(found.runs["weights"].model) is ps.classifier


def test_another_teacher_stays_the_teacher() -> None:
    own = Teacher(nn.Linear(6, 3), 0.4, 3.0)
    found = Record()
    ps.compress(
        net(),
        (X, Y),
        recipes.TurboUnitsFirst(**OPTIONS),
        model=own,
        callbacks=[found],
        progress=False,
    )
    for stage in ("pretraining", "units", "weights", "settling", "fine-tuning"):
        assert (found.runs[stage].model.weight, found.runs[stage].model.temperature) == (0.4, 3.0)


def compressed(folder: Path | None = None) -> nn.Module:
    recipe = recipes.TurboUnitsFirst(**OPTIONS)
    return ps.compress(net(), (X, Y), recipe, folder=folder, progress=False).net


@pytest.fixture(scope="module")
def uninterrupted() -> nn.Module:
    with short_runs():
        return compressed()


@pytest.mark.parametrize("saves", [6, 16, 20, 24], ids=["units", "weights", "settling", "tuning"])
def test_a_stopped_run_ends_like_a_whole_one(
    tmp_path: Path, saves: int, uninterrupted: nn.Module
) -> None:
    with stopped_after(saves):
        compressed(tmp_path)
    for key, value in compressed(tmp_path).state_dict().items():
        assert torch.equal(value, uninterrupted.state_dict()[key])


def test_epochs_follow_the_data() -> None:
    few, many = (
        recipes.TurboUnitsFirst().resolve(net(), recipes.Split((X, Y), None, None, n))
        for n in (N, 54_000)
    )
    assert (many.pretrain, many.unit_epochs, many.epochs, many.fine_tune) == (8, 16, 60, 60)
    assert few.unit_epochs > 16 and few.epochs > 60


@pytest.mark.parametrize(("messages", "pair"), [(True, (0.4, 0.4)), (False, (0.5, 0.5))])
def test_supports_are_independent_without_messages(
    messages: bool, pair: tuple[float, float]
) -> None:
    found, _ = run(messages=messages, epochs=2, unit_epochs=2, fine_tune=0)
    for stage in ("units", "weights"):
        for entry in found.runs[stage].lifted.guide.entries:
            method = entry.method
            assert isinstance(method, ps.GammaSpikeAndSlab) and isinstance(method.support, Grid)
            assert (method.support.row, method.support.column) == (pair, pair)


class Loop(nn.Module):
    """A layer is used again and again, so that no unit is of one place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x).relu()
        for _ in range(2):
            hidden = hidden + self.again(hidden).relu()
        return self.last(hidden)


@pytest.mark.parametrize("recipe", [recipes.TurboUnitsFirst, recipes.TurboVBI])
def test_weights_alone_go_where_there_are_no_units(recipe: Any) -> None:
    options = {"pretrain": 1, "epochs": 4, "fine_tune": 1, "active": 0.3}
    with pytest.warns(UserWarning, match="single weights only, and no units: the network has no"):
        result = ps.compress(Loop(), (X, Y), recipe(**options), progress=False)
    assert not {stage.name for stage in result.stages} & {"units"}
    assert 0.2 < 1 - result.posterior.masks().sparsity < 0.45


def test_units_are_found_behind_an_embedding() -> None:
    torch.manual_seed(0)
    words = torch.randint(0, 9, (len(Y), 4))
    net = nn.Sequential(
        nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3)
    )
    recipe = recipes.TurboVBI(pretrain=1, epochs=4, fine_tune=0, active=0.2, least_units=2)
    result = ps.compress(net, (words, Y), recipe, progress=False)
    assert result.small is not None


def test_each_layer_keeps_a_share_of_its_units_by_default() -> None:
    net = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 3))
    data = torch.randn(40, 6), torch.arange(40) % 3
    parts = recipes.Split(data, None, None, 40)
    found = recipes.TurboUnitsFirst(active=0.03).resolve(net, parts).least_units
    assert found == {"0": 16, "2": 7}  # sqrt(0.03 / 0.3) = 0.316 of 50 and of 20
    assert recipes.TurboUnitsFirst(active=0.9).resolve(net, parts).least_units == {"0": 50, "2": 20}
    assert recipes.TurboUnitsFirst().resolve(nn.Linear(6, 3), parts).least_units == 1
