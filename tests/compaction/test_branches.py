"""Forwards that choose by sizes: the compact network chooses as on the example, or says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compaction.branches import BRANCH
from pyrosparse.compaction.trace import TraceError, trace
from tests.compaction.cases import randomise, same


class Branching(nn.Module):
    """Between two convolutions something is done that asks for sizes."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.stride, self.between = 4, between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x).relu()))


def refused(net: nn.Module, x: Tensor) -> Tensor:
    if x.shape[2] % net.stride or x.shape[-1] % net.stride:
        raise ValueError("sides must be multiples of 4")
    return x


def asserted(_: nn.Module, x: Tensor) -> Tensor:
    _, c, h, w = x.shape
    assert c == 8, "eight channels"
    assert h >= 2, f"an image of height {h}"
    return x * (h / w)


def padded(net: nn.Module, x: Tensor) -> Tensor:
    missing = -x.size(2) % net.stride
    return F.pad(x, (0, 0, 0, missing)) if missing > 0 else x


def unpacked(_: nn.Module, x: Tensor) -> Tensor:
    _, _, *sides = x.shape
    half = [side // 2 for side in sides]
    first, second = (part.relu() for part in torch.chunk(x, 2, dim=1))
    return F.interpolate(torch.cat([second, first], 1), size=half)


def counted(_: nn.Module, x: Tensor) -> Tensor:
    if len(x.shape) == 3:
        x = x.unsqueeze(0)
    sizes = [*x.shape[:-2], -1]
    return x.reshape(sizes).reshape(x.size()) * len(x.size())


BETWEEN = {"refused": refused, "asserted": asserted, "unpacked": unpacked, "counted": counted}


def network(between: Callable[[nn.Module, Tensor], Tensor]) -> Branching:
    net = randomise(Branching(between)).eval()
    net.first.weight.data[::2] = 0
    net.first.bias.data[::2] = 0
    return net


def draw(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", BETWEEN)
def test_it_is_cut_and_right_at_other_sizes(name: str, tmp_path: Path) -> None:
    net = network(BETWEEN[name])
    small = ps.compact(net, None, draw(2, 3, 8, 8))
    assert small.first.out_channels == 4 and not small.account.barriers
    again = ps.load(ps.save(tmp_path / "a", small))
    twice = ps.compact(small, None, draw(2, 3, 8, 8))
    for size in ((2, 3, 8, 8), (1, 3, 12, 8), (3, 3, 4, 16)):
        x = draw(*size)
        for one in (small, again, twice):
            assert same(one(x), net(x))


def test_other_sizes_that_choose_otherwise_are_refused() -> None:
    """Where the network itself refuses them, the compact one does too."""
    net = network(refused)
    small = ps.compact(net, None, draw(2, 3, 8, 8))
    for one, error in ((net, ValueError), (small, AssertionError)):
        with pytest.raises(error):
            one(draw(2, 3, 6, 8))
    with pytest.raises(AssertionError, match="chooses other operations"):
        small(draw(2, 3, 6, 8))


def test_where_other_sizes_are_welcome_the_network_keeps_its_class() -> None:
    """It pads what needs it: the graph of one example would be that of some sizes alone."""
    net = network(padded)
    small = ps.compact(net, None, draw(2, 3, 8, 8))
    assert type(small) is Branching
    for side in (8, 7, 5):
        x = draw(2, 3, side, 8)
        assert same(small(x), net(x))


@pytest.mark.parametrize(
    "condition",
    [
        lambda x: x.sum() > 0,
        lambda x: x.unique().numel() > 3,
        lambda x: x[x > 0].shape[0] > 3,
        lambda x: len(x.nonzero()) > 3,
        lambda x: bool(x.max()),
        lambda x: x.dtype == torch.float32,
    ],
)
def test_what_depends_on_values_is_not_traced(condition: Callable[[Tensor], bool]) -> None:
    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if condition(x) else -x

    x = torch.ones(4, 3)
    with pytest.raises(TraceError):
        trace(Choosing(), 1, (x,))


def test_conditions_are_decided_once_and_asserted() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
            self.drop = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = self.drop(layer(x))
                if x.dim() == 3 or x.shape[0] > 100:
                    x = x.mean(0)
            return x

    net = Deep().eval()
    state = torch.get_rng_state()
    graph = trace(net, 1, (torch.ones(5, 3),))
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(BRANCH in node.args for node in graph.nodes) == 6
    with pytest.raises(TraceError):
        trace(net)


def test_a_masked_autoencoder_of_pyros_is_cut() -> None:
    torch.manual_seed(0)
    net = AutoRegressiveNN(4, [16, 16], [1, 1]).double().eval()
    x = draw(5, 4)
    masks = {f"layers.{n}.weight": torch.arange(16)[:, None] % 2 == 0 for n in range(2)}
    masks = {name: mask.expand_as(net.get_parameter(name)) for name, mask in masks.items()}
    small = ps.compact(net, masks, x)
    for layer in (net.layers[0], net.layers[1]):
        layer.weight.data[1::2] = 0
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(
        p.numel() for p in net.parameters()
    )
    assert all(same(*pair) for pair in zip(small(x), net(x), strict=True))


def test_sizes_of_sizes_are_followed_once() -> None:
    """Each slice has a size of the one before: to follow every path would never end."""

    class Slices(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(60):
                x = x[: x.shape[0], : x.shape[1]]
            return x if x.shape[0] > 1 else -x

    graph = trace(Slices(), 1, (torch.ones(4, 3),))
    assert sum(BRANCH in node.args for node in graph.nodes) == 1
