"""Recipes that select under a prior, cut and fine-tune, in their parts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse import methods, recipes
from pyrosparse.infer import Fit
from tests.recipes.test_parts import COSINE, ONE, N, Record, X, Y, along, net, rates
from tests.stopped import stopped_after


class Seen(Record):
    """The method of each target, and its posterior at the start, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.methods: dict[str, dict[str, ps.Method]] = {}
        self.start: dict[str, dict[str, dict[str, torch.Tensor]]] = {}

    def on_start(self, run: Fit) -> None:
        super().on_start(run)
        entries = run.lifted.guide.entries
        self.methods[run.stage] = {entry.target.key: entry.method for entry in entries}
        self.start[run.stage] = {
            entry.target.key: {key: one.detach().clone() for key, one in entry.posterior().items()}
            for entry in entries
        }


def train(recipe: recipes.Recipe, own: nn.Module | None = None, **options: Any) -> tuple[Seen, Any]:
    seen = Seen()
    options = {"dense": False, "progress": False, "callbacks": [seen]} | options
    return seen, ps.compress(own or net(), (X, Y), recipe, **options)


def normalised() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 10, bias=False), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip


def test_laplace_trains_under_l1_and_fine_tunes_what_is_large() -> None:
    recipe = recipes.Laplace(
        epochs=10, batch_size=ONE, penalty=0.05, sparsity=0.5, rate_schedule="cosine"
    )
    found, result = train(recipe)
    assert [stage.name for stage in result.stages] == ["laplace", "fine-tuning"]
    assert rates(found, "laplace") == along(COSINE, 1e-3, 10)
    assert rates(found, "fine-tuning") == along(COSINE, 1e-3, 2)
    assert found.runs["fine-tuning"].seed == 1
    assert {value for e in found.frozen["laplace"] for value in e.values()} == {1.0}
    for entry in found.frozen["fine-tuning"]:
        assert list(entry.values()) == pytest.approx([0.5, 0.5], abs=0.02)
    (one,) = set(found.methods["laplace"].values())
    assert isinstance(one, methods.LaplacePrior) and one.scale == pytest.approx(1 / (0.05 * N))
    (two,) = set(found.methods["fine-tuning"].values())
    assert two == methods.Gaussian(scale=result.recipe.scale)


@pytest.mark.usefixtures("whole")
def test_laplace_makes_weights_smaller_than_no_penalty_does() -> None:
    def size(penalty: float) -> float:
        _, result = train(recipes.Laplace(
            epochs=60, batch_size=20, learning_rate=0.01, penalty=penalty, sparsity=0.0, fine_tune=0
        ))  # fmt: skip
        return sum(
            float(result.net.get_parameter(n).detach().abs().sum())
            for n in ("0.weight", "2.weight")
        )

    assert size(0.1) < 0.5 * size(1e-9)


@pytest.mark.usefixtures("whole")
def test_polarization_of_gates_starts_where_the_network_is() -> None:
    recipe = recipes.Polarization(
        pretrain=2, epochs=3, fine_tune=2, batch_size=ONE, penalty=0.01, t=1.3, gate_rate=0.2
    )
    seen, result = train(recipe)
    assert [stage.name for stage in result.stages] == ["pretraining", "selection", "fine-tuning"]
    assert rates(seen, "selection") == along(COSINE, 1e-3, 3)
    assert rates(seen, "selection", guide=True) == along(COSINE, 0.2, 3)
    method = seen.methods["selection"]["0.output"]
    assert isinstance(method, methods.Polarization)
    assert (method.strength, method.t) == pytest.approx((0.01 * N, 1.3))
    assert method.mean_over == "network"
    assert seen.start["selection"]["0.output"]["loc"].tolist() == [1.0] * 10
    expected = (1e-4 * N) ** -0.5
    assert seen.methods["selection"]["0.weight"] == methods.Gaussian(scale=expected)
    assert set(seen.methods["fine-tuning"]) == {"0.weight", "2.weight"}


@pytest.mark.usefixtures("whole")
def test_polarization_of_scales_starts_a_new_network_at_a_half() -> None:
    recipe = recipes.Polarization(
        on="scales", epochs=40, fine_tune=4, batch_size=20, penalty=0.05, gate_rate=0.03
    )
    seen, result = train(recipe, normalised())
    assert [stage.name for stage in result.stages] == ["selection", "fine-tuning"]
    assert set(seen.methods["selection"]) == {
        "0.weight", "3.weight", "5.weight", "1.weight", "3.output",
    }  # fmt: skip
    assert seen.start["selection"]["1.weight"]["loc"].tolist() == [0.5] * 10
    scales = result.net[1].weight
    gone = scales == 0
    assert 0 < int(gone.sum()) < 10
    # The shift of a channel that is gone stays, as a constant that compact carries.
    assert result.net[1].bias[gone].any()
    x = result.data.test.x
    torch.testing.assert_close(result.small(x), result.net.eval()(x), rtol=1e-4, atol=1e-5)
    dropped = recipes.Polarization.of(recipe.values() | {"drop_shift": True})
    _, other = train(dropped, normalised())
    gone = other.net[1].weight == 0
    assert gone.any() and not other.net[1].bias[gone].any() and other.net[1].bias[~gone].all()


