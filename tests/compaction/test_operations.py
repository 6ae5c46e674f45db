"""Compaction, operation by operation: what becomes of constants, and of what nobody reads."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from tests.compaction.cases import (
    gains,
    randomise,
    run_masked,
    same,
    structured,
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("padding", [0, 1, "same"])
def test_constants_meet_padding(padding: int | str, padding_mode: str, bias: bool) -> None:
    second = nn.Conv2d(4, 2, 3, padding=padding, padding_mode=padding_mode, bias=bias)
    net = randomise(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), second))
    net[0].weight.data[[0, 2]] = 0
    x = torch.randn(2, 1, 8, 8).double()
    small = ps.compact(net, None, x)
    net.eval()
    assert same(small.eval()(x), net(x))
    larger = torch.randn(1, 1, 13, 9).double()  # the border is right at any size of the images
    assert same(small(larger), net(larger))
    carrier = padding != 0 and padding_mode == "zeros"
    assert small.get_submodule("3").in_channels == 2 + carrier


def test_a_channel_of_constants_varies_at_the_border() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 3, 3, padding=1), nn.Flatten())
    net = randomise(nn.Sequential(*net, nn.Linear(48, 2)))
    net[0].weight.data[:2] = 0
    net[2].weight.data[0, 2:] = 0  # reads constants alone, which end at the border
    x = torch.randn(2, 1, 6, 6).double()
    small = ps.compact(net, None, x)
    assert small.get_submodule("2").out_channels == 3
    assert same(small(x), net(x))
    net[2].padding = (0, 0)
    net[4] = nn.Linear(12, 2).double()
    small = ps.compact(net, None, x)
    assert small.get_submodule("2").out_channels == 2
    assert same(small(x), net(x))


def test_a_constant_of_zero_needs_no_carrier() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double()
    net[0].weight.data[:2] = 0
    net[0].bias.data[:2] = -1
    x = torch.randn(2, 1, 8, 8).double()
    small = ps.compact(net, None, x)
    assert small.get_submodule("2").in_channels == 2
    assert same(small(x), net(x))


@pytest.mark.parametrize("pool", [
    nn.AvgPool2d(3, padding=1), nn.AvgPool2d(3, padding=1, count_include_pad=False),
    nn.AvgPool2d(2, ceil_mode=True), nn.AvgPool2d(2, divisor_override=3),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AdaptiveAvgPool2d(3), nn.ZeroPad2d(1),
    nn.Upsample(scale_factor=2),
])  # fmt: skip
def test_constants_through_pools(pool: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), pool, nn.Conv2d(4, 2, 1), nn.Flatten()).double()
    net[0].weight.data[:2] = 0
    x = torch.randn(2, 1, 9, 9).double()
    assert same(ps.compact(net, None, x)(x), net(x))


def stage() -> nn.Conv2d:
    """Six channels: 0 and 1 are constant, of which 1 is zero after a ReLU."""
    conv = randomise(nn.Conv2d(2, 6, 3))
    conv.weight.data[:2] = 0
    conv.bias.data[:2] = torch.tensor([0.7, -0.4])
    return conv


class Between(nn.Module):
    """An operation between a convolution and a dense layer that reads channels 0 to 4."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = stage()
        self.operation = operation
        y = operation(self.conv(torch.ones(2, 2, 6, 6).double()))
        features = y[0].numel()
        self.head = nn.Linear(features, 3).double()
        if features % 6 == 0:
            self.head.weight.data.view(3, 6, -1)[:, 5] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operation(self.conv(x)).flatten(1))


KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "activations": lambda x: F.gelu(torch.tanh(x.sigmoid() - 0.5), approximate="tanh"),
    "in place": lambda x: F.leaky_relu(torch.relu_(x), 0.1, True).mul_(2).add_(1),
    "numbers": lambda x: (1 - 2 * x) / 3 + x**2,
    "itself": lambda x: x * x + (x + x),
    "dropout": lambda x: F.dropout(F.dropout2d(x, 0.5, False), 0.5, training=False),
    "pools": lambda x: F.max_pool2d(F.avg_pool2d(x, 2), 2),
    "mean": lambda x: x.mean((2, 3)),
    "mean kept": lambda x: x - torch.mean(x, (-2, -1), keepdim=True),
    "maximum": lambda x: x.amax((2, 3)),
    "positions": lambda x: x[:, :, 1:, ::2],
    "one position": lambda x: x[:, :, 0, -1],
    "one row": lambda x: x[:, :, 0],
    "view": lambda x: x.view(x.size(0), -1),
    "shape": lambda x: x.reshape((x.shape[0], -1)),
    "features": lambda x: x.view(-1, 96),
    "flatten positions": lambda x: x.flatten(2).mean(2),
    "squeezed": lambda x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)),
    "sum": lambda x: x + F.relu(x),
    "broadcast sum": lambda x: x + F.adaptive_avg_pool2d(x, 1),
    "difference": lambda x: x.exp() - x.abs(),
    "quotient": lambda x: x / (x.square() + 1),
    "clone": lambda x: torch.clone(x).contiguous(),
    "interpolation": lambda x: F.interpolate(x, scale_factor=2.0),
    "to a size": lambda x: F.interpolate(x, size=(7, 5), mode="bilinear"),
    "to another's size": lambda x: F.interpolate(
        F.max_pool2d(x, 2), size=x.shape[2:], mode="bicubic"
    ),
    "upsampling": nn.Upsample(scale_factor=2, mode="bilinear"),
    "reflected": lambda x: F.pad(x, (1, 1, 2, 0), mode="reflect"),
    "reflection": nn.ReflectionPad2d((1, 0, 2, 1)),
    "replication": nn.ReplicationPad2d(2),
    "circle": nn.CircularPad2d(1),
    "instances": nn.InstanceNorm2d(6),
    "instances, affine": randomise(nn.InstanceNorm2d(6, affine=True)),
    "instances, running": randomise(nn.InstanceNorm2d(6, track_running_stats=True)).eval(),
    "random slopes": nn.RReLU().eval(),
    "compared": lambda x: (x > 0.5) * x + torch.le(x, 0) * x.square(),
    "compared to another": lambda x: x * (x >= x.square()),
    "chosen": lambda x: torch.where(x > 0, x, -0.1 * x),
    "chosen or a number": lambda x: x.where(x.gt(0.2), 0.2),
    "larger": lambda x: torch.maximum(x, torch.zeros_like(x)).minimum(torch.full_like(x, 2.0)),
    "ones": lambda x: x + torch.ones_like(x),
    "interpolated": lambda x: torch.lerp(x, x.relu(), 0.3),
    "finite": lambda x: torch.nan_to_num(x).sign() * x,
    "flipped": lambda x: x.flip(2, 3).flip(-1).flip([2]),
    "rolled": lambda x: torch.roll(x, (1, 2), (2, 3)).roll(1, -1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_operations_pass_constants_and_needs(name: str) -> None:
    net = Between(KNOWN[name])
    x = torch.randn(2, 2, 6, 6).double()
    small = ps.compact(net, None, x)
    assert same(small(x), net(x))
    assert small.conv.out_channels == 3  # 2, 3 and 4
    assert not small.account.barriers


@pytest.mark.parametrize("pad", [nn.ZeroPad2d((1, 0, 2, 1)), nn.ConstantPad2d(1, 0.5)])
def test_a_layer_that_pads_is_cut(pad: nn.Module) -> None:
    layers = [stage(), nn.ReLU(), pad, nn.Conv2d(6, 3, 3), nn.Flatten()]
    net = randomise(nn.Sequential(*layers, nn.Linear(3 * 25, 2))).eval()
    net[0].weight.data[:2], net[0].bias.data[:2] = 0, -1
    net[3].weight.data[:, 5] = 0
    x = torch.randn(2, 2, 6, 6).double()
    net[5] = nn.Linear(net[:5](x).shape[1], 2).double()
    small = ps.compact(net, None, x)
    assert same(small(x), net(x)) and not small.account.barriers
    # Zeros at a border of another number are no constant.
    assert small.get_submodule("0").out_channels == (3 if isinstance(pad, nn.ZeroPad2d) else 5)
    assert type(small.get_submodule("2")) is type(pad)


@pytest.mark.parametrize("shuffled", [nn.PixelShuffle(2), lambda x: F.pixel_shuffle(x, 2)])
def test_channels_become_pixels(shuffled: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 12, 1), nn.Conv2d(3, 2, 1)
            self.shuffled = shuffled

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.shuffled(self.first(x)))

    net = randomise(Net())
    net.first.weight.data[:5] = 0  # the first channel is constant only if its pixels are equal
    net.second.weight.data[:, 2] = 0
    x = torch.randn(2, 2, 3, 3).double()
    small = ps.compact(net, None, x)
    assert small.first.out_channels == 8 and same(small(x), net(x))
    net.first.bias.data[:4] = 0.3
    small = ps.compact(net, None, x)
    assert small.first.out_channels == 4 and same(small(x), net(x))
    assert not small.account.barriers


