"""Compaction of attention: whatever the masks, what is left computes the same."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compaction.cut import cut
from tests.compaction.attention_nets import (
    PARTS,
    PRODUCTS,
    Block,
    Fused,
    Heads,
    compacted,
    draw,
    rows,
    widths,
)
from tests.compaction.cases import gains, randomise, run_masked, same, structured


@pytest.mark.parametrize("heads, values", [(4, None), (4, 2), (12, None), (1, None)])
@pytest.mark.parametrize("product", PRODUCTS)
def test_independent_masks_on_every_projection(product, heads, values) -> None:
    """Rows and columns of each layer at random, and single weights; no two layers agree."""
    for seed, split in enumerate(("view", "unflatten", "width", "batch")):
        # Each way to split meets biases and none, and each way to merge, at some product.
        turn = seed + PRODUCTS.index(product)
        bias, merge = turn % 2 == 0, ("reshape", "view", "flatten")[turn % 3]
        options = {"bias": bias, "product": product, "merge": merge, "split": split}
        net = randomise(Heads(12, heads, values=values, **options), seed).eval()
        small = compacted(net, structured(net, 0.6, seed), draw(2, 5, 12), at_least=1)
        assert not small.account.barriers
        if seed < 2:
            for kind in ("input", "output"):
                compacted(net, gains(net, 0.6, seed, kind), draw(2, 5, 12), at_least=1)


@pytest.mark.parametrize("heads", [4, 12, 1])
@pytest.mark.parametrize("parts", PARTS)
def test_one_projection_for_all_three(parts, heads) -> None:
    for seed in range(3):
        net = randomise(Fused(12, heads, parts=parts), seed).eval()
        small = compacted(net, structured(net, 0.6, seed), draw(2, 5, 12), at_least=1)
        assert not small.account.barriers


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("attention", [Heads, Fused])
def test_in_a_residual_block_with_normalisation(attention, after) -> None:
    for seed in range(4):
        net = randomise(Block(attention(12, 4), after=after), seed).eval()
        small = compacted(net, structured(net, 0.6, seed), draw(2, 5, 5), at_least=1)
        assert not small.account.barriers
        masks = structured(net, 0.6, seed) | gains(net, 0.7, seed, "output")
        compacted(net, masks, draw(2, 5, 5), at_least=1)


def test_cross_attention_with_another_length_and_independent_masks() -> None:
    for seed, product in enumerate(("function", "written")):
        net = randomise(Heads(product=product), seed).eval()
        compacted(net, structured(net, 0.6, seed), draw(2, 5, 12), draw(2, 8, 12), at_least=1)
        small = compacted(net, {"out.weight": rows(12, 3, 4, 5).T}, draw(2, 5, 12), draw(2, 8, 12))
        assert widths(small) == [9, 9, 9]


def test_in_float32_and_compacted_again() -> None:
    net = Block(Heads())
    masks = structured(net, 0.6, 3)
    small = ps.compact(net, masks, draw(2, 5, 5).float(), at_least=1)
    again = ps.compact(small, None, draw(2, 5, 5).float(), at_least=1)
    x = draw(3, 9, 5).float()
    assert same(again.eval()(x), small.eval()(x), 1e-5)
    assert sum(p.numel() for p in again.parameters()) <= sum(p.numel() for p in small.parameters())
    net = randomise(Heads()).eval()
    small = compacted(net, {"out.weight": rows(12, 3, 4, 5).T}, draw(2, 5, 12))
    smaller = compacted(small, {"out.weight": rows(9, 6, 7, 8).T[:, :9]}, draw(2, 5, 12))
    assert widths(smaller) == [6, 6, 6]
    copied = copy.deepcopy(smaller)
    assert same(copied(draw(2, 5, 12)), smaller(draw(2, 5, 12)))


class Shared(Heads):
    """Keys and values are one tensor; or queries, too."""

    def __init__(self, all_three: bool) -> None:
        super().__init__()
        self.all_three = all_three

    def forward(self, x: Tensor) -> Tensor:
        k = self.divide(self.k(x))
        q = k if self.all_three else self.divide(self.q(x))
        y = F.scaled_dot_product_attention(q, k, k)
        return self.out(y.transpose(1, 2).flatten(2))


class Watched(Heads):
    """What is inside attention is read by others as well."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.divide(f(x)) for f in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        y = (weights @ v).transpose(1, 2).flatten(2)
        other = {"weights": weights, "q": q, "v": v.norm(dim=-1), "k": k[:, :, :, 0]}[self.what]
        return self.out(y) + other.mean()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Shared(False),
        lambda: Shared(True),
        *(lambda what=what: Watched(what) for what in ("weights", "q", "v", "k")),
    ],
)
def test_tensors_that_are_read_twice(build) -> None:
    for seed in range(4):
        net = randomise(build(), seed).eval()
        compacted(net, structured(net, 0.6, seed), draw(2, 5, 12), at_least=1)


