"""The recipes that learn noise: rates, schedules, weights of the prior, and what is recorded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.infer import schedules
from pyrosparse.recipes.learned_dropout import weights_of
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import folder as run_folder
from tests.recipes.test_parts import COSINE, ONE, N, X, Y, along, net, rates, record

SMALL: dict[str, Any] = {"pretrain": 2, "epochs": 4, "batch_size": ONE}


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    ("recipe", "schedule"),
    [
        (recipes.StructuredBayesianPruning, schedules.linear_decay(start=0.5)),
        (recipes.HardConcrete, COSINE),
        (recipes.GeneralizedDropout, COSINE),
    ],
)
def test_rates_schedules_and_weights_of_the_prior(recipe: Any, schedule: Any) -> None:
    one = recipe(**SMALL, learning_rate=0.004, gate_rate=0.03)
    found, result = record(one)
    assert rates(found, "pretraining") == along(COSINE, 0.004, 2)
    assert rates(found, one.name) == along(schedule, 0.004, 4)
    assert rates(found, one.name, guide=True) == along(schedule, 0.03, 4)
    assert [entry["kl_scale"] for entry in result.history] == [1.0] * 4
    assert [stage.name for stage in result.stages] == ["pretraining", one.name]
    assert set(result.history[-1]["units"]) == {"0.input", "2.input"}
    methods = {e.target.key: e.method for e in result.posterior.guide.entries}
    assert type(methods["0.input"]) is getattr(ps, recipe.__name__)
    assert methods["0.weight"].scale == pytest.approx((1e-4 * N) ** -0.5)


def test_half_of_the_training_is_at_full_rate() -> None:
    schedule = recipes.StructuredBayesianPruning().schedule()
    assert [schedule(at) for at in (0.0, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="0 <= start < 1"):
        schedules.linear_decay(start=1.0)


def test_options_reach_the_methods() -> None:
    own = net()
    by_name = {"0.*": 3.0, "*": 2.0}
    assert recipes.StructuredBayesianPruning(kl_scale=by_name, noise="example").method(own) == (
        ps.StructuredBayesianPruning(kl_scale=by_name, noise="example")
    )
    options: dict[str, Any] = {"temperature": 0.2, "initial": 0.7, "kl_scale": by_name}
    assert recipes.GeneralizedDropout(alpha=1e-3, **options).method(own) == (
        ps.GeneralizedDropout(alpha=1e-3, **options)
    )
    hard = recipes.HardConcrete(cost=0.1, gain="expectation", noise="example").method(own)
    # 6 inputs with 10 weights each, 10 with 3.
    assert hard.cost == pytest.approx({"0.input": 1.0, "2.input": 0.3})
    assert (hard.gain, hard.noise, hard.initial) == ("expectation", "example", 0.8)
    assert recipes.HardConcrete(cost=by_name).method(own).cost == {"0.input": 30.0, "2.input": 6.0}


def test_a_gate_has_the_weights_that_it_multiplies() -> None:
    own = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip
    assert {t.key: weights_of(own, t) for t in ps.gates(own)} == {
        "0.output": 2 * 9,
        "3.output": 4 * 9,
        "6.input": 5,
    }


def test_the_papers_sum_of_gains_stands_beside_the_units_that_are_kept() -> None:
    _, result = record(recipes.HardConcrete(**SMALL))
    last = result.history[-1]
    for key, kept in last["units"].items():
        assert 0 < last["gain_sum"][key] < kept


@pytest.mark.usefixtures("whole")
def test_a_high_price_closes_gates_and_units_are_cut() -> None:
    recipe = recipes.HardConcrete(pretrain=50, epochs=100, batch_size=ONE, cost=0.5, gate_rate=0.1)
    _, result = record(recipe)
    kept = result.history[-1]["units"]
    assert kept["2.input"] < 10
    assert result.compaction.units["2.input"][0] == kept["2.input"]
    # A gate whose gain has come to 0 may return: nothing is cut before the end.
    assert all("kept" not in entry for entry in result.history)


@pytest.mark.usefixtures("whole")
def test_noise_drowns_units_that_are_not_needed() -> None:
    recipe = recipes.StructuredBayesianPruning(
        pretrain=50, epochs=150, batch_size=ONE, kl_scale=8.0, gate_rate=0.1
    )
    _, result = record(recipe)
    assert result.history[-1]["units"]["2.input"] < 10


@pytest.mark.usefixtures("whole")
def test_concrete_dropout_trains_rates_with_the_weights_and_prunes_nothing() -> None:
    recipe = recipes.ConcreteDropout(**SMALL, learning_rate=0.05, initial=0.2)
    found, result = record(recipe)
    assert rates(found, "concrete-dropout") == along(COSINE, 0.05, 4)
    assert rates(found, "concrete-dropout", guide=True) == along(COSINE, 0.05, 4)
    assert result.sparsity == 0.0 and result.original is not None
    entry = result.posterior.guide.entries[0]
    assert entry.method == ps.ConcreteDropout(
        scale=(1e-4 * N) ** -0.5, temperature=0.1, initial=0.2
    )
    rate = entry.posterior()["logit_rate"].detach().sigmoid()
    assert 0.2 < float(rate) < 0.5


def test_a_network_with_batch_normalisation_is_gated_behind_it() -> None:
    torch.manual_seed(0)
    own = nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    result = ps.compress(
        own, (X, Y), recipes.StructuredBayesianPruning(**SMALL), dense=False, progress=False
    )
    assert set(result.history[-1]["units"]) == {"2.output", "5.input"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param(
            "structured-bayesian-pruning",
            "structured-bayesian-pruning, gamma 1",
            marks=pytest.mark.slow,
        ),
        ("hard-concrete", "hard-concrete, cost 0.02"),
        pytest.param(
            "generalized-dropout", "generalized-dropout, alpha 0.0001", marks=pytest.mark.slow
        ),
        pytest.param("concrete-dropout", "without pruning", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("whole")
def test_a_run_has_a_report_that_says_where_its_knob_stood(
    tmp_path: Path, name: str, told: str
) -> None:
    options = {"network_options": {"hidden": [8]}, "batch_size": 647, "pretrain": 1, "epochs": 1}
    run_folder.run(Setup.of(options | {"recipe": name}), tmp_path, progress=False)
    assert told in (tmp_path / "report.html").read_text()
    # Its plot of probabilities is for sites that are log odds of one.
    assert not list(tmp_path.glob("gate_forest*"))
