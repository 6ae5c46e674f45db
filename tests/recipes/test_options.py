"""The options of recipes: once each, checked, and as values that come back."""

import json
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from pyrosparse.recipes import (
    RECIPES,
    BetaBernoulli,
    Gibbs,
    Magnitude,
    NoPruning,
    Random,
    Recipe,
    Split,
    TurboVBI,
    find,
    names,
    option,
)
from pyrosparse.recipes.setup import Setup

N = 60_000
DATA = torch.zeros(3, 20), torch.zeros(3).long()


def resolved(recipe: Recipe, n: int = N) -> Any:
    return recipe.resolve(nn.Linear(20, 100), Split(DATA, None, None, n))


@pytest.mark.parametrize("recipe", RECIPES, ids=names())
def test_a_setup_is_json_values_and_comes_back(recipe: type[Recipe]) -> None:
    setup = Setup(network_options={"hidden": [8]}, recipe=recipe())
    values = json.loads(json.dumps(setup.values()))
    assert Setup.of(values) == setup and values["recipe"] == recipe.name
    given = resolved(recipe())
    assert (
        Setup.of(json.loads(json.dumps(given.values())) | {"recipe": recipe.name}).recipe == given
    )
    assert None not in given.values().values()
    assert given.resolve(nn.Linear(1, 1), None) == given


@pytest.mark.parametrize("recipe", RECIPES, ids=names())
def test_every_option_has_a_help_and_a_recipe_a_line_and_a_knob(recipe: type[Recipe]) -> None:
    assert find(recipe.name) is recipe and 10 < len(recipe.summary()) < 90
    for one in recipe.options().values():
        assert one.help and not one.help.endswith(".")
        assert one.choices or one.kind is bool or one.number, one.name
    assert not recipe.knob or recipe.knob in recipe.options()
    with pytest.raises(FrozenInstanceError):
        recipe().epochs = 3  # type: ignore[misc,attr-defined]


def test_mappings_come_back() -> None:
    gamma = {"conv1.*": 20, "*": 1}
    setup = Setup(network="lenet5_caffe", dataset="mnist", recipe=BetaBernoulli(kl_scale=gamma))
    assert Setup.of(json.loads(json.dumps(setup.values()))) == setup


def test_settings_of_when_there_were_methods_are_read() -> None:
    old = {
        "network": "fcn",
        "network_options": {},
        "dataset": "mnist",
        "method": "none",
        "sparsity": 0.9,
        "epochs": 25,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "scale": 1.0,
        "kl_scale": None,
        "validation": 0.1,
        "seed": 0,
    }
    assert Setup.of(old) == Setup(dataset="mnist", recipe=NoPruning(epochs=25))
    assert Setup.of(old | {"method": "random"}).recipe == Random(epochs=25, sparsity=0.9)


def test_beta_bernoulli_is_the_papers_on_mnist() -> None:
    recipe = resolved(BetaBernoulli())
    assert (recipe.epochs, recipe.pretrain, recipe.kl_warmup) == (30, 20, 2)
    assert recipe.scale == pytest.approx((1e-4 * N) ** -0.5)
    assert (recipe.temperature, recipe.pi, recipe.initial) == (0.3, "collapsed", 0.95)
    assert (recipe.batch_size, recipe.learning_rate, recipe.gate_rate) == (100, 2e-3, 0.05)
    few = resolved(BetaBernoulli(), 1294)
    assert (few.epochs, few.pretrain, few.kl_warmup) == (154, 77, 10)


def test_what_is_said_is_not_filled_in() -> None:
    recipe = BetaBernoulli(epochs=3, pretrain=0, kl_warmup=0, scale=2.0)
    assert resolved(recipe) == recipe
    assert resolved(Random()) == Random()


def test_the_knob_tells_runs_apart() -> None:
    assert BetaBernoulli(kl_scale=4).level == 4 and BetaBernoulli(kl_scale=4).cell.endswith("-4")
    assert BetaBernoulli(kl_scale={"fc1.*": 8.0, "*": 2.0}).level == 2.0
    assert Random(sparsity=0.5).cell == "random-50" and NoPruning().cell == "none"
    assert TurboVBI(active=0.0114).cell == "turbo-vbi-1.14"
    assert Gibbs(structure="filter", sparsity=0.75).cell == "gibbs-filter-75"


@pytest.mark.parametrize(
    ("recipe", "wrong"),
    [
        (Magnitude, {"sparsity": 1.0}),
        (Magnitude, {"ramp": -0.1}),
        (Magnitude, {"epochs": 0}),
        (Magnitude, {"epochs": 1.5}),
        (Magnitude, {"freeze": "no"}),
        (Magnitude, {"scale": float("nan")}),
        (Magnitude, {"learning_rate": float("inf")}),
        (BetaBernoulli, {"kl_scale": {"*": 0}}),
        (BetaBernoulli, {"kl_scale": {}}),
        (BetaBernoulli, {"pi": "drawn"}),
        (BetaBernoulli, {"pretrain": -1}),
        (TurboVBI, {"least_units": {"*": 0}}),
        (TurboVBI, {"kl_scale": {"*": 1.0}}),
        (TurboVBI, {"unit_cost": True}),
    ],
)
def test_options_out_of_range_are_refused(recipe: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} "):
        recipe(**wrong)


def test_a_recipe_of_ones_own_needs_its_class_alone() -> None:
    @dataclass(frozen=True)
    class Short(NoPruning):
        """Train for a moment."""

        name: ClassVar[str] = "short"
        epochs: int = option(1, "passes over the data", within="1..")

    assert Short.summary() == "Train for a moment" and Short().values()["epochs"] == 1
    with pytest.raises(ValueError, match="epochs must be 1 or more"):
        Short(epochs=0)
