"""Blocks as networks of others have them: what is zero before them is cut through them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps

C = 8


class Network(nn.Module):
    """A block between two convolutions; half of the first one's filters are zero."""

    def __init__(self, make: Callable[..., Any], run: Callable[..., Tensor], inner: int) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, C, 3), nn.Conv2d(inner, 4, 1)
        self.run = run
        for name, part in make().items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.run(self, torch.relu(self.before(x))))


def nothing() -> dict[str, Any]:
    return {}


def squeeze() -> dict[str, Any]:
    return {"fc": nn.Sequential(nn.Linear(C, 3), nn.ReLU(), nn.Linear(3, C), nn.Sigmoid())}


def scale() -> dict[str, Any]:
    return {"gamma": nn.Parameter(torch.rand(C) + 0.5)}


def blur() -> dict[str, Any]:
    kernel = torch.tensor([1.0, 2.0, 1.0])
    square = kernel[:, None] * kernel / 16
    return {"kernel": square[None, None].repeat(C, 1, 1, 1)}


def two() -> dict[str, Any]:
    return {"a": nn.Conv2d(C, C, 1), "b": nn.Conv2d(C, C, 3, padding=1)}


def expanded(net: Any, x: Tensor) -> Tensor:
    b, c, _, _ = x.size()
    y = net.fc(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1)
    return x * y.expand_as(x)


def space_to_depth(_: Any, x: Tensor) -> Tensor:
    parts = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.cat(parts, 1)


def pooled(_: Any, x: Tensor) -> Tensor:
    whole = x.mean((2, 3), keepdim=True).expand(-1, -1, x.shape[2], x.shape[3])
    return torch.cat([x, whole], 1)


def spatial_attention(net: Any, x: Tensor) -> Tensor:
    both = torch.cat([x.mean(1, keepdim=True), x.sum(dim=1, keepdim=True)], 1)
    return x * torch.sigmoid(net.gate(both))


def selective(net: Any, x: Tensor) -> Tensor:
    return torch.stack([net.a(x), net.b(x)], dim=1).sum(1)


def tokens(net: Any, x: Tensor) -> Tensor:
    """To positions in one dimension and back, as transformers with convolutions have them."""
    b, c, h, w = x.shape
    y = net.fc(x.flatten(2).transpose(1, 2))
    return y.transpose(1, 2).view(b, c, h, w)


def normalised(net: Any, x: Tensor) -> Tensor:
    """Batch normalisation of tokens, with the data and positions in one dimension."""
    y = x.flatten(2).transpose(1, 2)
    y = net.norm(y.flatten(0, 1)).reshape_as(y)
    return y.transpose(1, 2).reshape(x.shape)


def windows(_: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    y = x.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2, c)
    return y.transpose(2, 3).reshape(b, h, w, c).permute(0, 3, 1, 2)


