"""Functions with parameters: dense layers and normalisations that are written as such."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from tests.compaction.cases import gains, randomise, run_masked, same
from tests.compaction.test_in_place import draw


class Dense(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class NormAct(nn.BatchNorm2d):
    """A normalisation with an activation in it, as timm's."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, "images")
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
            self.momentum, self.eps,
        )  # fmt: skip
        return self.act(x)


class Padded(nn.Conv2d):
    """A convolution with a layer that pads, as in ports from TensorFlow."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            self.pad(x), self.weight, self.bias, self.stride, self.padding, self.dilation,
            self.groups,
        )  # fmt: skip


class Convolved(nn.Module):
    """Convolutions and norms by functions, with their parameters at the network itself."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        kinds = (nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d)
        kind, transposed = (*kinds, (nn.Conv3d, nn.ConvTranspose3d))[rank - 1]
        self.convolution, self.transposed = (
            getattr(F, f"conv{rank}d"), getattr(F, f"conv_transpose{rank}d"),
        )  # fmt: skip
        first, grouped = kind(2, 8, 3), kind(8, 8, 3, groups=4)
        up, last = transposed(8, 6, 3), kind(6, 3, 1)
        for number, layer in enumerate((first, grouped, up, last)):
            self.register_parameter(f"weight_{number}", layer.weight)
            self.register_parameter(f"bias_{number}", layer.bias)
        self.slope = nn.Parameter(torch.full((8,), 0.2))
        self.scale, self.shift = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x, self.weight_0, self.bias_0)
        x = F.prelu(x, self.slope)
        x = self.convolution(x, self.weight_1, bias=self.bias_1, groups=4, padding=1)
        x = self.transposed(x.relu(), self.weight_2, self.bias_2, stride=2, output_padding=1)
        x = F.group_norm(x, 3, self.scale, self.shift)
        return self.convolution(x, self.weight_3, self.bias_3, padding="same")


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions(rank: int) -> None:
    net = randomise(Convolved(rank)).eval()
    net.weight_0.data[:2], net.bias_0.data[:2], net.bias_1.data[:2] = 0, 0, -1
    net.weight_2.data[5:] = 0
    net.weight_3.data[:, 4:] = 0
    x = draw(2, 2, *[5] * rank)
    small = ps.compact(net, None, x)
    assert not small.account.barriers and same(small(x), net(x))
    layers = {type(one).__name__: one for one in small.children()}
    # Inputs 0 and 1 of the transposed convolution are zero, and it reads no input above 4.
    assert layers[f"ConvTranspose{rank}d"].in_channels == 3
    assert layers["PReLU"].num_parameters == 4
    # What the smaller network reads at other sizes is right too.
    assert same(small(draw(1, 2, *[6] * rank)), net(draw(1, 2, *[6] * rank)))


