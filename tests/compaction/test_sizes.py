"""Sizes of the input: a network compacted on an example is right at every other size."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compaction.check import SizeError, check
from pyrosparse.compaction.other_sizes import other_sizes, reads_sizes
from tests.compaction.cases import randomise


class Words(nn.Module):
    """Half of the units behind an embedding are dead; what follows reads sizes."""

    def __init__(self, read: Callable[[Words, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.hidden, self.out = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 3)
        self.query = nn.Linear(8, 16)
        self.places = nn.Embedding(50, 8)
        self.shift = nn.Parameter(torch.randn(50, 16))
        self.norm = nn.LayerNorm(16)
        self.read = read

    def units(self, x: Tensor) -> Tensor:
        return torch.relu(self.hidden(x))

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(self, ids, self.embed(ids))


Read = Callable[[Words, Tensor, Tensor], Tensor]


def behind(read: Read) -> Read:
    """What reads the units, made to read the embeddings."""
    return lambda net, ids, x: read(net, ids, net.units(x))


def arange_of(net: Words, ids: Tensor, x: Tensor) -> Tensor:
    positions = net.places(torch.arange(ids.size(1), device=ids.device))
    return net.out(net.units(x + positions)).mean(1)


def scores(net: Words, ids: Tensor, x: Tensor) -> Tensor:
    h = net.units(x)
    return net.out(((net.query(x) @ h.transpose(1, 2)) / ids.size(1)) @ h)


def standardised(net: Words, ids: Tensor, h: Tensor) -> Tensor:
    b, t = ids.shape[:2]
    return net.out(h.sum(1) / (b + t)) * (h.shape[-1] ** 0.5) + net.out(h.mean(1)) * (b * t)


def folded(net: Words, ids: Tensor, h: Tensor) -> Tensor:
    b, t = ids.shape
    return net.out(h.view(b * t, -1)).view(b, t, -1).sum(1)


UNITS: dict[str, Read] = {
    "mean of units": lambda net, ids, h: net.out(h.sum(1) / ids.size(1)),
    "mean by shape": lambda net, ids, h: net.out(h.sum(1) / h.shape[1]),
    "times length": lambda net, ids, h: net.out(h * ids.size(1)).mean(1),
    "divided": lambda net, ids, h: net.out(h / ids.size(1)).mean(1),
    "plus length": lambda net, ids, h: net.out(h + ids.shape[1]).mean(1),
    "length over units": lambda net, ids, h: net.out(ids.size(1) / (h + 1)).mean(1),
    "sum of two sizes": lambda net, ids, h: net.out(h.mean(1)) / (ids.size(0) + ids.size(1)),
    "product of two sizes": lambda net, ids, h: net.out(h.sum(1)) / (ids.size(0) * ids.size(1)),
    "less one": lambda net, ids, h: net.out(h.sum(1) / (ids.size(1) + 1)),
    "sizes of many kinds": standardised,
    "batch by view": lambda net, ids, h: net.out(h.amax(1).view(ids.size(0), -1)),
    "folded": folded,
    "positions by slice": lambda net, ids, h: net.out(h + net.shift[: ids.size(1)]).mean(1),
    "positions by shape": lambda net, ids, h: net.out(h + net.shift[: h.shape[1], :]).mean(1),
    "last token": lambda net, ids, h: net.out(h[:, ids.size(1) - 1]),
    "last tokens by range": lambda net, ids, h: net.out(
        h[torch.arange(ids.size(0)), ids.size(1) - 1]
    ),
    "all but the last": lambda net, ids, h: net.out(h[:, : (ids.size(1) + 1) // 2]).sum(1),
    "root of the width": lambda net, ids, h: net.out(h / h.shape[-1] ** 0.5).mean(1),
    "pooled keepdim": lambda net, ids, h: net.out(h + h.mean(1, keepdim=True)).sum(1),
    "pooled by length": lambda net, ids, h: net.out(
        F.avg_pool1d(h.transpose(1, 2), ids.size(1)).flatten(1)
    ),
    "zeros of a size": lambda net, ids, h: net.out(
        h + h.new_ones(ids.size(0), ids.size(1), 16)
    ).mean(1),
    "expanded": lambda net, ids, h: net.out(
        h + net.shift[0].expand(ids.size(0), ids.size(1), -1)
    ).mean(1),
    "norm": lambda net, ids, h: net.out(net.norm(h).sum(1) / h.size(1)),
    "flat": lambda net, ids, h: h.flatten(1).sum(1) / h.flatten(1).size(1),
    "flat slices": lambda net, ids, h: h.flatten(1)[:, ::3].cumsum(1).amax(1, keepdim=True),
    "flat view": lambda net, ids, h: h.view(ids.size(0), -1).amax(1, keepdim=True),
    "number of elements": lambda net, ids, h: net.out(h).sum((1, 2)) / h.numel(),
    "all sizes": lambda net, ids, h: net.out(h * h.new_ones(h.shape)).mean(1),
}
WORDS: dict[str, Read] = {
    "mean of embeddings": lambda net, ids, x: net.out(net.units(x.sum(1) / ids.size(1))),
    "positions by arange": arange_of,
    "scores over length": scores,
    **{name: behind(read) for name, read in UNITS.items()},
}


def words(name: str) -> nn.Module:
    net = randomise(Words(WORDS[name])).eval()
    net.hidden.weight.data[::2] = 0
    net.hidden.bias.data[::2] = 0
    return net


IMAGE = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)


def agree(net: nn.Module, small: nn.Module, *x: Tensor) -> bool:
    expected, actual = net(*x), small(*x)
    return actual.shape == expected.shape and torch.allclose(actual, expected, 1e-9, 1e-12)


@pytest.mark.parametrize("batch, length", [(3, 5), (1, 5), (3, 1), (1, 1), (4, 4), (2, 16)])
@pytest.mark.parametrize("name", WORDS)
def test_words_of_other_batches_and_lengths(name: str, batch: int, length: int) -> None:
    net = words(name)
    with torch.no_grad():
        small = ps.compact(net, example=torch.randint(0, 20, (batch, length)), at_least=0).eval()
        for shape in ((4, 9), (1, 1), (2, 16), (5, 5), (1, 3), (7, 1)):
            assert agree(net, small, torch.randint(0, 20, shape)), shape


class Image(nn.Module):
    """Half of the channels of a convolution are dead; what follows reads sizes."""

    def __init__(self, read: Callable[[Image, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.fc, self.four = nn.Linear(8, 3), nn.Linear(32, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self, x, torch.relu(self.conv(x)))


def flat_mean(net: Image, x: Tensor, h: Tensor) -> Tensor:
    z = torch.relu(net.next(h)).flatten(1)
    return z.sum(1, keepdim=True) / z.size(1)


def tokens(net: Image, x: Tensor, h: Tensor) -> Tensor:
    n, c, height, width = h.shape
    return net.fc(h.view(n, c, height * width).transpose(1, 2)).sum(1) / (height * width)


def back_to_maps(net: Image, x: Tensor, h: Tensor) -> Tensor:
    n, c, height, width = h.shape
    y = h.flatten(2).transpose(1, 2) * 0.5
    return net.next(y.transpose(1, 2).reshape(n, c, height, width)).mean((2, 3))


def coordinates(net: Image, x: Tensor, h: Tensor) -> Tensor:
    rows = torch.arange(h.size(2), device=h.device) / h.size(2)
    return net.next(h * rows[:, None]).amax((2, 3))


IMAGES: dict[str, Callable[[Image, Tensor, Tensor], Tensor]] = {
    "flat mean": flat_mean,
    "flat mean of units": lambda net, x, h: h.flatten(1).sum(1, keepdim=True) / h[0].numel(),
    "flat width": lambda net, x, h: h.flatten(1).sum(1, keepdim=True) / h.flatten(1).shape[1],
    "flat width by view": lambda net, x, h: h.view(x.size(0), -1).sum(1) / h.flatten(1).size(-1),
    "flat slices": lambda net, x, h: h.flatten(1)[:, 3::2].amax(1),
    "flat, side by side": lambda net, x, h: torch.cat([h.flatten(1), x.flatten(1)], 1).amax(1),
    "flat and active": lambda net, x, h: torch.tanh(h.flatten(1)).mean(1) * h.flatten(1).size(1),
    "tokens": tokens,
    "back to maps": back_to_maps,
    "coordinates": coordinates,
    "up to the input": lambda net, x, h: net.next(
        F.interpolate(F.avg_pool2d(h, 2), size=x.shape[2:])
    ),
    "pool by size": lambda net, x, h: net.next(F.avg_pool2d(h, (h.size(2), h.size(3)))).flatten(1),
    "pool by shape": lambda net, x, h: net.next(F.max_pool2d(h, h.shape[-2:])).flatten(1),
    "adaptive to half": lambda net, x, h: net.next(
        F.adaptive_avg_pool2d(h, (x.size(2) // 2, x.size(3) // 2))
    ),
    "adaptive, flat": lambda net, x, h: net.four(F.adaptive_avg_pool2d(h, 2).flatten(1)),
    "adaptive, flat by view": lambda net, x, h: net.four(
        F.adaptive_avg_pool2d(h, (2, 2)).view(x.size(0), -1)
    ),
    "adaptive, view by a number": lambda net, x, h: net.four(
        F.adaptive_max_pool2d(h, 2).view(-1, 32)
    ),
    "adaptive, width": lambda net, x, h: (
        net.four(F.adaptive_avg_pool2d(h, 2).flatten(1))
        / F.adaptive_avg_pool2d(h, 2).flatten(1).size(1)
    ),
    "area": lambda net, x, h: net.fc(h.sum((2, 3)) / (h.size(2) * h.size(3))),
    "sum of two sides": lambda net, x, h: net.fc(h.mean((2, 3)) * (x.size(2) + x.size(3))),
    "root of the channels": lambda net, x, h: net.fc(h.mean((2, 3)) / h.size(1) ** 0.5),
    "a crop": lambda net, x, h: net.next(h[:, :, : x.size(2) // 2, x.size(3) // 2 - 1 :]),
    "one channel": lambda net, x, h: net.next(h * h.mean(1, keepdim=True)),
    "added to its mean": lambda net, x, h: net.next(h + h.mean((2, 3), keepdim=True)),
}


@pytest.mark.parametrize("shape", [(2, 6, 6), (1, 4, 4), (1, 2, 2), (8, 8, 8), (2, 2, 6)])
@pytest.mark.parametrize("name", IMAGES)
def test_images_of_other_batches_and_sides(name: str, shape: tuple[int, int, int]) -> None:
    net = randomise(Image(IMAGES[name])).eval()
    net.conv.weight.data[::2] = 0
    net.conv.bias.data[::2] = 0
    batch, height, width = shape
    with torch.no_grad():
        example = torch.randn(batch, 1, height, width).double()
        small = ps.compact(net, example=example, at_least=0).eval()
        for sides in ((3, 9, 9), (1, 4, 7), (4, 4, 4), (2, 12, 5)):
            x = torch.randn(sides[0], 1, *sides[1:]).double()
            assert agree(net, small, x), sides


class Pair(nn.Module):
    """Units, of which half are dead, times a second input; what of it reads a size is harmless."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.hidden, self.out, self.last = nn.Linear(5, 16), nn.Linear(16, 3), last

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = torch.relu(self.hidden(x)) * y
        return self.out(h) / x.size(0)