BLOCKS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor], int]] = {
    "excitation by expand_as": (squeeze, expanded, C),
    "excitation by unsqueeze": (
        squeeze,
        lambda net, x: x * net.fc(x.mean((2, 3))).unsqueeze(-1).unsqueeze(2),
        C,
    ),
    "excitation by new dimensions": (
        squeeze,
        lambda net, x: x * net.fc(x.mean((2, 3)))[:, :, None, None],
        C,
    ),
    "excitation by reshape": (
        squeeze,
        lambda net, x: torch.mul(x, net.fc(x.mean((2, 3))).reshape(-1, C, 1, 1)),
        C,
    ),
    "excitation and squeeze": (
        squeeze,
        lambda net, x: (
            x * net.fc(x.mean((2, 3), keepdim=True).squeeze(3).squeeze(-1))[..., None, None]
        ),
        C,
    ),
    "layer scale": (scale, lambda net, x: x * net.gamma[:, None, None], C),
    "affine": (
        lambda: {
            "alpha": nn.Parameter(torch.rand(1, C, 1, 1)),
            "beta": nn.Parameter(torch.zeros(C)),
        },
        lambda net, x: torch.addcmul(net.beta[:, None, None], net.alpha, x, value=2.0),
        C,
    ),
    "generalised mean": (
        nothing,
        lambda _, x: x.clamp(min=1e-6).pow(3).mean((2, 3), keepdim=True).pow(1 / 3) + x,
        C,
    ),
    "normalised features": (nothing, lambda _, x: F.normalize(x, dim=1), C),
    "normalised positions": (nothing, lambda _, x: F.normalize(x, p=1.0, dim=2), C),
    "norm of the features": (nothing, lambda _, x: x * x.norm(dim=1, keepdim=True), C),
    "norm of the positions": (
        nothing,
        lambda _, x: x * torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
        C,
    ),
    "mean of the features": (nothing, lambda _, x: x * x.mean(1, keepdim=True), C),
    "mean without its dimension": (nothing, lambda _, x: x * torch.mean(x, 1)[:, None], C),
    "mean of features and positions": (
        nothing,
        lambda _, x: x * x.mean((1, 2, 3), keepdim=True),
        C,
    ),
    "spatial attention": (lambda: {"gate": nn.Conv2d(2, 1, 3, padding=1)}, spatial_attention, C),
    "blur": (
        blur,
        lambda net, x: F.conv2d(
            F.pad(x, (1, 1, 1, 1), mode="reflect"), net.kernel, stride=2, groups=x.shape[1]
        ),
        C,
    ),
    "selective kernels": (two, selective, C),
    "concatenated positions": (nothing, lambda _, x: torch.cat([x, 2 * x[:, :, ::2]], dim=2), C),
    "tokens": (lambda: {"fc": nn.Linear(C, C)}, tokens, C),
    "normalised tokens": (lambda: {"norm": nn.BatchNorm1d(C)}, normalised, C),
    "windows": (nothing, windows, C),
    "all in one dimension": (
        nothing,
        lambda _, x: (
            x.permute(0, 2, 3, 1)
            .reshape(-1, C)
            .relu()
            .view(x.shape[0], x.shape[2], x.shape[3], C)
            .permute(0, 3, 1, 2)
        ),
        C,
    ),
    "padded to a multiple": (
        nothing,
        lambda _, x: F.pad(x, (0, -x.shape[3] % 3, 0, x.shape[2] // 2)),
        C,
    ),
    "space to depth": (nothing, space_to_depth, 4 * C),
    "global pooling beside": (nothing, pooled, 2 * C),
}


def case(name: str) -> Network:
    torch.manual_seed(0)
    net = Network(*BLOCKS[name]).double().eval()
    with torch.no_grad():
        net.before.weight[::2] = 0
        net.before.bias[::2] = 0
    return net


@pytest.mark.parametrize("name", BLOCKS)
def test_zero_channels_are_cut_through_the_block(name: str, tmp_path: Path) -> None:
    net = case(name)
    small = ps.compact(net, None, torch.randn(2, 3, 10, 10).double())
    assert not small.account.barriers
    assert small.get_submodule("before").out_channels == C // 2
    again = ps.load(ps.save(tmp_path / "small.safetensors", small))
    for size in ((2, 3, 10, 10), (3, 3, 10, 10), (1, 3, 8, 12)):
        x = torch.randn(size).double()
        torch.testing.assert_close(small(x), net(x), rtol=1e-10, atol=1e-12)
        assert torch.equal(again(x), small(x))


@pytest.mark.parametrize("name", ["mean of the features", "mean of features and positions"])
def test_constants_count_in_a_mean_of_features(name: str) -> None:
    net = case(name)
    with torch.no_grad():
        net.before.bias[::2] = torch.arange(1.0, 1 + C // 2).double()
    small = ps.compact(net, None, torch.randn(2, 3, 10, 10).double())
    x = torch.randn(3, 3, 9, 11).double()
    torch.testing.assert_close(small(x), net(x), rtol=1e-10, atol=1e-12)


def test_a_maximum_of_features_reads_all() -> None:
    """The largest of all may be a constant."""
    net = case("mean of the features")
    net.run = lambda _, x: x - 10 + (x - 10).amax(1, keepdim=True)
    small = ps.compact(net, None, torch.randn(2, 3, 10, 10).double())
    x = torch.randn(3, 3, 10, 10).double()
    torch.testing.assert_close(small(x), net(x), rtol=1e-10, atol=1e-12)
