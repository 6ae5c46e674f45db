"""Which heads of attention go, and which features of heads."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrosparse.compaction.parts import Select
from pyrosparse.compaction.rules.regular import block, regular
from tests.compaction.attention_nets import (
    PARTS,
    PRODUCTS,
    Fused,
    Heads,
    compacted,
    draw,
    rows,
    widths,
)
from tests.compaction.cases import randomise, structured


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_head_that_nobody_reads_goes(product) -> None:
    net = randomise(Heads(product=product)).eval()
    small = compacted(net, {"out.weight": rows(12, 3, 4, 5).T}, draw(2, 5, 12))
    assert widths(small) == [9, 9, 9] and small.out.in_features == 9
    gate = (torch.arange(12) >= 9).double() * 0.7  # all heads but one
    small = compacted(net, {"out.input": gate}, draw(2, 5, 12))
    assert widths(small) == [3, 3, 3] and small.out.in_features == 3
    assert small(draw(6, 2, 12)).shape == (6, 2, 12)


@pytest.mark.parametrize("parts", PARTS)
def test_a_head_of_a_fused_projection_goes(parts) -> None:
    net = randomise(Fused(parts=parts)).eval()
    small = compacted(net, {"out.weight": rows(12, 6, 7, 8).T}, draw(2, 5, 12))
    assert small.qkv.out_features == 27 and small.out.in_features == 9
    assert not any(isinstance(part, Select) for part in small.modules())  # nothing is copied


def test_values_that_are_constant_go_into_the_bias() -> None:
    """The weights of attention sum to 1: a head of constant values is those values."""
    for product in ("function", "causal", "written", "filled", "sized"):
        net = randomise(Heads(product=product)).eval()
        small = compacted(net, {"v.weight": rows(12, 3, 4, 5)}, draw(2, 5, 12))
        assert widths(small) == [9, 9, 9] and small.out.in_features == 9


def test_constant_values_stay_where_a_mask_may_hide_everything_from_a_row() -> None:
    for product in ("masked", "biased"):
        net = randomise(Heads(product=product)).eval()
        small = compacted(net, {"v.weight": rows(12, 3, 4, 5)}, draw(2, 5, 12))
        assert widths(small) == [12, 12, 12]
        masks = {"v.weight": rows(12, 3, 4, 5), "v.bias": rows(12, 3, 4, 5)[:, 0]}
        assert widths(compacted(net, masks, draw(2, 5, 12))) == [9, 9, 9]

    class Hidden(Heads):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (self.divide(f(x)) for f in (self.q, self.k, self.v))
            seen = (x.sum(2) > 0)[:, None, :, None].expand(-1, 1, -1, x.size(1))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            return self.out(y.transpose(1, 2).flatten(2))

    net = randomise(Hidden()).eval()
    compacted(net, {"v.weight": rows(12, 3, 4, 5)}, draw(2, 5, 12))


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", ["q", "k"])
def test_a_head_without_queries_or_keys_is_not_dead(layer, product) -> None:
    """It attends to all positions alike, and its values count."""
    net = randomise(Heads(product=product)).eval()
    zero = {f"{layer}.weight": rows(12, 3, 4, 5), f"{layer}.bias": rows(12, 3, 4, 5)[:, 0]}
    small = compacted(net, zero, draw(2, 5, 12))
    assert widths(small) == [12, 12, 12]
    # One feature less in every head; the scale stays that of three.
    dead = (0, 4, 8, 9)
    zero = {f"{layer}.weight": rows(12, *dead), f"{layer}.bias": rows(12, *dead)[:, 0]}
    small = compacted(net, zero, draw(2, 5, 12))
    assert widths(small) == [8, 8, 12]
    # All of it: one feature is left of queries and keys.
    zero = {f"{layer}.weight": torch.zeros(12, 12), f"{layer}.bias": torch.zeros(12)}
    small = compacted(net, zero, draw(2, 5, 12), at_least=1)
    assert widths(small) == [4, 4, 12]


def test_a_constant_key_adds_the_same_to_all_scores_but_a_constant_query_does_not() -> None:
    for layer, left in (("k", 8), ("q", 12)):
        net = randomise(Heads()).eval()
        small = compacted(net, {f"{layer}.weight": rows(12, 0, 4, 8, 9)}, draw(2, 5, 12))
        assert widths(small) == [left, left, 12]


def test_parts_of_heads_go_where_all_heads_keep_one_size_and_the_account_says_what_stays() -> None:
    net = randomise(Heads()).eval()
    small = compacted(net, {"out.weight": rows(12, 0, 5, 7, 8, 10).T}, draw(2, 5, 12))
    assert widths(small) == [12, 12, 8]
    notes = {layer.name: layer.note for layer in small.account.layers}
    assert notes["v"] == "1 outputs stay: all heads must have the same size" and not notes["q"]
    small = compacted(net, {"out.weight": rows(12, 0).T}, draw(2, 5, 12))
    assert widths(small) == [12, 12, 12]
    assert "1 outputs stay: all heads" in str(small.account)


class Taken(nn.Module):
    """Parts of one projection that are read independently of each other: heads of each its own."""

    def __init__(self, parts: str) -> None:
        super().__init__()
        self.parts, self.qkv, self.head = parts, nn.Linear(12, 36), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        y = self.qkv(x)
        if self.parts == "inside":
            parts = y.view(n, t, 4, 9).split([2, 3, 4], dim=-1)
        elif self.parts == "within":
            parts = y.view(n, t, 4, 3, 3).unbind(3)
        else:
            parts = y.view(n, t, 3, 4, 3).unbind(2)
        return self.head(torch.cat([parts[i].flatten(2) for i in (2, 0, 1)], -1))


@pytest.mark.parametrize("parts", ["inside", "within", "apart"])
def test_parts_that_keep_different_heads(parts) -> None:
    for seed in range(12):
        net = randomise(Taken(parts), seed).eval()
        density = (0.2, 0.5, 0.8)[seed % 3]
        small = compacted(net, structured(net, density, seed), draw(2, 5, 12), at_least=1)
        assert not small.account.barriers


@pytest.mark.parametrize("sizes", [(5,), (4, 3), (3, 4, 5), (2, 1, 3)])
def test_regular_masks(sizes) -> None:
    generator = torch.Generator().manual_seed(0)
    count = torch.Size(sizes).numel()
    for density in (0.05, 0.3, 0.8):
        for _ in range(20):
            mask = torch.rand(count, generator=generator) < density
            mask[torch.randint(count, (1,), generator=generator)] = True
            found = regular(mask, sizes)
            assert not (mask & ~found).any()
            # Of every part that is left as much is left, at every level.
            assert torch.Size(block(found, sizes)).numel() == int(found.sum())
            assert torch.equal(regular(found, sizes), found)
    assert regular(torch.ones(count).bool(), sizes).all()
