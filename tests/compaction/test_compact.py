"""Compaction of small networks: sizes by hand, what is refused, what stays and why."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse import networks
from pyrosparse.compaction import CompactionError
from pyrosparse.compaction.check import check
from tests.compaction.cases import (
    TransformerBlock,
    randomise,
    run_masked,
    same,
)


def lenet() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def test_sizes_of_an_mlp_by_hand() -> None:
    net = lenet()
    masks = {
        "0.weight": torch.ones(5, 6, dtype=torch.bool),
        "2.weight": torch.ones(4, 5, dtype=torch.bool),
    }
    masks["0.weight"][:, [1, 3]] = False  # two input features
    masks["0.weight"][0] = False  # a unit without inputs
    masks["2.weight"][:, 2] = False  # a unit that is not read
    masks["2.weight"][3] = False
    small = ps.compact(net, masks)
    shapes = [tuple(m.weight.shape) for m in small.modules() if isinstance(m, nn.Linear)]
    assert shapes == [(3, 4), (3, 3), (3, 3)]
    assert small.account.structure == "3-3-3"
    assert small.account.parameters == (35 + 24 + 15, 15 + 12 + 12)
    assert "6 -> 4" in str(small.account) and "35 -> 15" in str(small.account)


def test_a_removed_unit_leaves_its_constant() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1)).double()
    net[0].weight.data[0] = 0
    small = ps.compact(net)
    constant = torch.sigmoid(net[0].bias[0]) * net[2].weight[0, 0] + net[2].bias
    assert small.get_submodule("2").bias.item() == pytest.approx(constant.item(), abs=1e-12)
    assert small.get_submodule("0").weight.shape == (1, 2)


def test_flatten_selects_positions_and_channels() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    net[0].weight.data[1] = 0
    net[2].weight.data[:, 0] = 0  # channel 0, position 0
    net[2].weight.data[:, 8:] = 0  # channel 2
    x = torch.randn(2, 1, 4, 4).double()
    small = ps.compact(net, None, x)
    assert small.get_submodule("0").weight.shape == (1, 1, 3, 3)
    assert small.get_submodule("2").weight.shape == (2, 3)
    assert same(small(x), net(x))


class Residual(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.branch = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.inplace:
            y = F.relu(x, inplace=True)  # x is y from here on
            y = self.branch(y)
            y += x
            y.mul_(2)
        else:
            y = (self.branch(F.relu(x)) + x) * 2
        return self.head(y)


@pytest.mark.parametrize("inplace", [False, True])
def test_residual_operands_differ(inplace: bool) -> None:
    net = Residual(inplace).double()
    net.stem.weight.data[0] = 0
    net.branch.weight.data[:3] = 0
    net.head.weight.data[:, 5] = 0
    x = torch.randn(3, 4).double()
    small = ps.compact(net, None, x)
    assert same(small(x), net(x))
    # Of the branch 3 and 4 are left; of the stem 1 to 4, and 5 that the branch reads.
    assert small.branch.weight.shape == (2, 5)
    assert small.stem.out_features == 5
    assert small.head.in_features == 4


def test_a_branch_can_vanish() -> None:
    net = Residual().double()
    net.branch.weight.data.zero_()
    x = torch.randn(3, 4).double()
    with pytest.raises(ValueError, match=r"'branch'.*at_least"):
        ps.compact(net, None, x)
    gone = ps.compact(net, None, x, at_least=0)
    assert not hasattr(gone, "branch") and same(gone(x), net(x))
    assert "gone" in str(gone.account)
    kept = ps.compact(net, None, x, at_least=2)
    assert kept.branch.weight.shape == (2, 2) and same(kept(x), net(x))


@pytest.mark.parametrize("least", [1, 3])
def test_an_empty_layer_raises_or_keeps_some(least: int) -> None:
    net = lenet().double()
    net[2].weight.data.zero_()
    x = torch.randn(2, 6).double()
    with pytest.raises(ValueError, match=r"'2' .*constant.*'4'"):
        ps.compact(net)
    small = ps.compact(net, None, x, at_least=least)
    shapes = [tuple(m.weight.shape) for m in small.modules() if isinstance(m, nn.Linear)]
    assert shapes == [(least, 6), (least, least), (3, least)]
    assert same(small(x), net(x))
    with pytest.raises(ValueError, match="at_least"):
        ps.compact(net, at_least=-1)


def test_groups_keep_equally_many() -> None:
    net = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=3), nn.Conv2d(6, 2, 1))
    net = net.double()
    net[0].weight.data[0] = 0  # of group 0 one input is constant, and nothing of it is read
    net[2].weight.data[:, :2] = 0
    net[0].weight.data[2] = 0  # of group 1 an input is constant, of group 2 none
    net[2].weight.data[:, 4] = 0  # of group 2 one output is not read, of group 1 both are
    x = torch.randn(2, 2, 5, 5).double()
    small = ps.compact(net, None, x)
    middle = small.get_submodule("1")
    assert (middle.groups, middle.in_channels, middle.out_channels) == (2, 4, 4)
    assert same(small(x), net(x))


def test_layer_norm_keeps_its_divisor() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    net = randomise(net)
    net[0].weight.data[[1, 4]] = 0
    net[2].weight.data[:, [1, 5]] = 0
    x = torch.randn(5, 4).double()
    small = ps.compact(net, None, x)
    # Feature 4 is constant before the norm, not after it: the norm makes it of mean and variance,
    # which 1 and 5 enter.
    assert small.get_submodule("0").out_features == 6
    assert small.get_submodule("2").in_features == 6
    assert same(small(x), net(x))


def test_neurons_of_a_transformer_go_and_attention_is_named() -> None:
    for torchs in (False, True):
        net = randomise(TransformerBlock(torchs=torchs))
        x = torch.randn(2, 5, 16).double()
        net.fc1.weight.data[:20] = 0
        net.fc2.weight.data[:, 25:] = 0
        small = ps.compact(net, None, x)
        assert small.fc1.out_features == small.fc2.in_features == 5
        assert same(small(x), net(x))
        barriers = " ".join(small.account.barriers.values())
        assert ("MultiheadAttention" in barriers) == torchs
        assert all(name in str(small.account) for name in small.account.barriers)


class Odd(nn.Module):
    """An operation that nobody knows, and a forward that torch.fx cannot trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1) if x.sum() > 0 else x.roll(1, 1)


