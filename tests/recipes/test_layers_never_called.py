"""Networks that read a layer's weights and do not call it, as torchvision's Swin does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.lifting.activation_noise import by_noise
from pyrosparse.lifting.watch import read_without_calls

torch.manual_seed(0)
X = torch.randn(60, 6)
Y = (X[:, 0] > 0).long()


class Attention(nn.Module):
    """A layer of which only the weights are used, as an argument of a function."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.proj.weight, self.proj.bias)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention, self.last = nn.Linear(6, 8), Attention(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.attention(torch.relu(self.first(x)))))


def test_what_is_read_without_a_call_is_found() -> None:
    names = ["first", "attention.proj", "last"]
    assert read_without_calls(Net(), names, (X[:1],)) == {"attention.proj"}


def test_an_attention_of_torch_calls_its_projection() -> None:
    """With gates, its output projection is called as a layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert not read_without_calls(layer, ["self_attn.out_proj"], (torch.randn(2, 3, 8),))


def test_noise_of_such_a_layer_is_drawn_at_its_weight() -> None:
    net = Net()
    at_activations, others = by_noise(net, ps.weights(net), (X[:1],))
    assert {one.key for one in at_activations} == {"first.weight", "last.weight"}
    assert {one.key for one in others} == {"attention.proj.weight"}


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.BetaBernoulli,
        recipes.HardConcrete,
        recipes.GroupVariationalDropout,
        recipes.InformationBottleneck,
        recipes.GroupHorseshoe,
        recipes.SpikeAndSlab,
    ],
)
def test_recipes_leave_its_gates_out_and_say_so(recipe: type[recipes.Recipe]) -> None:
    options = {"structure": "unit"} if recipe is recipes.SpikeAndSlab else {}
    lifted = []

    class Recorder(ps.infer.Callback):
        def on_start(self, run: Any) -> None:
            lifted.append(run.guide.lifted)

    with pytest.warns(UserWarning, match=r"no gates on attention\.proj: the network reads"):
        ps.compress(
            Net(), (X, Y), recipe(epochs=1, **options), test=(X, Y), dense=False, progress=False,
            callbacks=[Recorder()],
        )  # fmt: skip
    gated = {one.key for bnn in lifted for one in bnn.targets if one.kind != "weight"}
    assert gated and not any(key.startswith("attention") for key in gated)


def test_a_network_that_calls_no_layer_is_refused() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(6, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.one.weight.T

    recipe = recipes.BetaBernoulli(epochs=1)
    with (
        pytest.warns(UserWarning, match="no gates on one"),
        pytest.raises(ValueError, match="calls none of the layers that could have gates"),
    ):
        ps.compress(Functional(), (X, Y), recipe, test=(X, Y), dense=False, progress=False)


def test_a_dependent_gate_needs_more_than_one_row() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    first = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net))
    second = ps.lift(first.net, ps.DependentBetaBernoulli(first), first.targets)
    with pytest.raises(ValueError, match=r"gates of '0\.input' see one row"):
        second(X[:1])
