"""Functions with parameters: dense layers and normalisations that are written as such."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from tests.compaction.cases import gains, randomise, run_masked, same
from tests.compaction.test_in_place import draw


class Dense(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class NormAct(nn.BatchNorm2d):
    """A normalisation with an activation in it, as timm's."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, "images")
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
            self.momentum, self.eps,
        )  # fmt: skip
        return self.act(x)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm, nn.RMSNorm])
def test_dense_layers_and_norms(norm: type[nn.Module]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = Dense(4, 8), norm(8)
            self.second, self.last = Dense(8, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.norm(self.first(x))).relu())

    net = randomise(Net()).eval()
    net.norm.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    net.first.weight.data[:3], net.first.bias.data[:2] = 0, 0
    net.second.weight.data[:, 2:5], net.second.weight.data[:2] = 0, 0
    x = draw(5, 4)
    small = ps.compact(net, None, x)
    assert not small.account.barriers and small.second.out_features == 4
    # What is zero goes before the root of the mean square; before a layer norm, a constant of which
    # nothing reads the result.
    assert small.first.out_features == (7 if norm is LayerNorm else 6)
    assert same(small(x), net(x)) and same(small(10 * x), net(10 * x))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_norm_with_an_activation_in_it(seed: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), NormAct(8), nn.Conv2d(8, 6, 1), NormAct(6), nn.Flatten(),
        nn.Linear(6 * 9, 4),
    )  # fmt: skip
    randomise(net, seed).eval()
    net[1].weight.data[:2], net[2].weight.data[:, 4:6] = 0, 0
    x = draw(2, 3, 5, 5)
    small = ps.compact(net, None, x)
    assert isinstance(small, ps.compaction.CompactNet)
    assert small.get_submodule("0").out_channels == 4 and not small.account.barriers
    masks = gains(net, 0.5, seed, "input")
    assert same(ps.compact(net, masks, x)(x), run_masked(net, masks, x))


def test_weights_that_are_read_twice_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner = nn.Linear(4, 6, bias=False), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.inner(self.embed(x)), self.embed.weight.T)

    net = randomise(Tied()).eval()
    net.inner.weight.data[:2] = 0
    x = draw(3, 4)
    assert same(ps.compact(net, None, x)(x), net(x))


def test_a_norm_of_timms_is_one() -> None:
    layers = pytest.importorskip("timm.layers", reason="timm's normalisations")
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), layers.BatchNormAct2d(8), nn.Flatten(2), nn.Linear(16, 8),
        layers.LayerNorm(8), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2),
    )  # fmt: skip
    randomise(net).eval()
    net[5].weight.data[1:3] = 0
    x = draw(2, 3, 4, 4)
    small = ps.compact(net, None, x)
    assert small.get_submodule("7").in_features == 2 and not small.account.barriers
    assert same(small(x), net(x))
