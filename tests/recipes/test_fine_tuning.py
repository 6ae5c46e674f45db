"""One start for all recipes, and one fine-tuning in which zeros stay zero."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.recipes import RECIPES, FineTuning, Pretraining
from pyrosparse.recipes.setup import Setup
from pyrosparse.recipes.split import digest
from tests.recipes.test_parts import COSINE, ONE, X, Y, along, net, rates, record
from tests.short import short_runs
from tests.stopped import stopped_after

START = Pretraining(epochs=2, batch_size=ONE)
# What makes some weights go in so few steps.
OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "second_epochs": 1,
    "batch_size": ONE,
    "sparsity": 0.5,
    "active": 0.3,
    "gate_rate": 2.0,
    "kl_scale": 1.0,
}


COMMON = [one for one in RECIPES if not one.fine_tunes_itself()]


@pytest.mark.parametrize("recipe", COMMON, ids=[one.name for one in COMMON])
def test_a_rate_and_a_prior_that_are_called_so_are_those_of_the_weights(recipe: Any) -> None:
    # Fine-tuning takes them over by their names.
    own, common = recipe.options(), FineTuning.options()
    for name in own.keys() & common.keys() - {"epochs"}:
        assert own[name].help == common[name].help, name


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool with the start in it."""
    folder = tmp_path_factory.mktemp("pool")
    with short_runs():
        record(START, pool=folder)
    return folder


@pytest.fixture
def pool(trained: Path, tmp_path: Path) -> Path:
    """A pool of one's own with the start in it: recipes that take nothing share more than that."""
    return Path(shutil.copytree(trained, tmp_path / "pool"))


# The others take as long each, and have the same code.
QUICK = {"none", "gibbs", "model-reduction"}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(one, id=one.name, marks=[] if one.name in QUICK else [pytest.mark.slow])
        for one in COMMON
        if one is not recipes.DependentBetaBernoulli
    ],
)
def test_any_recipe_is_fine_tuned_once_and_what_is_zero_stays_zero(recipe: Any, pool: Path) -> None:
    options = recipe.of(OPTIONS | {"fine_tune": 3})
    found, result = record(options, start=START, pool=pool)
    names = [stage.name for stage in result.stages]
    assert names[0] == "start/pretraining" and names[-1] == "fine-tuning"
    assert names.count("fine-tuning") == 1 and len(result.history) == 3
    # The recipe's own rate, from its start along a cosine, under another seed.
    assert rates(found, "fine-tuning") == along(COSINE, options.learning_rate, 3)
    assert found.runs["fine-tuning"].seed == 1
    for key, left in found.start["fine-tuning"].items():
        assert torch.equal(result.net.get_parameter(key) != 0, left), key
        assert torch.equal(found.end["fine-tuning"][key] != 0, left)
    if recipe.knob == "sparsity" and "bayesian" not in recipe.name:
        assert result.sparsity == pytest.approx(0.5, abs=0.05)
    # All began with the weights of the start, and are compared with them.
    start = ps.compress(net(), (X, Y), START, pool=pool, progress=False)
    assert digest(result.original.state_dict().values()) == digest(start.net.state_dict().values())


@dataclass(frozen=True)
class _Gates(recipes.Recipe):
    """Close some gates at once."""

    name: ClassVar[str] = "gates-at-once"
    learning_rate: float = recipes.option(0.01, "learning rate of Adam, on the weights")

    def train(self, job: Any) -> Any:
        method = ps.BetaBernoulli(initial=0.6)
        bnn = ps.lift(job.net, [(ps.Gaussian(), ps.weights(job.net)), (method, ps.gates(job.net))])
        bnn.freeze({"0.input": torch.arange(6) != 1, "2.input": torch.arange(10) < 4})
        return bnn


def test_gates_are_folded_and_what_they_closed_stays_closed() -> None:
    _, before = record(_Gates())
    # Fine-tuning begins with what the gates computed ...
    _, still = record(_Gates(fine_tune=1, learning_rate=1e-12))
    torch.testing.assert_close(still.net(X), before.net(X))
    assert (before.net(X) - net()(X)).abs().max() > 0.1
    # ... and trains what they left, as an ordinary network.
    _, result = record(_Gates(fine_tune=3))
    assert all(target.kind == "weight" for target in result.posterior.targets)
    assert (result.net[0].weight[:, 1] == 0).all() and (result.net[2].weight[:, 4:] == 0).all()
    assert (result.net[0].weight != before.net[0].weight).any()
    assert result.sparsity == before.sparsity == pytest.approx((10 + 6 * 3) / 90)
    assert result.small is not None and result.small.account.structure == "4-3"
    torch.testing.assert_close(result.small(X), result.net(X))


@dataclass(frozen=True)
class _Scales(recipes.Recipe):
    """Take a share of the scales of a normalisation."""

    name: ClassVar[str] = "scales"

    def train(self, job: Any) -> Any:
        bnn = ps.lift(job.net, ps.Gaussian(), ps.weights(job.net, "1.weight"))
        job.fit(bnn, epochs=1, batch_size=ONE)
        bnn.freeze({"1.weight": torch.arange(10) < 4})
        job.keep()
        return bnn