class Unruly(nn.Module):
    """It cannot be traced, and takes no features but its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        nn.init.ones_(self.first.weight)
        nn.init.ones_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.unique().numel() > x.shape[0]:
            raise ValueError("other features than mine")
        return self.second(x)


class Clever(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.cumsum(1)


@pytest.mark.parametrize("odd", [Odd, lambda: nn.Softmax(1), lambda: Clever(6, 6)])
def test_an_unknown_operation_stays_whole(odd: Callable[[], nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), odd(), nn.Linear(6, 6), nn.Linear(6, 2))
    net = net.double()
    net[0].weight.data[:2] = 0
    net[1].weight.data[:3] = 0
    net[3].weight.data[:, :2] = 0
    net[3].weight.data[3:] = 0
    x = torch.randn(3, 4).double()
    small = ps.compact(net, None, x)
    widths = [small.get_submodule(n).out_features for n in ("0", "1", "3", "4")]
    assert widths == [4, 6, 3, 2]
    assert list(small.account.barriers)
    assert "3 constant outputs stay" in str(small.account)
    assert same(small(x), net(x))


def test_shared_and_hooked_layers_stay() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(nn.Linear(3, 4), shared, nn.ReLU(), shared, nn.Linear(4, 2)).double()
    net[0].weight.data[0] = 0
    shared.weight.data[:, 1] = 0
    shared.weight.data[2] = 0
    x = torch.randn(3, 3).double()
    small = ps.compact(net, None, x)
    assert small.get_submodule("1").weight.shape == (4, 4)
    assert same(small(x), net(x))
    assert "several places" in str(small.account)
    net = lenet().double()
    net[0].weight.data[0] = 0
    net[0].register_forward_hook(lambda module, args, y: y + 1)
    x = torch.randn(3, 6).double()
    assert same(ps.compact(net, None, x)(x), net(x))


class Tied(nn.Module):
    """A module called twice, and weights that are read beside the call of their module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5, affine=False)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.relu(self.norm(self.first(x))))
        return self.fc(x) @ self.fc.weight