def test_scales_have_the_rate_of_what_selects() -> None:
    recipe = recipes.Polarization(
        on="scales", epochs=1, fine_tune=0, batch_size=ONE, gate_rate=0.03
    )
    bnn = recipe.resolve(net(), recipes.Split((X, Y), None, None, N)).lifted(
        recipes.Job(normalised(), recipes.Split((X, Y), None, None, N), ps.classifier, recipe)
    )
    assert recipe.rates(bnn) == {"net.1.weight": 0.03, "guide.*": 0.03, "*": 1e-3}


def test_scales_that_cannot_start_at_a_half_are_refused() -> None:
    recipe = recipes.Polarization(on="scales", epochs=1, batch_size=ONE)
    with pytest.raises(ValueError, match=r"no batch normalisation.*on='gates'"):
        train(recipe)
    trained = normalised()
    with torch.no_grad():
        trained[1].weight[0] = 1.2
    with pytest.raises(ValueError, match="on='gates' for a trained one"):
        train(recipe, trained)
    with pytest.raises(ValueError, match="takes no pretraining"):
        train(recipes.Polarization(on="scales", pretrain=1, batch_size=ONE), normalised())
    split = recipes.Split((X, Y), None, None, N)
    assert recipe.resolve(net(), split).pretrain == 0
    assert recipes.Polarization().resolve(net(), split).pretrain == 1000


@pytest.mark.usefixtures("whole")
def test_the_horseshoe_knows_the_data_and_the_guess() -> None:
    recipe = recipes.GroupHorseshoe(
        pretrain=1, epochs=4, kl_warmup=2, fine_tune=1, batch_size=ONE, active=0.3, kl_scale=0.5
    )
    seen, result = train(recipe)
    method = seen.methods["selection"]["0.input"]
    assert method == methods.GroupHorseshoe(N, 0.3)
    assert seen.methods["selection"]["0.weight"].estimator == "activations"
    history = {stage.name: stage.history for stage in result.stages}["selection"]
    assert [entry["kl_scale"] for entry in history] == [0.0, 0.25, 0.5, 0.5]
    assert rates(seen, "selection", guide=True) == along(COSINE, 0.02, 4)
    split = recipes.Split((X, Y), None, None, N)
    assert recipes.GroupHorseshoe().resolve(net(), split).kl_scale == pytest.approx(N / 90)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("structure", ["weight", "unit"])
def test_the_spike_and_slab_is_on_weights_or_units(structure: Any) -> None:
    recipe = recipes.SpikeAndSlab(
        pretrain=1, epochs=2, fine_tune=1, batch_size=ONE, inclusion=0.2, structure=structure,
        slab=0.5,
    )  # fmt: skip
    seen, _ = train(recipe)
    found = {key: one for key, one in seen.methods["selection"].items()}
    if structure == "weight":
        assert (
            set(found.values()) == {methods.SpikeAndSlab(0.2, 0.5)} and recipe.label == recipe.name
        )
    else:
        assert found["2.input"] == methods.GroupSpikeAndSlab(0.2)
        assert found["0.weight"].scale == 0.5 and recipe.label == "spike-and-slab-unit"


@pytest.mark.usefixtures("whole")
def test_what_is_not_selected_is_gone_and_stays_gone() -> None:
    recipe = recipes.SpikeAndSlab(
        pretrain=80, epochs=60, fine_tune=3, batch_size=20, learning_rate=0.01, inclusion=0.3
    )
    found, result = train(recipe)
    assert result.small is not None, result.account
    assert 0.05 < result.sparsity < 0.95
    for entry in found.frozen["fine-tuning"]:
        kept = (60 * entry["0.weight"] + 30 * entry["2.weight"]) / 90
        assert kept == pytest.approx(1 - result.sparsity)
    x = result.data.test.x
    torch.testing.assert_close(result.small(x), result.net.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "saves", "begun"),
    [
        ("laplace", 1, {"."}),
        ("laplace", 3, {".", "fine-tuning"}),
        ("polarization", 3, {"pretraining", "selection"}),
        ("polarization", 5, {"pretraining", "selection", "fine-tuning"}),
        ("spike-and-slab", 3, {"pretraining", "selection"}),
    ],
)
def test_a_run_stopped_in_a_stage(tmp_path: Path, name: str, saves: int, begun: set[str]) -> None:
    values = {"pretrain": 2, "epochs": 2, "fine_tune": 2, "batch_size": ONE, "penalty": 0.01}
    recipe = recipes.find(name).of(values)
    _, whole = train(recipe)
    with stopped_after(saves):
        train(recipe, folder=tmp_path)
    files = tmp_path.rglob("checkpoint.safetensors")
    assert {file.parent.relative_to(tmp_path).as_posix() for file in files} == begun
    _, resumed = train(recipe, folder=tmp_path)
    for key, value in resumed.net.state_dict().items():
        assert torch.equal(value, whole.net.state_dict()[key]), key
