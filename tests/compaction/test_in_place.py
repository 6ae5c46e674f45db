"""Networks that are cut where they stand: which layers feed which, units, and putting back."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compaction.in_place.attention import MultiheadAttention, can_replace
from pyrosparse.compaction.in_place.called import Called
from pyrosparse.compaction.in_place.engine import cut_in_place
from pyrosparse.compaction.in_place.probe import observe, probe
from pyrosparse.compaction.in_place.units import clusters, divide
from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.reference import reference
from tests.compaction.cases import same


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def randomise(net: nn.Module) -> nn.Module:
    """Float64, without a number that is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
    return net.double().eval()


class Gated(nn.Module):
    """Two factors, and a branch on the data that torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.intermediate = 12
        self.gate, self.up = nn.Linear(6, 12), nn.Linear(6, 12)
        self.norm, self.down = nn.LayerNorm(6), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("not a number")
        return x + self.down(F.silu(self.gate(self.norm(x))) * self.up(x))


class Grouped(nn.Module):
    """Attention as Hugging Face writes it, with grouped queries, rotated and normalised."""

    def __init__(self, eager: bool) -> None:
        super().__init__()
        self.eager, self.head_dim = eager, 4
        self.num_heads, self.num_key_value_heads, self.num_key_value_groups = 6, 3, 2
        self.q, self.k, self.v = nn.Linear(8, 24), nn.Linear(8, 12), nn.Linear(8, 12)
        self.q_norm = nn.LayerNorm(4)
        self.o = nn.Linear(24, 8)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        angles = torch.arange(x.shape[1]).to(x)[:, None] / 7
        q, k = (
            y * angles.cos() + torch.cat([-y[..., 2:], y[..., :2]], -1) * angles.sin()
            for y in (self.q_norm(q), k)
        )
        if self.eager:
            k, v = (y.repeat_interleave(self.num_key_value_groups, 1) for y in (k, v))
            scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
            y = (scores if mask is None else scores + mask).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        assert y.shape[1] == self.num_heads
        if x.isnan().any():
            raise ValueError("not a number")
        return self.o(y.transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous())


def test_a_gated_pair_loses_what_nobody_reads_and_what_is_constant() -> None:
    net = randomise(Gated())
    net.down.weight.data[:, :4] = 0
    net.up.weight.data[4:6], net.up.bias.data[4:6] = 0, 0  # times zero is zero
    small = ps.compact(net, None, draw(2, 3, 6))
    assert type(small) is Gated and small.intermediate == 6
    assert small.gate.out_features == small.up.out_features == small.down.in_features == 6
    for x in (draw(1, 7, 6), draw(5, 1, 6)):
        assert same(small(x), net(x))
    assert "still Gated" in str(small.account)


def test_a_constant_goes_into_the_next_bias_and_stays_where_there_is_none() -> None:
    for bias in (True, False):
        torch.manual_seed(0)
        net = randomise(nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2, bias=bias)))
        net[0].weight.data[:2] = 0  # sigmoid(bias), for every input
        result = cut_in_place(masked(net), reference(net), (draw(4, 3),))
        assert result.net[0].out_features == (3 if bias else 5)
        assert same(result.net(draw(6, 3)), net(draw(6, 3)))


@pytest.mark.parametrize("eager", [False, True])
def test_a_group_goes_with_all_its_queries(eager: bool) -> None:
    net = randomise(Grouped(eager))
    net.o.weight.data[:, 8:16] = 0  # the two queries of the second group
    net.o.weight.data[:, :4] = 0  # one query of the first, which cannot go alone
    small = ps.compact(net, None, draw(2, 5, 8))
    assert (small.num_heads, small.num_key_value_heads, small.num_key_value_groups) == (4, 2, 2)
    assert (small.q.out_features, small.k.out_features, small.o.in_features) == (16, 8, 16)
    assert "inputs stay that nothing reads" in str(small.account)
    for x, mask in ((draw(1, 7, 8), None), (draw(3, 4, 8), draw(4, 4))):
        assert same(small(x, mask), net(x, mask))


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("groups", [3, 1])
def test_groups_lose_equally_many_queries(eager: bool, groups: int) -> None:
    net = Grouped(eager)
    net.k, net.v = nn.Linear(8, 4 * groups), nn.Linear(8, 4 * groups)
    net.num_key_value_heads, net.num_key_value_groups = groups, 6 // groups
    randomise(net)
    gone = [1, 2, 4] if groups == 3 else [0, 3]  # one of each group; of the only group two
    for head in gone:
        net.o.weight.data[:, 4 * head : 4 * head + 4] = 0
    if groups == 3:
        net.o.weight.data[:, 20:] = 0  # of the last group nothing is left
    small = ps.compact(net, None, draw(2, 5, 8))
    counts = (small.num_heads, small.num_key_value_heads, small.num_key_value_groups)
    assert counts == ((2, 2, 1) if groups == 3 else (4, 1, 4))
    assert small.k.out_features == 4 * counts[1] and small.q.out_features == 4 * counts[0]
    for x in (draw(1, 7, 8), draw(3, 4, 8)):
        assert same(small(x), net(x))


class Fixed(nn.Module):
    """The number of heads stands in the program."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("not a number")
        q, k, v = self.qkv(x).view(len(x), -1, 3, 4, 2).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(self.fc1(x).relu())


