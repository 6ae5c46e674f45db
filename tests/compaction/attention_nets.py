"""Attention as people write it, and how the tests of its compaction check it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compaction import CompactNet
from tests.compaction.cases import run_masked, same

PRODUCTS = ("function", "causal", "masked", "biased", "written", "filled", "sized")
PARTS = ("chunk", "split", "sizes", "unbind", "index", "within", "inside")


class Heads(nn.Module):
    """Self- or cross-attention with separate projections, in many ways of writing it.

    product: "function", "causal", "masked" (a bool mask), "biased" (a number for each head),
             "written" (products and a softmax), "filled" (those, with a causal ``masked_fill``),
             "sized" (those, with the scale from the size of the keys).
    merge:   how the heads are put together again.
    """

    def __init__(
        self,
        width: int = 12,
        heads: int = 4,
        *,
        bias: bool = True,
        product: str = "function",
        merge: str = "reshape",
        values: int | None = None,
        split: str = "view",
    ) -> None:
        super().__init__()
        self.heads, self.product, self.merge, self.split = heads, product, merge, split
        self.size = width // heads
        inner = heads * (values or self.size)
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(width, width, bias=bias)
        self.v = nn.Linear(width, inner, bias=bias)
        self.out = nn.Linear(inner, width, bias=bias)
        self.drop = nn.Dropout(0.3)
        self.softmax = nn.Softmax(dim=-1)
        self.register_buffer("seen", torch.ones(64, 64).tril().bool())
        slopes = torch.linspace(0.5, 2, heads)[:, None, None]
        self.register_buffer("slopes", slopes)

    def divide(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        if self.split == "unflatten":
            return x.unflatten(-1, (self.heads, -1)).permute(0, 2, 1, 3)
        if self.split == "width":
            return x.view(n, t, self.heads, x.size(-1) // self.heads).transpose(1, 2)
        if self.split == "batch":
            return x.reshape(-1, t, self.heads, x.shape[2] // self.heads).transpose(1, 2)
        return x.view(n, t, self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        q, k, v = (self.divide(f(y)) for f, y in ((self.q, x), (self.k, memory), (self.v, memory)))
        t, s = x.size(1), memory.size(1)
        if self.product == "function":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.product == "causal":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.product == "masked":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.seen[:t, :s])
        elif self.product == "biased":
            y = F.scaled_dot_product_attention(q, k, v, self.slopes, 0.0, scale=0.3)
        else:
            if self.product == "sized":
                scores = q @ k.transpose(2, 3) * k.size(-1) ** -0.5
            else:
                scores = (q * self.size**-0.5) @ k.transpose(-2, -1)
            if self.product == "filled":
                scores = scores.masked_fill(~self.seen[:t, :s], float("-inf"))
                weights = F.softmax(scores, dim=-1)
            else:
                weights = self.softmax(scores / 1.1 + self.slopes)
            y = torch.matmul(self.drop(weights), v)
        y = y.transpose(1, 2)
        if self.merge == "flatten":
            y = y.flatten(2)
        elif self.merge == "view":
            y = y.contiguous().view(x.shape[0], t, -1)
        else:
            y = y.reshape(x.size(0), t, self.heads * (self.v.out_features // self.heads))
        return self.drop(self.out(y))


class Fused(nn.Module):
    """Self-attention with one projection for queries, keys and values.

    parts: how they are taken apart.
    """

    def __init__(self, width: int = 12, heads: int = 4, *, parts: str = "chunk") -> None:
        super().__init__()
        self.heads, self.parts = heads, parts
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        qkv = self.qkv(x)
        if self.parts in ("chunk", "split", "sizes"):
            if self.parts == "chunk":
                parts = qkv.chunk(3, dim=-1)
            elif self.parts == "split":
                parts = qkv.split(d, dim=2)
            else:
                parts = torch.split(qkv, [d, d, d], -1)
            q, k, v = (
                parts[i].view(n, t, self.heads, d // self.heads).transpose(1, 2) for i in range(3)
            )
        elif self.parts == "unbind":
            qkv = qkv.view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)
        elif self.parts == "index":
            qkv = qkv.reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
        elif self.parts == "within":  # a head has its queries, keys and values beside each other
            qkv = qkv.view(n, t, self.heads, 3, d // self.heads)
            q, k, v = (qkv[:, :, :, i].transpose(1, 2) for i in (0, 1, -1))
        else:
            qkv = qkv.view(n, t, self.heads, 3 * (d // self.heads)).transpose(1, 2)
            q, k, v = qkv.chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, t, d))


class Block(nn.Module):
    """A residual block with normalisation before or after, on inputs with positions added."""

    def __init__(self, attention: nn.Module, width: int = 12, after: bool = False) -> None:
        super().__init__()
        self.attention, self.after = attention, after
        self.embed = nn.Linear(5, width)
        self.places = nn.Parameter(torch.linspace(-1, 1, 64 * width).view(1, 64, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 20), nn.Linear(20, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.places[:, : x.size(1)]
        if self.after:
            x = self.norm1(x + self.attention(x))
            x = self.norm2(x + self.fc2(F.gelu(self.fc1(x))))
        else:
            x = x + self.attention(self.norm1(x))
            x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).double()


def compacted(net: nn.Module, masks: dict[str, Tensor], *x: Tensor, **options: int) -> CompactNet:
    """The compact network, checked on other batches and lengths than it was made with."""
    small = ps.compact(net, masks, x, **options)
    for batch, length in ((1, 1), (3, 9), (4, 4)):
        other = [draw(batch, length + n, one.shape[2]) for n, one in enumerate(x)]
        assert same(small(*other), run_masked(net, masks, *other))
    return small


def rows(count: int, *dead: int, columns: int = 12) -> Tensor:
    """A mask without some of the rows."""
    mask = torch.ones(count, columns)
    mask[list(dead)] = 0
    return mask


def widths(small: nn.Module) -> list[int]:
    """Of queries, keys and values."""
    return [small.get_submodule(name).out_features for name in ("q", "k", "v")]