@pytest.mark.parametrize("width", [1, 16])
def test_what_is_wrong_at_other_sizes_is_kept_whole(width: int) -> None:
    """The second input may be 1 wide, or as wide as there are units: the example shows one."""
    net = randomise(Pair()).eval()
    net.hidden.weight.data[::2] = net.hidden.bias.data[::2] = 0
    with torch.no_grad():
        example = torch.randn(3, 5).double(), torch.rand(3, width).double() + 1
        small = ps.compact(net, example=example)
        assert small.hidden.out_features == (8 if width == 1 else 16)
        if width == 16:
            assert "not understood" in str(small.account)
            for other in (1, 16):
                assert agree(net, small, torch.randn(4, 5).double(), torch.randn(4, other).double())


class Sized(nn.Module):
    """A layer whose result depends on how many data there are, or how long they are."""

    def __init__(self, dim: int, number: int | None = None) -> None:
        super().__init__()
        self.layer, self.dim, self.number = nn.Linear(4, 3), dim, number

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) / (self.number or x.size(self.dim))


@pytest.mark.parametrize("dim, number", [(0, 3), (1, 5)])
def test_the_check_finds_a_size_that_became_a_number(dim: int, number: int) -> None:
    net, other = Sized(dim), Sized(dim, number)
    other.load_state_dict(net.state_dict())
    x = (torch.randn(3, 5, 4),)
    assert check(net, other, x) < 1e-9
    with pytest.raises(SizeError, match="sizes"):
        check(net, other, x, resize=True)


