"""Targeted dropout, movement pruning and two of four as recipes: rates, ramps, what goes when."""

from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.infer import schedules
from tests.recipes.test_parts import COSINE, ONE, N, X, Y, along, rates, record
from tests.recipes.test_parts import net as dense


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )


def compressed(recipe: recipes.Recipe, **options: Any) -> recipes.Result:
    images = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    data = (images, torch.arange(40) % 3)
    return ps.compress(convolutional(), data, recipe, dense=False, progress=False, **options)


def test_targeted_dropout_has_the_papers_settings() -> None:
    for structure, sparsity, rate in (("weight", 0.9, 0.75), ("kernel", 0.9, 0.75)):
        result = compressed(recipes.TargetedDropout(structure=structure, epochs=1, batch_size=ONE))
        entries = {one.target.key: one.method for one in result.posterior.guide.entries}
        method = entries["2.weight"]
        assert isinstance(method, ps.TargetedDropout) and isinstance(
            entries["0.weight"], ps.Gaussian
        )
        assert (method.sparsity, method.rate, method.among) == (sparsity, rate, "output")
        assert method.scale == pytest.approx((2e-4 * 32) ** -0.5)
    recipe = recipes.TargetedDropout(
        structure="filter", sparsity=0.75, epochs=2, batch_size=ONE, rate_schedule="cosine"
    )
    result = compressed(recipe)
    assert result.recipe.rate == 0.9 and recipe.cell == "targeted-dropout-filter-75"
    kept = result.net[2].weight.flatten(1).any(1)
    assert int(kept.sum()) == 2 and result.small is not None
    assert [entry["ramp"] for entry in result.history] == [1.0, 1.0]


@pytest.mark.usefixtures("whole")
def test_its_ramp_rises_with_every_step() -> None:
    recipe = recipes.TargetedDropout(sparsity=0.5, ramp=0.8, epochs=5, batch_size=ONE)
    _, result = record(recipe)
    expected = [schedules.linear(0.8)(epoch / 5) for epoch in range(5)]
    assert [entry["ramp"] for entry in result.history] == pytest.approx(expected)
    assert (result.net[0].weight != 0).sum(1).tolist() == [3] * 10


@pytest.mark.parametrize("name", ["gibbs", "cut", "one-shot", "random-mask", "targeted-dropout"])
def test_two_of_every_four_inputs_stay(name: str) -> None:
    recipe = recipes.find(name)(structure="2:4", sparsity=0.5, epochs=2, batch_size=ONE)
    assert recipe.cell == f"{name}-2-of-4-50"
    weight = compressed(recipe).net[2].weight
    assert ((weight != 0).view(8, 1, 4, 3, 3).sum(2) == 2).all()


@pytest.mark.usefixtures("whole")
def test_movement_starts_trained_and_its_scores_have_a_rate_of_their_own() -> None:
    recipe = recipes.Movement(
        pretrain=2, epochs=5, batch_size=ONE, learning_rate=0.004, score_rate=0.3, sparsity=0.5
    )
    found, result = record(recipe)
    assert rates(found, "pretraining") == along(COSINE, 0.004, 2)
    assert rates(found, "movement") == along(COSINE, 0.004, 5)
    assert rates(found, "movement", guide=True) == along(COSINE, 0.3, 5)
    ramp = schedules.cubic(0.7, 0.1)
    assert [entry["ramp"] for entry in result.history] == pytest.approx(
        [ramp(epoch / 5) for epoch in range(5)]
    )
    # Nothing is frozen before the end, when half of each tensor goes.
    assert all(kept == 1 for step in found.frozen["movement"] for kept in step.values())
    assert [int((result.net[i].weight != 0).sum()) for i in (0, 2)] == [30, 15]
    assert {type(one.method) for one in result.posterior.guide.entries} == {ps.MovementPruning}
    assert result.posterior.guide.entries[0].method.scale == pytest.approx((1e-4 * N) ** -0.5)


@pytest.mark.parametrize(
    ("recipe", "bad", "says"),
    [
        ("gibbs", {"structure": "2:4"}, "prunes half of the weights: set sparsity to 0.5, got 0.9"),
        ("movement", {"structure": "2:4"}, "prunes half of the weights"),
        ("movement", {"ramp_start": 0.8}, "ramp_start must be before ramp_end"),
        ("gibbs", {"structure": "2:4", "sparsity": 0.5, "coupling": 0.1}, "have no coupling"),
        ("targeted-dropout", {"rate": 0.0}, "rate must be"),
        ("targeted-dropout", {"ramp": 1.5}, "ramp must be"),
    ],
)
def test_options_out_of_range_are_refused(recipe: str, bad: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        recipes.find(recipe)(**bad)


def test_stopped_runs_end_like_whole_ones(tmp_path: Any) -> None:
    from tests.stopped import stopped_after

    for name, stop in (("targeted-dropout", 1), ("movement", 2)):
        options = {"pretrain": 1} if name == "movement" else {"ramp": 1.0}
        recipe = recipes.find(name)(epochs=3, batch_size=ONE, sparsity=0.5, **options)
        runs = {"dense": False, "progress": False}
        whole = ps.compress(dense(), (X, Y), recipe, **runs)
        with stopped_after(stop):
            ps.compress(dense(), (X, Y), recipe, folder=tmp_path / name, **runs)
        resumed = ps.compress(dense(), (X, Y), recipe, folder=tmp_path / name, **runs)
        for one, other in zip(resumed.net.parameters(), whole.net.parameters(), strict=True):
            assert torch.equal(one, other)