def test_numbers_in_place_of_a_length_hold_for_the_example_alone() -> None:
    class Numbers(Heads):
        def forward(self, x: Tensor) -> Tensor:
            n, t, d = x.shape
            q, k, v = (f(x).view(n, self.heads, 4, -1) for f in (self.q, self.k, self.v))
            return self.out(F.scaled_dot_product_attention(q, k, v).reshape(n, t, d))

    net = randomise(Numbers()).eval()
    masks = {"v.weight": rows(12, 3, 4, 5), "v.bias": rows(12, 3, 4, 5)[:, 0]}
    small = ps.compact(net, masks, draw(2, 4, 12))
    assert same(small(draw(2, 8, 12)), run_masked(net, masks, draw(2, 8, 12)))


class Odd(Heads):
    """What looks like heads, and is not, or not in a form that is known."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.kind == "mixed":  # in the example T is the number of heads, but only there
            q, k, v = (y.view(n, self.heads, t, d // self.heads) for y in (q, k, v))
            return self.out(F.scaled_dot_product_attention(q, k, v).reshape(n, t, d))
        q, k, v = (y.view(n, t, self.heads, d // self.heads) for y in (q, k, v))
        if self.kind == "over heads":
            return self.out(F.scaled_dot_product_attention(q, k, v).flatten(2))
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if self.kind == "normalised":
            q, k = self.norm(q), self.norm(k)
        if self.kind == "rotated":
            q = torch.cat([-q[..., 1:], q[..., :1]], -1)
        if self.kind == "random":
            y = F.scaled_dot_product_attention(q, k, v, None, 1e-300)
        elif self.kind == "other softmax":
            y = (q @ k.transpose(-2, -1)).softmax(1) @ v
        elif self.kind == "softmax over queries":
            y = (q @ k.transpose(-2, -1)).softmax(-2) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        if self.kind == "wrong order":
            return self.out(y.transpose(2, 3).reshape(n, t, d))
        return self.out(y.transpose(1, 2).reshape(n, t, d))


@pytest.mark.parametrize(
    "kind",
    [
        "mixed", "over heads", "normalised", "rotated", "random", "other softmax",
        "softmax over queries", "wrong order",
    ],
)  # fmt: skip
def test_what_is_not_understood_stays_and_is_right(kind) -> None:
    for seed in range(4):
        net = randomise(Odd(kind), seed).eval()
        # As many positions in the example as there are heads.
        small = compacted(net, structured(net, 0.6, seed), draw(2, 4, 12), at_least=1)
        if kind != "softmax over queries":
            assert small.account.barriers


def test_softmax_over_queries_does_not_sum_to_one_over_keys() -> None:
    net = randomise(Odd("softmax over queries")).eval()
    small = compacted(net, {"v.weight": rows(12, 3, 4, 5)}, draw(2, 4, 12))
    assert widths(small) == [12, 12, 12]


def test_without_a_batch() -> None:
    class Unbatched(Heads):
        def forward(self, x: Tensor) -> Tensor:
            t = x.size(0)
            q, k, v = (
                f(x).view(t, self.heads, -1).transpose(0, 1) for f in (self.q, self.k, self.v)
            )
            y = F.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(0, 1).reshape(t, -1))

    net = randomise(Unbatched()).eval()
    masks = {"out.weight": rows(12, 3, 4, 5).T}
    small = ps.compact(net, masks, draw(5, 12))
    assert widths(small) == [9, 9, 9]
    assert same(small(draw(7, 12)), run_masked(net, masks, draw(7, 12)))


def test_torchs_own_attention_is_a_barrier_and_cut_in_place() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(12, 12)
            self.attention = nn.MultiheadAttention(12, 4, batch_first=True)
            self.head = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.head(self.attention(x, x, x)[0])

    net = randomise(Net()).eval()
    net.attention.out_proj.weight.data[:, :3] = 0
    # With whole heads left there is nothing to be gained behind it.
    whole = compacted(net, {"attention.out_proj.weight": rows(12)}, draw(2, 5, 12))
    assert isinstance(whole, Net) and whole.attention.num_heads == 3
    net.attention.out_proj.weight.data[:, :3] = 1
    small = compacted(net, {}, draw(2, 5, 12))
    assert "MultiheadAttention has no rule" in small.account.barriers.values()
    small = compacted(net, {"first.weight": rows(12, 1, 2)}, draw(2, 5, 12))
    assert small.first.out_features == 10  # constants go into the biases of queries, keys, values


@pytest.mark.parametrize("number, product", list(enumerate(PRODUCTS)))
def test_saved_and_loaded_and_cut_in_training(number, product, tmp_path) -> None:
    for attention in (Heads(product=product), Fused(parts=PARTS[number])):
        net = randomise(Block(attention, after=bool(number % 2)), number).eval()
        masks = structured(net, 0.6, number)
        small = ps.compact(net, masks, draw(1, 5, 5), at_least=1)
        ps.save(tmp_path / "small.safetensors", small)
        again = ps.load(tmp_path / "small.safetensors")
        assert torch.equal(again(draw(3, 9, 5)), small(draw(3, 9, 5)))

        keep = torch.ones(12).double().index_fill(0, torch.tensor([3, 4, 5, 7]), 0)
        found = cut(net, {"attention.out.input": keep}, (draw(1, 5, 5),))
        expected = run_masked(net, {"attention.out.input": keep}, draw(3, 9, 5))
        masked = {name: p.detach().clone() for name, p in net.named_parameters()}
        masked["attention.out.weight"] *= keep
        for name, p in found.net.named_parameters():
            p.data = masked[name].flatten()[found.positions[name]]
        for module in found.net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        assert found.net.get_submodule("attention.out").in_features == 8
        assert same(found.net.train()(draw(3, 9, 5)), expected)


def test_a_mask_of_numbers_in_a_buffer_has_no_features() -> None:
    """Its first column is zero, as every position sees the first."""

    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
            mask = torch.full((1, 1, 9, 9), -torch.inf).triu(1)
            self.register_buffer("mask", mask)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, t, d = x.shape
            q, k, v = self.qkv(x).chunk(3, -1)
            q, k, v = (y.view(n, t, 3, d // 3).transpose(1, 2) for y in (q, k, v))
            scores = q @ k.transpose(-2, -1) + self.mask[:, :, :t, :t]
            return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d))

    net = Causal().double().eval()
    net.out.weight.data[:, 4:8] = 0
    x = torch.randn(2, 9, 12).double()
    small = ps.compact(net, None, x)
    assert not small.account.barriers and small.qkv.out_features == 24
    for length in (9, 5, 1):
        x = torch.randn(2, length, 12).double()
        torch.testing.assert_close(small(x), net(x), rtol=1e-10, atol=1e-12)