def test_a_convolution_with_a_layer_in_it(tmp_path: Path) -> None:
    def block(inputs: int, width: int) -> list[nn.Module]:
        return [
            Padded(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(),
            Padded(width, width, 2, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU6(),
            Padded(width, inputs, 1, bias=False), nn.BatchNorm2d(inputs),
        ]  # fmt: skip

    net = nn.Sequential(*block(3, 8), nn.Flatten(), nn.Linear(3 * 49, 2))
    randomise(net).eval()
    masks = gains(net, 0.5, 0, "input")
    masks = ps.Masks({key: masks[key] for key in ("3.input", "6.input")})
    x = draw(2, 3, 5, 5)
    small = ps.compact(net, masks, x)
    assert not small.account.barriers and same(small(x), run_masked(net, masks, x))
    # A channel that is zero at 3 is a constant of the next norm, which ends at the border of 6.
    kept = int((masks["6.input"] > 0).sum())
    widths = [one.out_channels for one in small.modules() if isinstance(one, nn.Conv2d)]
    assert widths == [kept, kept, 3] and kept < 8
    assert any(isinstance(one, nn.ZeroPad2d) for one in small.modules())
    path = ps.save(tmp_path / "small.safetensors", small)
    assert torch.equal(ps.load(path)(x), small(x))


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised in each call, as in normaliser-free networks."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = self.gain * weight / (weight.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class LowRank(nn.Linear):
    """A dense layer with frozen weights and a product of low rank, as in fine-tuning by LoRA."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + self.up.weight @ self.down.weight, self.bias)


def test_weights_that_are_computed_are_computed_once() -> None:
    layers = [nn.Conv2d(2, 8, 1), nn.ReLU(), Standardised(8, 6, 3), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(*layers, LowRank(6 * 4, 5), nn.ReLU(), nn.Linear(5, 2))
    randomise(net).eval()
    net[5].weight.requires_grad_(False)
    net[0].weight.data[:3], net[0].bias.data[:3] = 0, 0
    net[2].gain.data[:2], net[2].bias.data[:2] = 0, -1
    net[7].weight.data[:, 3:] = 0
    x = draw(2, 2, 4, 4)
    small = ps.compact(net, None, x)
    assert not small.account.barriers and same(small(x), net(x))
    assert [type(one) for one in small.modules() if list(one.parameters(recurse=False))] == [
        nn.Conv2d, nn.Conv2d, nn.Linear, nn.Linear,
    ]  # fmt: skip
    assert small.get_submodule("2").weight.shape == (4, 5, 3, 3)
    # They are trained as the parameters were from which they are computed.
    assert all(parameter.requires_grad for parameter in small.parameters())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())


def test_weights_that_are_drawn_or_tied_stay_and_fixed_ones_are_cut() -> None:
    class Noisy(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight + torch.rand_like(self.weight) * 1e-12, self.bias)

    class Blurred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.full((4, 1, 2, 2), 0.25))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel, groups=4)

    class Shifted(nn.Linear):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs, bias=False)
            self.register_buffer("shift", torch.ones(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight, self.shift)

    layers = [nn.Conv2d(2, 4, 1), Noisy(4, 4, 1), nn.Conv2d(4, 4, 1), Blurred(), nn.Flatten()]
    net = randomise(nn.Sequential(*layers, nn.Linear(4 * 9, 4), Shifted(4, 2))).eval()
    net[0].weight.data[:2], net[2].weight.data[:2], net[5].weight.data[:2] = 0, 0, 0
    x = draw(2, 2, 4, 4)
    small = ps.compact(net, None, x)
    assert set(small.account.barriers) == {"conv2d"}
    assert same(small(x), net(x)) and small.get_submodule("5").out_features == 2
    assert small.get_submodule("0").out_channels == 4
    assert small.get_submodule("2").out_channels == 2
    blur = small.get_submodule("3")
    assert blur.groups == 2 and not blur.weight.requires_grad


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm, nn.RMSNorm])
def test_dense_layers_and_norms(norm: type[nn.Module]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = Dense(4, 8), norm(8)
            self.second, self.last = Dense(8, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.norm(self.first(x))).relu())

    net = randomise(Net()).eval()
    net.norm.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    net.first.weight.data[:3], net.first.bias.data[:2] = 0, 0
    net.second.weight.data[:, 2:5], net.second.weight.data[:2] = 0, 0
    x = draw(5, 4)
    small = ps.compact(net, None, x)
    assert not small.account.barriers and small.second.out_features == 4
    # What is zero goes before the root of the mean square; before a layer norm, every constant.
    assert small.first.out_features == (5 if norm is LayerNorm else 6)
    assert same(small(x), net(x)) and same(small(10 * x), net(10 * x))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_norm_with_an_activation_in_it(seed: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), NormAct(8), nn.Conv2d(8, 6, 1), NormAct(6), nn.Flatten(),
        nn.Linear(6 * 9, 4),
    )  # fmt: skip
    randomise(net, seed).eval()
    net[1].weight.data[:2], net[2].weight.data[:, 4:6] = 0, 0
    x = draw(2, 3, 5, 5)
    small = ps.compact(net, None, x)
    assert isinstance(small, ps.compaction.CompactNet)
    assert small.get_submodule("0").out_channels == 4 and not small.account.barriers
    masks = gains(net, 0.5, seed, "input")
    assert same(ps.compact(net, masks, x)(x), run_masked(net, masks, x))


def test_weights_that_are_read_twice_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner = nn.Linear(4, 6, bias=False), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.inner(self.embed(x)), self.embed.weight.T)

    net = randomise(Tied()).eval()
    net.inner.weight.data[:2] = 0
    x = draw(3, 4)
    assert same(ps.compact(net, None, x)(x), net(x))


def test_a_norm_of_timms_is_one() -> None:
    layers = pytest.importorskip("timm.layers", reason="timm's normalisations")
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), layers.BatchNormAct2d(8), nn.Flatten(2), nn.Linear(16, 8),
        layers.LayerNorm(8), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2),
    )  # fmt: skip
    randomise(net).eval()
    net[5].weight.data[1:3] = 0
    x = draw(2, 3, 4, 4)
    small = ps.compact(net, None, x)
    assert small.get_submodule("7").in_features == 2 and not small.account.barriers
    assert same(small(x), net(x))