@pytest.mark.parametrize("shuffled", [nn.PixelUnshuffle(2), lambda x: F.pixel_unshuffle(x, 2)])
def test_pixels_become_channels(shuffled: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(16, 2, 1)
            self.shuffled = shuffled

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.shuffled(self.first(x)))

    net = randomise(Net())
    net.first.weight.data[0] = 0
    net.second.weight.data[:, 4:9] = 0  # the second channel whole, and a pixel of the third
    x = torch.randn(2, 2, 4, 4).double()
    small = ps.compact(net, None, x)
    assert small.first.out_channels == 2 and small.second.in_channels == 7
    assert same(small(x), net(x)) and not small.account.barriers


@pytest.mark.parametrize("unit", [nn.GLU(1), lambda x: F.glu(x, dim=1)])
def test_gated_linear_units_lose_both_halves(unit: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 12), nn.Linear(6, 2)
            self.unit = unit

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.unit(self.first(x)))

    net = randomise(Net())
    net.first.weight.data[0], net.first.bias.data[0] = 0, 0  # the first half is zero
    net.first.weight.data[[1, 7]] = 0  # both halves are constant
    net.first.weight.data[2] = 0  # one half is constant
    net.second.weight.data[:, 5] = 0
    x = torch.randn(4, 3).double()
    small = ps.compact(net, None, x)
    assert small.first.out_features == 6 and small.second.in_features == 3
    assert same(small(x), net(x)) and not small.account.barriers


SHAPED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "range": (lambda x: x[:, 1:4], 2),
    "every other": (lambda x: x[:, ::2], 2),
    "padded features": (lambda x: F.pad(x, (0, 0, 0, 0, 2, 1)), 4),
    "padded with ones": (lambda x: F.pad(x, (1, 0, 0, 1, 0, 3), value=1.0), 6),
    "padded mean": (lambda x: F.avg_pool2d(x, 3, 1, 1), 5),
    "padded mean after a ReLU": (lambda x: F.avg_pool2d(F.relu(x), 3, 1, 1), 4),
    "a tensor of ours": (lambda x: x * torch.ones((), device=x.device, dtype=x.dtype), 5),
    "sums along a side": (lambda x: F.relu(x).cumsum(2), 4),
    "filled": (lambda x: F.relu(x).masked_fill(x < 0.5, 0.0), 4),
    "pieces": (lambda x: x.tensor_split(3, 1)[0] * x.tensor_split(3, 1)[1], 4),
    "uneven pieces": (lambda x: torch.tensor_split(x, 4, 1)[0] + torch.tensor_split(x, 4, 1)[1], 2),
    "two copies": (lambda x: torch.cat([x, x[:, :3], F.relu(x)], 1), 4),
    # Barriers of a graph, behind which the network is cut in place.
    "heights": (lambda x: torch.cat([x, x], dim=-1), 3),
    "an example": (lambda x: x.cumsum(0), 5),  # what is constant for each is not for their sum
    "softmax": (lambda x: x.softmax(1), 6),
    "rolled features": (lambda x: x.roll(1, 1), 3),
    "flipped features": (lambda x: x.flip(1), 4),
    "shuffled": (lambda x: x.view(2, 2, 3, 4, 4).transpose(1, 2).reshape(2, 6, 4, 4), 6),
    "last": (lambda x: x.permute(0, 2, 3, 1).transpose(1, 2).transpose(1, -1), 3),
}