class Fixed(nn.Module):
    """It takes images of one side alone, or takes one image for several."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).view(-1, 32))


def test_sizes_that_a_network_does_not_take_are_left_out() -> None:
    found = [tuple(x.shape) for (x,), _ in other_sizes(Fixed(), (torch.zeros(2, 1, 4, 4),))]
    assert (3, 1, 4, 4) in found and (1, 1, 4, 4) in found
    assert {shape[1:] for shape in found} == {(1, 4, 4)}


def test_a_network_that_reads_no_size_is_not_run_at_other_sizes(monkeypatch) -> None:
    ran = []

    def noting(run, inputs):
        ran.append(run)
        return other_sizes(run, inputs)

    monkeypatch.setattr(sys.modules[SizeError.__module__], "other_sizes", noting)
    ps.compact(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)), example=IMAGE)
    assert not ran
    ps.compact(nn.Sequential(Fixed(), nn.ReLU(), nn.Linear(3, 2)), example=IMAGE)
    assert len(ran) == 1


class EmbeddedBag(nn.Module):
    """Bags of words by their offsets, or by rows; the number of bags is read."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.hidden, self.out = nn.EmbeddingBag(9, 6), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, ids: Tensor, offsets: Tensor | None = None) -> Tensor:
        h = torch.relu(self.hidden(self.bag(ids, offsets)))
        return self.out(h).view(-1, 2) / ids.size(0)


