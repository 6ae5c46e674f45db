"""Operations that are given as a pattern of axes, against einops and torch themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import pyrosparse as ps
from pyrosparse.compaction.patterns import product, rearranged
from tests.compaction.cases import randomise, same

einops = pytest.importorskip("einops", reason="needs einops")
layers = pytest.importorskip("einops.layers.torch", reason="needs einops")

PATTERNS: list[tuple[str, tuple[int, ...], dict[str, int]]] = [
    ("b n (h d) -> b h n d", (2, 3, 8), {"h": 2}),
    ("b n (h d) -> b h n d", (2, 3, 8), {"d": 2}),
    ("b h n d -> b n (h d)", (2, 4, 3, 5), {}),
    ("b (qkv h d) n -> qkv b h n d", (2, 12, 5), {"qkv": 3, "h": 2}),
    ("b c (h p) (w q) -> b (h w) (p q c)", (2, 3, 4, 6), {"p": 2, "q": 3}),
    ("b (h w) c -> b c h w", (2, 12, 3), {"h": 4}),
    ("... c h w -> ... (h w) c", (2, 5, 3, 4, 2), {}),
    ("b ... -> ... b", (2, 3, 4), {}),
    ("1 n d -> n d", (1, 3, 4), {}),
    ("n d -> n 1 d 1", (3, 4), {}),
    ("(b 1) d -> b d", (3, 4), {}),
    ("a b -> b a", (3, 4), {}),
    ("a b -> a b", (3, 4), {}),
]
REPEATS: list[tuple[str, tuple[int, ...], dict[str, int]]] = [
    ("1 n d -> b n d", (1, 3, 4), {"b": 5}),
    ("... d -> b ... d", (3, 4), {"b": 5}),
    ("n d -> n (r d)", (3, 4), {"r": 2}),
    ("n d -> d b n", (3, 4), {"b": 2}),
]
NOT_KNOWN = ["a b -> a", "a a -> a", "a b -> a c", "a b", "(a b) c -> a b c", "a () -> a"]


@pytest.mark.parametrize(("pattern", "shape", "sizes"), PATTERNS + REPEATS)
def test_patterns_are_those_of_einops(
    pattern: str, shape: tuple[int, ...], sizes: dict[str, int]
) -> None:
    x = torch.randn(shape)
    function = einops.rearrange if (pattern, shape, sizes) in PATTERNS else einops.repeat
    graph = fx.Graph()
    graph.output(rearranged(graph, graph.placeholder("x"), pattern, sizes, len(shape)))
    found = fx.GraphModule({}, graph)(x)
    assert torch.equal(found, function(x, pattern, **sizes))


@pytest.mark.parametrize("pattern", NOT_KNOWN)
def test_other_patterns_stay(pattern: str) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    if "->" in pattern:
        assert rearranged(graph, x, pattern, {}, 2) is None
    assert [node.op for node in graph.nodes] == ["placeholder"]


@pytest.mark.parametrize(
    "equation",
    ["bhid,bhjd->bhij", "bhij,bhjd->bhid", "bihd,bjhd->bhij", "bij,bjd->bdi", "hbid,bhdj->bjhi"],
)
def test_products_are_those_of_einsum(equation: str) -> None:
    sizes = {"b": 2, "h": 3, "i": 4, "j": 5, "d": 6}
    inputs, result = equation.split("->")
    first, second = inputs.split(",")
    a, b = (torch.randn([sizes[axis] for axis in side]).double() for side in (first, second))
    graph = fx.Graph()
    nodes = [graph.placeholder("a"), graph.placeholder("b")]
    graph.output(product(graph, nodes, (first, second), result))
    torch.testing.assert_close(fx.GraphModule({}, graph)(a, b), torch.einsum(equation, a, b))


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [("ij", "jk", "ik"), ("bi", "bi", "b"), ("bij", "bij", "b"), ("bii", "bij", "bj")],
)
def test_other_sums_stay(first: str, second: str, result: str) -> None:
    graph = fx.Graph()
    nodes = [graph.placeholder("a"), graph.placeholder("b")]
    assert product(graph, nodes, (first, second), result) is None
    assert len(graph.nodes) == 2


class Attention(nn.Module):
    """Attention as vit-pytorch and others write it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.qkv, self.out = way, nn.Linear(12, 36), nn.Linear(12, 12)
        self.token = nn.Parameter(torch.randn(1, 12))
        self.split = layers.Rearrange("b n (s h d) -> s b h n d", s=3, h=3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([einops.repeat(self.token, "... d -> b ... d", b=x.shape[0]), x], 1)
        if self.way == "layer":
            q, k, v = self.split(self.qkv(x))
        else:
            parts = self.qkv(x).chunk(3, dim=-1)
            q, k, v = (einops.rearrange(part, "b n (h d) -> b h n d", h=3) for part in parts)
        scores: Any = (
            einops.einsum(q, k, "b h i d, b h j d -> b h i j")
            if self.way == "einops"
            else torch.einsum("b h i d, b h j d -> b h i j", q, k)
        )
        y = torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)
        return self.out(einops.rearrange(y, "b h n d -> b n (h d)"))


@pytest.mark.parametrize("way", ["layer", "function", "einops"])
def test_heads_are_cut_out_of_patterns(way: str, tmp_path: Path) -> None:
    net = randomise(nn.Sequential(nn.Linear(5, 12), Attention(way), nn.Linear(12, 2))).eval()
    net[1].token.data = torch.randn(1, 12).double()
    net[1].out.weight.data[:, 4:8] = 0
    x = torch.randn(2, 7, 5).double()
    small = ps.compact(net, None, x)
    assert not small.account.barriers
    attention = small.get_submodule("1")
    assert attention.qkv.out_features == 24 and attention.out.in_features == 8
    again = ps.load(ps.save(tmp_path / "a", small))
    for size in ((2, 7, 5), (3, 4, 5), (1, 1, 5)):
        x = torch.randn(size).double()
        assert same(small(x), net(x)) and torch.equal(again(x), small(x))