def test_a_recipe_that_declares_the_option_anew_is_fine_tuned_by_itself_alone() -> None:
    recipe = recipes.TurboVBI(epochs=2, fine_tune=3, batch_size=ONE, active=0.3)
    _, result = record(recipe, start=START)
    assert [(stage.name, len(stage.history)) for stage in result.stages] == [
        ("start/pretraining", 2),
        ("support", 2),
        ("fine-tuning", 3),
    ]
    codes = set()
    for fine_tune in (0, 3):
        one = recipe.of({"fine_tune": fine_tune}).resolve(net(), result.data)
        codes.add(recipes.Job(net(), result.data, ps.classifier, one)._pool_name())
    assert len(codes) == 2


def test_zeros_of_other_parameters_stay_as_well() -> None:
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3))
    result = ps.compress(own, (X, Y), _Scales(fine_tune=3), start=START, progress=False)
    # It is compared with the start, whatever the recipe itself keeps.
    assert (result.original[1].weight != 0).all()
    assert torch.equal(result.net[1].weight != 0, torch.arange(10) < 4)
    assert (result.net[0].weight != own[0].weight).any()


def test_a_network_trained_alike_is_fine_tuned_as_well() -> None:
    recipe = recipes.Magnitude(epochs=2, batch_size=ONE, sparsity=0.0, fine_tune=3)
    result = ps.compress(net(), (X, Y), recipe, progress=False)
    # Nothing goes: what it is compared with is itself.
    for mine, other in zip(result.net.parameters(), result.original.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_gates_that_depend_on_the_input_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match="fine_tune 3: leave it out, and give second_epochs more"):
        recipes.DependentBetaBernoulli(fine_tune=3)


def test_a_start_beside_pretraining_or_weights_is_refused() -> None:
    recipe = recipes.BetaBernoulli(pretrain=3)
    with pytest.raises(
        ValueError, match="would pretrain for 3 epochs a network that is already trained"
    ):
        ps.compress(net(), (X, Y), recipe, start=START)
    with pytest.raises(ValueError, match="pretrain for 3 epochs"):
        Setup(start={"epochs": 1}, recipe=recipe)
    setup = Setup(start={"epochs": 1}, recipe=recipes.Magnitude())
    with pytest.raises(ValueError, match="start and weights both set the initial network"):
        setup.run(weights={})


@pytest.mark.parametrize(
    ("start", "message"),
    [({"epoch": 1}, "option of the start"), ({"epochs": 0}, "epochs"), ({"fine_tune": 1}, "start")],
)
def test_the_options_of_a_start_are_checked(start: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setup(start=start)


def test_a_run_stopped_in_its_start_and_its_fine_tuning_ends_as_a_whole_one(tmp_path: Path) -> None:
    values = {"recipe": "magnitude", "epochs": 1, "fine_tune": 2, "batch_size": 647}
    small = {"network_options": {"hidden": [8]}, "start": {"epochs": 2, "batch_size": 647}}
    setup = Setup.of(values | small)
    options: dict[str, Any] = {"pool": tmp_path, "dense": False, "progress": False}
    whole = setup.run(dense=False, progress=False)
    # In the start, and after the first epoch of fine-tuning.
    for saves, begun in ((1, ["pretraining"]), (3, ["fine-tuning", "magnitude", "pretraining"])):
        with stopped_after(saves):
            setup.run(**options)
        files = tmp_path.rglob("checkpoint.safetensors")
        assert sorted(file.parent.name.rpartition("-")[0] for file in files) == begun
    resumed = setup.run(**options)
    assert digest(resumed.net.state_dict().values()) == digest(whole.net.state_dict().values())
    assert resumed.scores == whole.scores
    assert [one.name for one in resumed.stages] == ["start/pretraining", "magnitude", "fine-tuning"]


def test_stages_of_a_pool_do_not_depend_on_the_fine_tuning_after_them(tmp_path: Path) -> None:
    found = set()
    for fine_tune in (0, 2):
        recipe = recipes.BetaBernoulli(pretrain=1, fine_tune=fine_tune)
        stages: list[recipes.Recipe] = []
        split = recipes.Split((X, Y), None, None, len(X))
        job = recipes.Job(net(), split, ps.classifier, recipe, pool=tmp_path)
        job.stage = lambda one, name, stages=stages: stages.append(one)  # type: ignore[assignment]
        recipe.resolve(job.net, split).pretrained(job)
        job.recipe = recipe.resolve(job.net, split)
        code = job._pool_name()
        (job.recipe,) = stages
        found.add((code, job._pool_name()))
    assert len(found) == 1 and "" not in found.pop()


def test_stages_that_hold_other_parameters_at_zero_are_not_shared() -> None:
    split = recipes.Split((X, Y), None, None, len(X))
    codes = set()
    for others in ((), ("0.bias",)):
        recipe = FineTuning(scale=1.0, others=others)
        codes.add(recipes.Job(net(), split, ps.classifier, recipe)._pool_name())
    assert len(codes) == 2
