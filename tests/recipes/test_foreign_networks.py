"""Networks and data that ``compress`` cannot take as they are: refused by name before training."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import pyrosparse as ps

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def compress(net: nn.Module, data: Any = (X, Y), **options: Any) -> Any:
    recipe = options.pop("recipe", None) or ps.recipes.Magnitude(epochs=1)
    return ps.compress(net, data, recipe, progress=False, **options)


class Two(nn.Module):
    """Two layers in use and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused, self.last = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


class Unused(nn.Module):
    """A layer that the forward pass never uses, and one that it uses past its call."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.past = nn.Linear(8, 8)
        self.unused = nn.Linear(8, 5)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x))
        return self.last(F.relu(F.linear(hidden, self.past.weight, self.past.bias)))


def test_layers_that_nothing_uses_are_named() -> None:
    with pytest.warns(UserWarning, match=r"depend on unused.weight, unused.bias for these data"):
        compress(Unused())


def test_gates_that_nothing_uses_do_not_stop_the_training() -> None:
    bnn = ps.lift(Two(), ps.BetaBernoulli())
    with pytest.raises(ValueError, match=r"cannot cut unused\.input"):
        ps.fit(ps.classifier(bnn, 40), bnn.guide, (X, Y), epochs=1, compact_every=1, progress=False)
    recipe = ps.recipes.BetaBernoulli(epochs=1, pretrain=1)
    with pytest.warns(UserWarning, match="unused.weight"):
        result = compress(Two(), recipe=recipe)
    assert result.small is not None


def test_networks_that_cannot_be_copied_say_what_to_do() -> None:
    net = mlp()
    prune.l1_unstructured(net[0], "weight", 0.5)
    with pytest.raises(
        ValueError, match=r"because 0\.weight are computed in every call .* prune\.remove"
    ):
        compress(net)
    prune.remove(net[0], "weight")
    assert compress(net).small is not None


@pytest.mark.filterwarnings(
    "ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning"
)
def test_programs_of_torch_jit_are_refused() -> None:
    program = torch.jit.trace(mlp(), X[:2])
    with pytest.raises(ValueError, match=r"torch\.jit"):
        compress(program)
    with pytest.raises(TypeError, match=r"torch\.jit"):
        ps.lift(program, ps.Gaussian())


def test_what_does_not_run_says_what_was_given() -> None:
    with pytest.raises(ValueError, match=r"they are float32 \(2, 6\), and its parameters float64"):
        compress(mlp().double())
    with pytest.raises(ValueError, match=r"they are uint8 \(2, 6\)"):
        compress(mlp(), (X.to(torch.uint8), Y))


def test_lazy_layers_get_their_shapes() -> None:
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    result = compress(lazy)
    assert result.net[0].weight.shape == (8, 6)
    assert isinstance(lazy[0], nn.LazyLinear)  # the caller's stays as it is


def test_one_hot_targets_are_no_values() -> None:
    classes = F.one_hot(Y, 3).float()
    with pytest.raises(ValueError, match=r"one-hot, \(3,\): give the classes, y\.argmax\(1\)"):
        compress(mlp(), (X, classes))
    assert "rmse" in compress(mlp(), (X, classes), model=ps.regressor).quality


def test_turbo_refuses_weights_of_half_precision() -> None:
    with pytest.raises(ValueError, match=r"0\.weight is bfloat16"):
        ps.lift(mlp().bfloat16(), ps.GammaSpikeAndSlab())
