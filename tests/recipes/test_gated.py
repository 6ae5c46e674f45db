"""Where recipes put gates: on all layers, or on the heads and neurons of a transformer."""

from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.recipes.gated import targets_on
from tests.transformer_nets import case

HEADS = ["encoder.layers.0.self_attn.out_proj.heads", "encoder.layers.1.self_attn.out_proj.heads"]
FFN = ["encoder.layers.0.linear2.input", "encoder.layers.1.linear2.input"]
GATED = [
    recipes.BetaBernoulli,
    recipes.StructuredBayesianPruning,
    recipes.HardConcrete,
    recipes.GeneralizedDropout,
    recipes.InformationBottleneck,
    recipes.GroupVariationalDropout,
    recipes.GroupHorseshoe,
    recipes.SpikeAndSlab,
    recipes.Polarization,
]
SHORT: dict[str, Any] = {"epochs": 1, "pretrain": 0, "batch_size": 6, "fine_tune": 0}


def data() -> tuple[torch.Tensor, ...]:
    x = torch.randn(12, 5, 8, generator=torch.Generator().manual_seed(0)).double()
    return x, torch.arange(12) % 3


def gates_of(result: Any) -> list[str]:
    return [t.key for t in result.posterior.targets if t.kind != "weight"]


@pytest.mark.filterwarnings("ignore:the default targets leave out")
@pytest.mark.parametrize(
    ("on", "keys"), [("heads", HEADS), ("ffn", FFN), ("heads+ffn", HEADS + FFN)]
)
def test_gates_of_heads_and_neurons_act_and_are_folded(on: str, keys: list[str]) -> None:
    net = case("encoder").net
    recipe = recipes.InformationBottleneck(**SHORT, on=on)
    result = ps.compress(net, data(), recipe, progress=False)
    assert sorted(gates_of(result)) == sorted(keys)
    assert set(result.compaction.units) == set(keys)
    masks = result.posterior.masks()
    assert masks[keys[0]].shape == ((4,) if "heads" in on else (12,))
    x = data()[0]
    with torch.no_grad():
        expected = result.posterior.eval().mean_forward(x)
        assert torch.allclose(result.small.eval()(x), expected, atol=1e-12)


@pytest.mark.filterwarnings("ignore:the default targets leave out")
@pytest.mark.parametrize("recipe", GATED, ids=lambda one: one.name)
def test_every_recipe_of_gates_takes_them(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = dict(SHORT, structure="unit") if recipe is recipes.SpikeAndSlab else SHORT
    seen = []

    def stop(_: Any, bnn: Any, **__: Any) -> None:
        seen.extend(target.key for target in bnn.targets if target.kind != "weight")
        raise StopIteration

    monkeypatch.setattr(recipes.Job, "fit", stop)
    with pytest.raises(StopIteration):
        ps.compress(case("encoder").net, data(), recipe(**options, on="heads+ffn"), progress=False)
    assert sorted(seen) == sorted(HEADS + FFN)


def test_the_price_of_a_head_is_that_of_its_weights() -> None:
    method = recipes.HardConcrete(cost=0.5, on="heads+ffn").method(case("encoder").net)
    assert method.cost == {**dict.fromkeys(HEADS, 0.5 * 16), **dict.fromkeys(FFN, 0.5 * 8)}


def test_what_has_no_such_gates_is_refused() -> None:
    with pytest.raises(ValueError, match="no attention of a supported kind"):
        targets_on(nn.Linear(2, 2), "heads")
    with pytest.raises(ValueError, match="on must be 'gates' or 'heads'"):
        recipes.BetaBernoulli(on="neurons")
    with pytest.raises(ValueError, match="choose on='ffn', or beta-bernoulli"):
        recipes.DependentBetaBernoulli(on="heads+ffn")
    with pytest.raises(ValueError, match="set structure='unit'"):
        recipes.SpikeAndSlab(on="ffn")


def test_concrete_dropout_names_what_it_cannot_take() -> None:
    net = case("gpt2").net
    with pytest.raises(ValueError, match=r"has the inputs first.*the recipe generalized-dropout"):
        ps.lift(net, ps.ConcreteDropout())
    mixed = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.ConvTranspose1d(1, 1, 1), nn.Linear(6, 3))
    mixed = nn.Sequential(mixed, nn.Flatten())
    x, y = torch.randn(12, 6), torch.arange(12) % 3
    with pytest.warns(UserWarning, match=r"concrete-dropout learns no rates for 0.1.weight"):
        result = ps.compress(mixed, (x, y), recipes.ConcreteDropout(**SHORT), progress=False)
    assert [target.key for target in result.posterior.targets] == ["0.2.weight"]
