"""Weights that a network also uses outside their layer's call: gains stay out of them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.read_elsewhere import read_elsewhere


class Tied(nn.Module):
    """An autoencoder's weights, there and back."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 5)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        back = F.linear(F.relu(self.into(x)), self.into.weight.t())
        return self.last(F.relu(back))


class Branching(Tied):
    """One that torch.fx cannot trace, and that is cut in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() < 1e9 else x


def test_it_names_layers_that_are_called_and_read() -> None:
    x = torch.randn(2, 6)
    assert read_elsewhere(Tied(), (x,)) == {"into"}
    assert read_elsewhere(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), (x,)) == set()
    # Attention reads the weights of its last layer, which it never calls.
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    steps = torch.randn(2, 4, 6)
    assert read_elsewhere(attention, (steps, steps, steps)) == set()
    recurrent = nn.LSTM(6, 5)
    assert read_elsewhere(recurrent, (steps,)) == set()


@pytest.mark.parametrize("kind", [Tied, Branching])
def test_gains_act_at_the_call_alone(kind: type[Tied]) -> None:
    net, x, gain = kind().eval(), torch.randn(4, 6), torch.rand(6)
    hidden = F.relu(net.into(gain * x))
    expected = net.last(F.relu(F.linear(hidden, net.into.weight.t())))
    found = masked(net, {"into.input": gain}, unfolded=read_elsewhere(net, (x,)))
    assert torch.allclose(found(x), expected, atol=1e-6)
    small = ps.compact(net, {"into.input": gain}, x)
    assert torch.allclose(small(x), expected, atol=1e-6)


class Uncalled(nn.Module):
    """One whose first layer is never called, as timm's EVA does with its projections."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.linear(x, self.first.weight, torch.cat([self.first.bias])).relu())


@pytest.mark.parametrize("key", ["first.input", "first.output"])
def test_gates_on_a_layer_that_is_read_and_never_called_are_refused(key: str) -> None:
    net, x = Uncalled().eval(), torch.randn(4, 6)
    gain = torch.tensor([0.0, 1, 1, 1, 1, 1][: 6 if key == "first.input" else 5])
    with pytest.raises(ValueError, match=r"'first' have no effect.*Leave them out"):
        ps.compact(net, {key: gain, "last.input": torch.ones(5)}, x)
    # Masks of its weights act, and a layer that nothing uses has gates that do no harm.
    mask = torch.ones(5, 6)
    mask[:2] = 0
    small = ps.compact(net, {"first.weight": mask}, x)
    net.first.weight.data[:2] = 0
    assert torch.allclose(small(x), net(x), atol=1e-6)
    net.unused = nn.Linear(4, 2)
    small = ps.compact(net, {"unused.input": torch.zeros(4)}, x)
    assert torch.allclose(small(x), net(x), atol=1e-6)


@pytest.mark.parametrize("fine_tune", [0, 2])
def test_a_recipe_measures_what_it_trained(fine_tune: int) -> None:
    x = torch.randn(60, 6)
    data = x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    recipe = ps.recipes.BetaBernoulli(pretrain=1, epochs=15, kl_scale=20.0, fine_tune=fine_tune)
    result = ps.compress(Tied(), data, recipe, progress=False)
    assert result.small is not None
    expected = result.posterior.eval().mean_forward(x)
    assert torch.allclose(result.whole.eval()(x), expected, atol=1e-5)
    assert torch.allclose(result.small.eval()(x), expected, atol=1e-5)