def test_bags_of_words() -> None:
    net = randomise(EmbeddedBag()).eval()
    net.hidden.weight.data[:4] = net.hidden.bias.data[:4] = 0
    with torch.no_grad():
        offsets = torch.tensor([0, 2, 5])
        small = ps.compact(net, example=(torch.randint(0, 9, (7,)), offsets))
        assert small.hidden.out_features == 4
        assert agree(net, small, torch.randint(0, 9, (11,)), torch.tensor([0, 1, 4, 9]))
        for shape in ((1, 1), (3, 4)):
            small = ps.compact(net, example=torch.randint(0, 9, shape))
            assert small.hidden.out_features == 4
            for other in ((1, 1), (3, 4), (5, 2)):
                assert agree(net, small, torch.randint(0, 9, other))


def test_sum_of_an_average_and_a_sequence_of_length_one() -> None:
    """With one position nothing tells an average over positions from what it is taken of."""

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.mean, self.out = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.hidden(x) + self.mean(x.mean(1, keepdim=True)))

    for dead in ([0, 1], [0, 1, 2, 3, 4, 5]):
        net = randomise(Centred()).eval()
        net.hidden.weight.data[dead] = 0
        net.mean.weight.data[[1, 2, 3]] = 0
        with torch.no_grad():
            small = ps.compact(net, example=torch.randn(1, 1, 6).double(), at_least=0)
            for shape in ((3, 5, 6), (1, 1, 6), (2, 1, 6), (1, 4, 6)):
                assert agree(net, small, torch.randn(*shape).double())