def test_tied_weights_stay() -> None:
    net = Tied().double().eval()
    net.first.weight.data[:2] = 0
    net.fc.weight.data[1] = 0
    net.norm.running_mean.copy_(torch.arange(5))
    x = torch.randn(3, 4).double()
    small = ps.compact(net, None, x)
    assert same(small(x), net(x))
    assert small.first.out_features == 5 and small.fc.weight.shape == (3, 5)
    assert "norm, fc (its weights" in str(small.account)


def test_masks_of_a_lifted_network() -> None:
    net = networks.fcn((1, 4, 4), hidden=(8, 8))
    bnn = ps.lift(net, ps.Gaussian())
    score = {t.key: t.value.detach().abs() for t in bnn.targets}
    masks = ps.Masks({key: s >= s.median() for key, s in score.items()})
    masks["fc1.weight"][3] = False
    x = torch.randn(2, 1, 4, 4)
    small = ps.compact(net, masks)
    assert small.fc1.out_features <= 7
    assert same(small(x), run_masked(net, masks, x), 1e-5)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ValueError, match="give an example"):
        ps.compact(nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"cannot trace.*cannot be cut in place either"):
        ps.compact(Unruly(), None, torch.ones(2, 3))


def test_integers_and_several_arguments() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 6)
            self.fc = nn.Linear(6, 5)
            self.head = nn.Linear(5, 2)

        def forward(self, words: Tensor, scale: Tensor) -> dict[str, Tensor]:
            x = torch.relu(self.fc(self.embedding(words).mean(1)))
            return {"logits": self.head(x) * scale, "features": words}

    net = Words().double()
    net.fc.weight.data[:2] = 0
    net.fc.weight.data[:, 3] = 0
    x = (torch.tensor([[0, 3, 6], [1, 1, 2]]), torch.tensor(2.0).double())
    small = ps.compact(net, None, x)
    assert small.fc.weight.shape == (3, 5)
    assert same(small(*x)["logits"], net(*x)["logits"])


def test_callers_generator_is_untouched() -> None:
    state = torch.get_rng_state()
    ps.compact(networks.fcn((1, 4, 4), hidden=(8, 8)), None, at_least=1)
    unseen = torch.get_rng_state()
    torch.set_rng_state(state)
    networks.fcn((1, 4, 4), hidden=(8, 8))
    assert torch.equal(torch.get_rng_state(), unseen)


def test_the_check_finds_differences() -> None:
    net = lenet()
    other = copy.deepcopy(net)
    other[4].bias.data[1] += 1e-4
    x = (torch.ones(2, 6),)
    assert check(net, copy.deepcopy(net), x) == 0
    with pytest.raises(CompactionError, match="differs"):
        check(net, other, x)
    other[4].bias.data[1] = float("nan")
    with pytest.raises(CompactionError, match="differs"):
        check(net, other, x)
    with pytest.raises(CompactionError, match="differs"):
        check(net, net[:2], x)


class Optional(nn.Module):
    """Arguments with defaults, on which the trace depends."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: Tensor | None = None, twice: bool = False) -> Tensor:
        x = self.conv(x)
        if scale is not None:
            x = x * scale
        if twice:
            x = x * 2
        return self.head(x.amax((2, 3)))


def test_arguments_that_are_not_given_keep_their_defaults() -> None:
    net = Optional().double()
    net.conv.weight.data[0] = 0
    x, scale = torch.randn(2, 1, 5, 5).double(), torch.randn(4, 1, 1).double()
    small = ps.compact(net, None, x)
    assert small.conv.out_channels == 3 and same(small(x), net(x))
    small = ps.compact(net, None, (x, scale))
    assert same(small(x, scale), net(x, scale))


def test_layout_and_frozen_parameters_stay() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    net = net.to(memory_format=torch.channels_last)
    net[0].weight.data[0] = 0
    net[0].weight.requires_grad_(False)
    x = torch.randn(2, 3, 8, 8).double()
    small = ps.compact(net, None, x)
    for name in ("0", "2"):
        weight = small.get_submodule(name).weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert weight.requires_grad == (name == "2")
    assert same(small(x), net(x))
