"""Residual streams: features that every writer leaves at zero go, through norms and shortcuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from tests.compaction.cases import randomise, same

WIDTH, DEAD = 12, [1, 4, 5, 9]


def draw(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).double()


class Layer(nn.Module):
    """A layer of a transformer, normalised before attention and feed-forward network."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.before, self.behind = norm(), norm()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.before(x)).chunk(3, -1)
        q, k, v = (y.view(n, t, 3, d // 3).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(self.behind(x))))


class Transformer(nn.Module):
    """Tokens, or patches of an image, with a class token and positions."""

    def __init__(self, norm: Any, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, 5, WIDTH))
        self.layers = nn.Sequential(Layer(norm), Layer(norm))
        self.norm, self.head = norm(), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = self.norm(self.layers(x))
        return self.head(x[:, 0] if self.pool == "token" else x.mean(1))


class Words(nn.Module):
    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, WIDTH, padding_idx=0)
        self.layer, self.norm, self.head = Layer(norm), norm(), nn.Linear(WIDTH, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(self.embed(ids))))


NORMS = {
    "layer": lambda: nn.LayerNorm(WIDTH),
    "layer without bias": lambda: nn.LayerNorm(WIDTH, bias=False),
    "layer without scale": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    "root of the mean square": lambda: nn.RMSNorm(WIDTH, eps=1e-5),
}


def silenced(net: nn.Module) -> nn.Module:
    """Random numbers, and zeros in the features of all that writes to the stream."""
    randomise(net).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith(("patches", "layers.0.out", "layers.1.out", "layer.out")) or (
                ".down." in name
            ):
                parameter[DEAD] = 0
            elif name.startswith(("token", "positions", "embed")):
                parameter.normal_(0, 1, generator=torch.Generator().manual_seed(len(name)))
                parameter[..., DEAD] = 0
    return net


@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("norm", NORMS)
def test_features_that_nothing_writes_go(norm: str, pool: str, tmp_path: Path) -> None:
    net = silenced(Transformer(NORMS[norm], pool))
    small = ps.compact(net, None, draw(2, 3, 8, 8))
    assert not small.account.barriers
    left = WIDTH - len(DEAD)
    layers = [small.get_submodule(f"layers.{n}") for n in (0, 1)]
    assert small.patches.out_channels == layers[1].down.out_features == left
    assert small.token.shape[2] == small.positions.shape[2] == left
    # Behind a layer norm what was zero is one feature more, for mean and variance.
    more = not norm.startswith("root")
    readers = [layer.in_features for one in layers for layer in (one.qkv, one.up)]
    assert {*readers, small.head.in_features} == {left + more}
    for size in ((2, 3, 8, 8), (5, 3, 8, 8), (1, 3, 8, 8)):
        x = draw(*size)
        assert same(small(x), net(x))
    again = ps.load(ps.save(tmp_path / "a", small))
    assert torch.equal(again(x), small(x))


@pytest.mark.parametrize("norm", NORMS)
def test_embeddings_are_cut(norm: str) -> None:
    net = silenced(Words(NORMS[norm]))
    ids = torch.randint(20, (3, 6))
    small = ps.compact(net, None, ids)
    assert small.embed.embedding_dim == WIDTH - len(DEAD)
    assert small.embed.padding_idx == 0
    for size in ((3, 6), (2, 9), (1, 1)):
        ids = torch.randint(20, size)
        assert same(small(ids), net(ids))


@pytest.mark.parametrize("round_to", [1, 4])
def test_a_constant_that_is_not_zero(round_to: int) -> None:
    """Two different constants, and features that one layer alone reads."""
    net = nn.Sequential(nn.Linear(4, 10), nn.LayerNorm(10), nn.Linear(10, 3))
    randomise(net).eval()
    net[0].weight.data[[0, 2, 5, 7]] = 0
    net[0].bias.data[[0, 2, 5]] = 0.7
    net[2].weight.data[:, 5] = 0
    x = draw(6, 4)
    small = ps.compact(net, None, x, round_to=round_to)
    assert small.get_submodule("0").out_features == 6
    # The six that vary, one for 0 and 2, and 7.
    assert small.get_submodule("2").in_features == 8
    assert same(small(x), net(x)) and same(small(9 * x), net(9 * x))


def test_where_something_else_reads_them_they_are_made() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.first(x))
            return self.last(y) + y.softmax(-1)[:, :3] + torch.relu(y)[:, 4:7]

    net = randomise(Several()).eval()
    net.first.weight.data[::2] = 0
    net.first.bias.data[::2] = 0
    x = draw(5, 4)
    small = ps.compact(net, None, x)
    assert small.first.out_features == 4 and small.last.in_features == 5
    assert same(small(x), net(x))


class Read(nn.Module):
    def __init__(self, *last: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Sequential(*last)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).transpose(1, 2))


@pytest.mark.parametrize(
    ("last", "inputs"),
    [
        ([nn.Conv1d(8, 3, 3)], 5),
        ([nn.Conv1d(8, 3, 3, padding=1)], 8),
        ([nn.MaxPool1d(2), nn.Conv1d(8, 3, 1)], 8),
        ([nn.ReLU(), nn.Conv1d(8, 3, 1)], 8),
    ],
)
def test_maxima_and_padding_need_each_of_them(last: list[nn.Module], inputs: int) -> None:
    """Multiples may have other signs, and are not zero beyond the border."""
    net = randomise(Read(*last)).eval()
    net.norm.weight.data.copy_(torch.linspace(-1, 1, 8))
    net.first.weight.data[::2] = 0
    net.first.bias.data[::2] = 0
    x = draw(5, 6, 4)
    small = ps.compact(net, None, x)
    assert small.first.out_features == 4
    assert small.get_submodule(f"last.{len(last) - 1}").in_channels == inputs
    assert same(small(x), net(x))


def test_masks_of_weights_do_so_too() -> None:
    net = randomise(Words(NORMS["layer"])).eval()
    rows = torch.ones(WIDTH, 1)
    rows[DEAD] = 0
    masks = {
        "embed.weight": rows.T.expand(20, WIDTH),
        "layer.out.weight": rows.expand(WIDTH, WIDTH),
        "layer.out.bias": rows[:, 0],
        "layer.down.weight": rows.expand(WIDTH, 20),
        "layer.down.bias": rows[:, 0],
    }
    ids = torch.randint(20, (3, 6))
    small = ps.compact(net, masks, ids)
    assert small.embed.embedding_dim == WIDTH - len(DEAD)
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    assert same(small(ids), net(ids))