class Squeezed(nn.Module):
    """With one datum the batch goes too, and the features are the first dimension."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.conv, self.residual = nn.Conv2d(1, 8, 3), residual
        self.first, self.second, self.out = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x)).mean((2, 3), keepdim=True).squeeze()
        y = torch.relu(self.first(h))
        return self.out(y + self.second(torch.tanh(h)) if self.residual else y)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_a_batch_of_one_that_is_squeezed_away(residual: bool, batch: int) -> None:
    net = randomise(Squeezed(residual)).eval()
    net.first.weight.data[:, ::2] = 0
    net.first.weight.data[1::2] = 0
    net.second.weight.data[:3] = 0
    net.second.weight.data[:, :4] = 0
    with torch.no_grad():
        small = ps.compact(net, example=torch.randn(batch, 1, 6, 6).double(), at_least=0)
        assert small.first.weight.numel() == 16
        for other in (1, 3, 8):
            assert agree(net, small, torch.randn(other, 1, 6, 6).double())


def test_which_graphs_read_sizes() -> None:
    for plain in (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten()), nn.Linear(2, 2)):
        assert not reads_sizes(torch.fx.symbolic_trace(plain).graph)
    assert reads_sizes(torch.fx.symbolic_trace(Fixed()).graph)
    assert reads_sizes(torch.fx.symbolic_trace(Sized(1)).graph)


def test_networks_of_timm_and_torchvision_at_other_sizes() -> None:
    timm = pytest.importorskip("timm")
    from torchvision.models import SwinTransformer

    swin = SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=3)
    nets = [
        (swin, (32, 48)),
        (timm.create_model("resnet10t", num_classes=3), (32, 48)),
        (timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=3), (32, 32)),
    ]
    for net, sides in nets:
        net = net.double().eval()
        for name, module in net.named_modules():
            layer = isinstance(module, (nn.Linear, nn.Conv2d))
            if layer and name.endswith(("mlp.0", "mlp.fc1", "conv1")):
                module.weight.data[::2] = 0
                if module.bias is not None:
                    module.bias.data[::2] = 0
        torch.manual_seed(0)
        with torch.no_grad():
            small = ps.compact(net, example=torch.randn(1, 3, 32, 32).double(), at_least=1)
            assert small.account.parameters[1] < small.account.parameters[0]
            for batch in (1, 3):
                assert agree(net, small, torch.randn(batch, 3, *sides).double())


class Images(nn.Module):
    """Half of the channels of a convolution are dead; what follows changes sizes and reads them."""

    def __init__(
        self, change: nn.Module | Callable[[Images, Tensor], Tensor], width: int = 8
    ) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(width, 3, 1)
        self.places = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.window = nn.Parameter(torch.randn(1, 8, 2, 2))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x))
        h = self.change(h) if isinstance(self.change, nn.Module) else self.change(self, h)
        total = self.out(h).flatten(2).sum(2)
        return total / (h.shape[2] * h.shape[3]) + h.size(1)


def windows(net: Images, h: Tensor) -> Tensor:
    """Positions as in Hiera: interpolated to the image, with a window that is repeated."""
    places = F.interpolate(net.places, size=h.shape[2:], mode="bicubic")
    times = (places.shape[-2] // net.window.shape[-2], places.shape[-1] // net.window.shape[-1])
    return h + places + net.window.tile(times)


RESIZED: dict[str, tuple[nn.Module | Callable[[Images, Tensor], Tensor], int]] = {
    "interpolated places": (
        lambda net, h: h + F.interpolate(net.places, size=h.shape[2:], mode="bilinear"), 8,
    ),
    "windows": (windows, 8),
    "pyramid": (lambda net, h: h + F.interpolate(F.max_pool2d(h, 2), size=h.shape[-2:]), 8),
    "twice": (lambda net, h: F.interpolate(h, scale_factor=2), 8),
    "to a size": (lambda net, h: F.interpolate(h, size=(5, 3)), 8),
    "upsampled": (nn.Upsample(scale_factor=2, mode="bilinear"), 8),
    "reflected": (nn.ReflectionPad2d((1, 2, 0, 1)), 8),
    "padded": (nn.ZeroPad2d((1, 2, 0, 1)), 8),
    "circular": (lambda net, h: F.pad(h, (1, 1, 1, 1), mode="circular"), 8),
    "pixels": (lambda net, h: F.pixel_shuffle(h, 2), 2),
    "channels": (lambda net, h: F.pixel_unshuffle(h, 2), 32),
    "gated": (lambda net, h: F.glu(h, 1), 4),
}  # fmt: skip


@pytest.mark.parametrize("name", RESIZED)
def test_images_of_other_sizes(name: str) -> None:
    net = randomise(Images(*RESIZED[name])).eval()
    net.conv.weight.data[4:], net.conv.bias.data[4:] = 0, 0
    x = torch.randn(2, 2, 4, 4).double()
    small = ps.compact(net, None, x)
    # Positions that are added vary, and a gate of a half needs its number.
    whole = name in ("interpolated places", "windows", "gated")
    assert small.conv.out_channels == (8 if whole else 4) and not small.account.barriers
    for shape in ((2, 2, 4, 4), (1, 2, 6, 8), (3, 2, 4, 12)):
        x = torch.randn(*shape).double()
        assert torch.allclose(small(x), net(x), rtol=1e-9, atol=1e-9)


class Patches(nn.Conv2d):
    """Notes the side of its image, which torch.fx does not see."""

    side = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < 1e9:
            self.side = x.shape[-1]
        return super().forward(x)


class Noted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.hidden, self.out = Patches(2, 4, 1), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).permute(0, 2, 3, 1).reshape(-1, self.patches.side, 4)
        return self.out(torch.relu(self.hidden(h))).mean(1)


@pytest.mark.parametrize("called", [True, False])
def test_a_graph_with_numbers_of_the_example_is_cut_in_place(called: bool) -> None:
    net = randomise(Noted()).eval()
    net.hidden.weight.data[3:], net.hidden.bias.data[3:] = 0, 0
    x = torch.randn(2, 2, 4, 4).double()
    if called:
        net(x)  # the graph then has this side; otherwise it fails on the example
    small = ps.compact(net, None, x)
    assert type(small) is Noted and small.hidden.out_features == 3
    for shape in ((2, 2, 4, 4), (1, 2, 6, 6)):
        x = torch.randn(*shape).double()
        assert torch.allclose(small(x), net(x), rtol=1e-9, atol=1e-9)


def test_what_fails_at_other_sizes_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    net = randomise(Images(*RESIZED["windows"])).eval()
    net.conv.weight.data[4:], net.conv.bias.data[4:] = 0, 0
    ps.compact(net, None, torch.randn(2, 2, 4, 4).double())
    assert capfd.readouterr().err == ""
