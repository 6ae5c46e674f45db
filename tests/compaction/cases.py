"""Networks, random masks and an independent masked network for the tests of compaction."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compaction import CompactNet
from pyrosparse.lifting.hooks import Gate
from pyrosparse.lifting.target import Target, inputs, outputs

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Float64, with statistics, scales and biases of batch normalisation that are not trivial."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            draw(module.running_mean, -1, 1)
            draw(module.running_var, 0.5, 2)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)):
            if module.weight is not None:
                draw(module.weight, 0.5, 1.5)
            if module.bias is not None:
                draw(module.bias, -0.5, 0.5)
        if isinstance(module, LAYERS):
            fan = module.weight[0].numel()
            draw(module.weight, -((6 / fan) ** 0.5), (6 / fan) ** 0.5)
            if module.bias is not None:
                draw(module.bias, -0.5, 0.5)
    return net.double()


def structured(net: nn.Module, density: float, seed: int) -> dict[str, Tensor]:
    """Masks of weights by whole rows and columns, independent of layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, module in net.named_modules():
        if isinstance(module, LAYERS):
            shape = module.weight.shape
            rows, columns = (torch.rand(side, generator=generator) < density for side in shape[:2])
            rows[seed % len(rows)] = columns[seed % len(columns)] = True
            keep = rows[:, None] & columns
            # Beside them some single weights, which must not matter.
            single = torch.rand(shape, generator=generator) < 0.9
            single[seed % len(rows), seed % len(columns)] = True
            masks[f"{name}.weight"] = keep.view(*keep.shape, *[1] * (len(shape) - 2)) & single
    return masks


def gains(net: nn.Module, density: float, seed: int, kind: str) -> dict[str, Tensor]:
    """Gates with gains at the inputs or outputs of all layers that can have them."""
    generator = torch.Generator().manual_seed(seed)
    kinds = {"input": inputs, "output": outputs}
    masks = {}
    with warnings.catch_warnings():
        # Torch's attention computes past hooks, and is left out.
        warnings.filterwarnings("ignore", message="the default targets leave out layers")
        targets = kinds[kind](net)
    for target in targets:
        gain = torch.rand(target.shape, generator=generator, dtype=torch.float64) + 0.5
        keep = torch.rand(target.shape, generator=generator) < density
        keep[seed % len(keep)] = True
        masks[target.key] = gain * keep
    return masks


def run_masked(net: nn.Module, masks: Mapping[str, Tensor], *x: Tensor) -> Tensor:
    """The masked network by its definition: weights multiplied, gates as hooks."""
    net = copy.deepcopy(net).eval()
    parameters = dict(net.named_parameters())
    for key, mask in masks.items():
        if key in parameters:
            parameters[key].data.mul_(mask)
            continue
        name, _, kind = key.rpartition(".")
        module = net.get_submodule(name)
        dim = -1 if isinstance(module, (nn.Linear, nn.LayerNorm)) else 1
        target = Target(name, kind, tuple(mask.shape), axis=dim)
        Gate(target, lambda _, mask=mask: mask.to(x[0])).on(module)
    with torch.no_grad():
        result = net(*x)
    return result


def same(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    """Equal within a fraction of the largest output; outputs of nothing but zeros do not count."""
    actual, expected = actual.detach(), expected.detach()
    scale = float(expected.abs().max())
    assert scale > 1e-4, "these outputs could hide any difference"
    return (
        actual.shape == expected.shape
        and float((actual - expected).abs().max()) < tolerance * scale
    )


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, t, d))


class TransformerBlock(nn.Module):
    """Pre-normalised, with our own attention or torch's."""

    def __init__(self, width: int = 16, heads: int = 4, hidden: int = 32, torchs: bool = False):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.torchs = torchs
        if torchs:
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        else:
            self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + (self.attention(y, y, y)[0] if self.torchs else self.attention(y))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


class Dense(nn.Module):
    """Concatenation as in DenseNet, with batch normalisation of the whole stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.head(F.avg_pool2d(x, 8).view(x.size(0), -1))


class Separable(nn.Module):
    """Depthwise, grouped and transposed convolutions, and channel weights as in SENet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(16, 12, 3, padding=1, groups=4)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.prelu = nn.PReLU(6)
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.bn(self.conv(x)))
        x = F.relu6(self.depthwise(x), inplace=True)
        x = self.grouped(x).tanh()
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = self.prelu(self.up(x * weights))
        return self.head(F.max_pool2d(x, 4).flatten(1))


class Kinds(nn.Module):
    """A network with an operation and an argument of every kind in its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.rnn = nn.LSTM(4, 3)
        self.shift = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        x = F.relu(self.bn(self.conv(x))).mean((2, 3)) + self.shift
        x = torch.cat([x, x.view(x.shape[0], 3)[:, :1]], 1)
        return self.rnn(x)[0] * torch.full((), scale, dtype=x.dtype)


def kinds() -> CompactNet:
    """The same one every time, compact."""
    torch.manual_seed(0)
    return ps.compact(Kinds(), None, torch.randn(2, 1, 4, 4))