def test_what_does_not_run_without_a_unit_is_put_back_and_named() -> None:
    net = randomise(Fixed())
    net.out.weight.data[:, :2], net.fc2.weight.data[:, ::2] = 0, 0
    small = ps.compact(net, None, draw(2, 5, 8))
    assert (small.qkv.out_features, small.fc1.out_features) == (24, 5)
    assert small.account.barriers["out"].startswith("without them it fails")
    assert same(small(draw(3, 2, 8)), net(draw(3, 2, 8)))


class Scaled(Fixed):
    """Without a head it runs, and computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("not a number")
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, 2)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2)) * y.shape[1]


def test_what_computes_something_else_is_put_back() -> None:
    net = randomise(Scaled())
    net.out.weight.data[:, :2] = 0
    small = ps.compact(net, None, draw(2, 5, 8))
    assert small.qkv.out_features == 24
    assert "computes something else" in small.account.barriers["out"]


def test_an_empty_unit_is_refused_or_kept() -> None:
    net = randomise(Gated())
    net.down.weight.data[:] = 0
    with pytest.raises(ValueError, match=r"no inputs are left for 'down'.*at_least=1"):
        ps.compact(net, None, draw(2, 3, 6))
    small = ps.compact(net, None, draw(2, 3, 6), at_least=2)
    assert small.down.in_features == 2 and same(small(draw(2, 3, 6)), net(draw(2, 3, 6)))


def test_layers_of_kinds_that_are_not_cut_are_named() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = Doubled(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(int(x.isfinite().all())):  # torch.fx does not trace it
                x = self.first(x).relu()
            return self.last(x)

    net = Looping()
    net.first.weight.data[::2] = 0
    account = ps.compact(net, None, torch.ones(3, 4)).account
    assert account.barriers == {"first": "Doubled is of no kind that is cut where it stands"}


def test_blocks_that_meet_are_one() -> None:
    net = randomise(nn.Sequential(nn.Linear(3, 6), nn.Softmax(-1), nn.Linear(6, 2)))
    net[2].weight.data[:, :3] = 0
    x = draw(4, 3)
    found, constants = observe(net, lambda: net(x))
    recorded = probe(net, found, lambda: [net(x)])
    (cluster,) = clusters(net, recorded)
    assert cluster.producers == ("0",) and cluster.consumers == ("2",)
    assert divide(net, recorded, cluster, constants) is None
    result = cut_in_place(net, reference(net), (x,))
    assert "mixed" in result.barriers["2"]


def test_convolutions_with_what_is_between_them() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.PReLU(8),
        nn.Conv2d(8, 5, 1),
        nn.Flatten(),
        nn.Linear(5 * 36, 4),
    )
    randomise(net)
    net[1].running_mean.normal_(generator=torch.Generator().manual_seed(0))
    net[1].weight.data[:2] = 0  # constant, and of the second a constant is read
    net[5].weight.data[:, ::2] = 0
    net[7].weight.data.view(4, 5, 36)[:, 1] = 0
    x = draw(2, 3, 8, 8)
    result = cut_in_place(masked(net), reference(net), (x,))
    small = result.net
    assert (small[0].out_channels, small[1].num_features, small[3].groups) == (4, 4, 4)
    assert (small[5].out_channels, small[7].in_features) == (4, 4 * 36)
    assert not result.barriers and same(small(x), net(x))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_torchs_attention_with_layers(batch_first: bool, cross: bool) -> None:
    options = {"kdim": 5, "vdim": 7} if cross else {}
    theirs = randomise(nn.MultiheadAttention(6, 2, batch_first=batch_first, **options))
    ours = MultiheadAttention.of(theirs)
    assert can_replace(theirs)
    q, k, v = draw(3, 4, 6), draw(3, 4, 5 if cross else 6), draw(3, 4, 7 if cross else 6)
    batch, keys = (3, 4) if batch_first else (4, 3)
    padding = torch.zeros(batch, keys, dtype=torch.bool)
    padding[0, -1] = True
    queries = q.shape[1] if batch_first else q.shape[0]
    for given in (
        {},
        {"need_weights": False},
        {"key_padding_mask": padding, "average_attn_weights": False},
        {"attn_mask": draw(queries, keys), "key_padding_mask": padding.double() * -3},
        {"attn_mask": draw(2 * batch, queries, keys)},
        {"attn_mask": draw(queries, keys) > 1, "is_causal": True, "need_weights": False},
    ):
        expected, found = theirs(q, k, v, **given), ours(q, k, v, **given)
        assert same(found[0], expected[0])
        assert (found[1] is None) == (expected[1] is None)
        assert found[1] is None or same(found[1], expected[1])
    assert same(ours(q[0], k[0], v[0])[0], theirs(q[0], k[0], v[0])[0])


@pytest.mark.parametrize("nested", [False, True])
def test_an_encoder_of_torchs_keeps_its_class(nested: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
    net = randomise(nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested))
    net.layers[0].self_attn.out_proj.weight.data[:, 2:4] = 0
    net.layers[1].linear2.weight.data[:, ::3] = 0
    small = ps.compact(net, None, draw(2, 5, 8))
    assert type(small) is nn.TransformerEncoder
    assert small.layers[0].self_attn.num_heads == 3
    assert type(small.layers[1].self_attn) is nn.MultiheadAttention  # nothing went there
    assert small.layers[1].linear1.out_features == 8
    x, padding = draw(3, 4, 8), torch.tensor([[0, 0, 0, 1]] * 3).bool()
    with torch.no_grad():
        assert same(small(x), net(x))
        expected = net(x, src_key_padding_mask=padding)[:, :3]
        assert same(small(x, src_key_padding_mask=padding)[:, :3], expected)


def test_modes_types_copies_and_what_is_trained_stay() -> None:
    net = randomise(Gated()).float().train()
    net.norm.eval()
    net.up.weight.requires_grad_(False)
    net.down.weight.data[:, :4] = 0
    small = ps.compact(net, None, torch.randn(2, 3, 6))
    assert small.training and not small.norm.training
    assert not small.up.weight.requires_grad and small.gate.weight.requires_grad
    assert {p.dtype for p in small.parameters()} == {torch.float32}
    assert net.up.out_features == 12 and net.intermediate == 12
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert again.account.parameters == small.account.parameters
    small(torch.randn(2, 3, 6)).sum().backward()
    assert small.down.weight.grad is not None


def test_arguments_by_name() -> None:
    net = randomise(Grouped(True))
    net.o.weight.data[:, 16:] = 0
    small = ps.compact(net, None, {"x": draw(2, 5, 8), "mask": draw(5, 5)})
    assert small.num_heads == 4
    assert same(small(draw(1, 3, 8)), net(draw(1, 3, 8)))
    assert Called(net)({"x": draw(1, 3, 8)})[0].shape == (1, 3, 8)


def test_gains_that_round_as_they_are_folded_do_not_stop_a_cut():
    layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
    net = randomise(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)).float()
    gains = torch.linspace(0.31, 0.97, 12) * (torch.arange(12) < 7)
    small = ps.compact(net, {"layers.0.linear2.input": gains}, torch.randn(2, 5, 8))
    assert small.layers[0].linear1.out_features == 7


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.places = nn.Parameter(torch.randn(3, 8))
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 3, 8) + self.places
        return self.last(self.attention(x, x, x)[0] if len(x) else x)


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_constant_on_the_example_alone_stays(seed: int) -> None:
    # Without keys a head gives the mean of its values: the same at all places of one example.
    net = Attended().eval()
    with torch.no_grad():
        net.attention.in_proj_weight[12:16] = 0
        net.attention.in_proj_bias[12:16] = 0
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(seed))
    small = ps.compact(net, {}, x)
    other = torch.randn(5, 3, 8)
    assert torch.allclose(small(other), net(other), atol=1e-5)