@pytest.mark.parametrize("name", SHAPED)
def test_shapes_of_features(name: str) -> None:
    operation, kept = SHAPED[name]
    net = Between(operation)
    x = torch.randn(2, 2, 6, 6).double()
    small = ps.compact(net, None, x)
    assert same(small(x), net(x))
    assert small.conv.out_channels == kept


def random_network(seed: int) -> nn.Module:
    """A graph of a few operations, each on tensors that came before, all of six channels or so."""
    generator = torch.Generator().manual_seed(seed)

    def choose(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict()
            self.plan: list[tuple[str, int, int]] = []
            widths = [2]
            for step in range(3 + choose(7)):
                kind = ("conv", "conv", "bn", "act", "add", "mul", "cat", "pad")[choose(8)]
                first, second = choose(len(widths)), choose(len(widths))
                width = widths[first]
                if kind in ("add", "mul") and widths[second] != width:
                    kind = "cat"
                if kind == "conv":
                    grouped = width % 2 == 0 and choose(3) == 0
                    new = 2 * (1 + choose(4))
                    self.layers[str(step)] = nn.Conv2d(
                        width, new, 3, padding=1, groups=2 if grouped else 1, bias=choose(2) == 0
                    )
                    width = new
                elif kind == "bn":
                    self.layers[str(step)] = nn.BatchNorm2d(width)
                elif kind == "cat":
                    width += widths[second]
                elif kind == "pad":
                    width += 3
                self.plan.append((kind, first, second))
                widths.append(width)
            self.layers["head"] = nn.Linear(widths[-1], 3)

        def forward(self, x: Tensor) -> Tensor:
            values = [x]
            for step, (kind, first, second) in enumerate(self.plan):
                a, b = values[first], values[second]
                if kind in ("conv", "bn"):
                    a = self.layers[str(step)](a)
                elif kind == "act":
                    a = F.silu(a) if first % 2 else F.relu(a)
                elif kind == "add":
                    a = a + b
                elif kind == "mul":
                    a = a * torch.tanh(b)
                elif kind == "cat":
                    a = torch.cat([a, b], 1)
                elif kind == "pad":
                    a = F.pad(a, (0, 0, 0, 0, 1, 2))
                values.append(a)
            return self.layers["head"](values[-1].mean((2, 3)))

    return randomise(Net(), seed)


class Positions(nn.Module):
    """A parameter, one long where there is a batch, is added to the features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.places = nn.Parameter(torch.linspace(-1, 1, 60).view(1, 10, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(x) + self.places[:, : x.size(1)]))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dead", [[0, 1], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("read", [slice(0, 6), slice(0, 3), slice(0, 2)])
def test_positions_that_are_the_same_for_every_datum(batch: int, dead: list, read: slice) -> None:
    """An example of one datum does not show which of the two has the batch."""
    net = randomise(Positions()).eval()
    net.embed.weight.data[dead] = 0
    net.head.weight.data[:, [n for n in range(6) if n not in range(6)[read]]] = 0
    small = ps.compact(net, None, torch.randn(batch, 5, 3).double(), at_least=0)
    for shape in ((1, 5, 3), (3, 7, 3)):
        x = torch.randn(*shape).double()
        assert same(small(x), net(x))


@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.6, 0.9]), st.sampled_from([0, 1, 2]))
@settings(max_examples=60, deadline=None)
def test_random_networks(seed: int, density: float, at_least: int) -> None:
    net = random_network(seed)
    masks = structured(net, density, seed) | gains(net, density, seed, "input")
    x = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(seed)).double()
    small = ps.compact(net, masks, x, at_least=at_least).eval()
    assert not small.account.barriers
    for images in (x, x[:1, :, :, 1:4]):
        actual, expected = small(images), run_masked(net, masks, images)
        assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-12)
    again = ps.compact(small, None, x, at_least=at_least)
    assert sum(p.numel() for p in again.parameters()) <= sum(p.numel() for p in small.parameters())
