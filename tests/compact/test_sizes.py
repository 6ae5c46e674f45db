"""Sizes of the input: a network compacted on an example is right at every other size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compact.check import SizeError, check
from tests.compact.cases import randomise


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
        net.four(F.adaptive_avg_pool2d(h, 2).flatten(1)) / F.adaptive_avg_pool2d(h, 2).flatten(1).size(1)
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
