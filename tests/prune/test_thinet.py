"""ThiNet: what channels add, the greedy choice, the gains, and their folding."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.prune import thinet
from pyrosparse.prune.contributions import contributions
from pyrosparse.prune.thinet_channels import greedy, least_squares

LAYERS: dict[str, Any] = {
    "dense": (lambda: nn.Linear(5, 4), (5,)),
    "tokens": (lambda: nn.Linear(5, 4), (3, 5)),
    "convolution": (lambda: nn.Conv2d(5, 4, 3, padding=1), (5, 6, 7)),
    "strided": (lambda: nn.Conv2d(5, 4, (3, 2), stride=(2, 3), padding=(1, 0)), (5, 8, 9)),
    "dilated": (lambda: nn.Conv2d(5, 4, 3, dilation=2, padding="same"), (5, 6, 6)),
    "reflected": (lambda: nn.Conv2d(5, 4, 3, padding=1, padding_mode="reflect"), (5, 6, 6)),
    "one dimension": (lambda: nn.Conv1d(5, 4, 3, bias=False), (5, 8)),
    "three dimensions": (lambda: nn.Conv3d(5, 4, 2, padding=1), (5, 4, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_channels_add_sums_to_the_output_without_its_bias(name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().double()
    x = torch.randn(6, *shape, dtype=torch.float64)
    added = contributions(layer, x, 50, torch.Generator().manual_seed(1))
    assert added.shape == (300, 5)
    with torch.no_grad():
        out = layer(x)
        if layer.bias is not None:
            axis = -1 if isinstance(layer, nn.Linear) else 1
            out = out - layer.bias.view(-1, *[1] * (out.dim() - 2) if axis == 1 else ())
    # Each is a value of the output of its own example.
    values = out.reshape(6, 1, -1)
    nearest = (added.sum(1).view(6, 50, 1) - values).abs().min(2).values
    assert nearest.max() < 1e-12
    # And over many draws every value comes up.
    many = contributions(layer, x[:1], 6000, torch.Generator().manual_seed(2)).sum(1)
    found = (values[0, 0][:, None] - many[None]).abs().min(1).values
    assert found.max() < 1e-12


def test_what_one_channel_adds_is_the_output_of_that_channel_alone() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 2, 3, padding=1, bias=False).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    whole = contributions(layer, x, 20, torch.Generator().manual_seed(1))
    for channel in range(3):
        alone = torch.zeros_like(x)
        alone[:, channel] = x[:, channel]
        part = contributions(layer, alone, 20, torch.Generator().manual_seed(1))
        torch.testing.assert_close(part.sum(1), whole[:, channel])


def direct(x: Tensor, count: int) -> Tensor:
    """The greedy choice by its definition, from the samples."""
    gone: list[int] = []
    for _ in range(count):
        left = [j for j in range(x.shape[1]) if j not in gone]
        gone.append(min(left, key=lambda j: float(x[:, [*gone, j]].sum(1).square().sum())))
    mask = torch.zeros(x.shape[1], dtype=torch.bool)
    mask[gone] = True
    return mask


@pytest.mark.parametrize("seed", range(20))
def test_greedy_by_the_gram_matrix_is_the_direct_greedy(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(14, 14, generator=generator, dtype=torch.float64)
    x = torch.randn(60, 14, generator=generator, dtype=torch.float64) @ mixing
    for count in (1, 5, 13):
        assert torch.equal(greedy(x.T @ x, count), direct(x, count))


def test_greedy_takes_together_what_cancels() -> None:
    # Channels 0 and 1 cancel; 2 is smaller than either alone.
    x = torch.tensor([[5.0, -5.0, 1.0], [4.0, -4.0, 1.0]])
    assert greedy(x.T @ x, 1).tolist() == [False, False, True]
    y = x[:, :2].repeat(1, 2) * torch.tensor([1.0, 1.0, 3.0, 3.0])
    assert greedy(y.T @ y, 2).tolist() == [True, True, False, False]


def test_greedy_is_near_the_best_of_all_subsets() -> None:
    generator = torch.Generator().manual_seed(0)
    ratios = []
    for _ in range(10):
        x = torch.randn(100, 10, generator=generator) + torch.randn(100, 1, generator=generator)
        cost = float(x[:, greedy(x.T @ x, 5)].sum(1).square().sum())
        best = min(
            float(x[:, list(some)].sum(1).square().sum())
            for some in itertools.combinations(range(10), 5)
        )
        ratios.append(cost / best)
    assert min(ratios) >= 1 - 1e-5 and sorted(ratios)[5] < 1.1


def test_gains_are_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    x[:, 5] += 0.8 * x[:, 1]  # what goes is partly in what stays
    kept = torch.tensor([True, True, False, True, True, False, True, False])
    gains = least_squares(x.T @ x, kept)
    expected = torch.linalg.lstsq(x[:, kept], x.sum(1, keepdim=True)).solution[:, 0]
    torch.testing.assert_close(gains[kept], expected)
    assert not gains[~kept].any() and gains[1] > 1.5


def test_what_samples_do_not_tell_has_the_gain_one() -> None:
    x = torch.zeros(10, 3, dtype=torch.float64)
    x[:, 0] = 1.0  # the others never fire
    assert least_squares(x.T @ x, torch.tensor([True, True, False])).tolist() == [1.0, 1.0, 0.0]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 36, 3),
    )


X = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(5))


def test_gains_are_folded_exactly_and_the_channels_are_cut() -> None:
    net = network()
    masks = thinet(net, (X,), 0.5)
    # The first convolution and that of 1 x 1 are left alone.
    assert list(masks) == ["3.input"]
    gains = masks["3.input"]
    assert int((gains != 0).sum()) == 4 and (gains[gains != 0] != 1).all()
    net.eval()
    with torch.no_grad():
        behind = net[:3](X) * gains.view(-1, 1, 1)
        expected = net[3:](behind)
        small = ps.compact(net, masks, X)
        assert torch.allclose(small(X), expected, atol=1e-5)
    assert small.get_submodule("0").out_channels == small.get_submodule("3").in_channels == 4


def test_gains_bring_the_layer_nearer_to_what_it_was() -> None:
    net = network().eval()
    masks, plain = thinet(net, (X,), 0.5), thinet(net, (X,), 0.5, reconstruct=False)
    assert torch.equal(plain["3.input"] != 0, masks["3.input"] != 0)
    assert set(plain["3.input"].tolist()) == {0.0, 1.0}
    with torch.no_grad():
        before = net[:3](X)
        wanted = net[3](before)
        errors = [
            (net[3](before * one["3.input"].view(-1, 1, 1)) - wanted).square().sum()
            for one in (masks, plain)
        ]
    assert errors[0] < 0.9 * errors[1]


def test_later_layers_see_earlier_ones_pruned() -> None:
    net = network()
    both = thinet(net, (X,), 0.5, on=ps.inputs(net, ["3", "5"]))
    assert list(both) == ["3.input", "5.input"]
    first = thinet(net, (X,), 0.5, on=ps.inputs(net, "3"))
    assert torch.equal(first["3.input"], both["3.input"])
    with torch.no_grad():
        net[3].weight.mul_(first["3.input"].view(1, -1, 1, 1))
    # The samples of the second layer are others, its choice is of the folded network.
    generator = torch.Generator().manual_seed(0)
    net.eval()
    with torch.no_grad():
        contributions(net[3], net[:3](X), 10, generator)  # as far as the generator went
        rows = contributions(net[5], net[:5](X), 10, generator).double()
    kept = ~greedy(rows.T @ rows, 3)
    assert torch.equal(both["5.input"] != 0, kept)


def test_nothing_is_left_behind() -> None:
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    one, again = thinet(net, (X,), 0.25), thinet(net, (X,), 0.25)
    other = thinet(net, (X,), 0.25, seed=1)
    assert torch.equal(torch.get_rng_state(), state) and net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert torch.equal(one["3.input"], again["3.input"])
    assert not torch.equal(one["3.input"], other["3.input"])


def test_batches_do_not_matter() -> None:
    # Draws are by batch; of everything sampled many times the choice is the same.
    net = network()
    masks = [thinet(net, (X,), 0.5, places=2000, batch_size=size) for size in (7, 40)]
    assert torch.equal(masks[0]["3.input"] != 0, masks[1]["3.input"] != 0)


def test_dense_networks_lose_inputs_of_all_layers_but_the_first() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    masks = thinet(net, (torch.randn(50, 6),), 0.5)
    assert {key: int((mask != 0).sum()) for key, mask in masks.items()} == {
        "2.input": 5,
        "4.input": 4,
    }


class Grouped(nn.Module):
    def __init__(self, groups: int = 2, unused: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=groups)
        self.other = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.first(x)))


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be in"),
        ({"places": 0}, "places must be a positive whole number"),
        ({"on": "second"}, "2 groups"),
        ({"on": "other"}, "'other' did not run"),
        ({"on": "norm"}, "is a BatchNorm2d"),
        ({"data": X * torch.nan, "on": "first"}, "are not finite"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    net = Grouped()
    arguments = {"data": X, "sparsity": 0.5} | options
    if "on" in arguments:
        arguments["on"] = ps.inputs(net, arguments["on"])
    data = arguments.pop("data")
    with pytest.raises(ValueError, match=message):
        thinet(net, (data,), arguments.pop("sparsity"), **arguments)


def test_more_refusals() -> None:
    net = network()
    with pytest.raises(ValueError, match="is not an input"):
        thinet(net, (X,), 0.5, on=ps.outputs(net, "0"))
    with pytest.raises(ValueError, match="8 inputs"):
        thinet(net, (X[:1],), 0.5, places=5)
    assert thinet(net, (X[:1],), 0.5, places=5, reconstruct=False)
    with pytest.raises(ValueError, match="no layer whose input channels"):
        thinet(nn.Sequential(nn.Linear(4, 2)), (torch.ones(3, 4),), 0.5)
    net[3] = Standardised(8, 6, 3, padding=1)
    with pytest.raises(ValueError, match="subclass"):
        thinet(net, (X,), 0.5, on=ps.inputs(net, "3"))
