"""Sparse inference: every kernel computes what the dense layer does, and the fastest is taken."""

import copy
import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.compaction.check import difference
from pyrosparse.sparse import inference, sparse_inference
from pyrosparse.sparse.layers import candidates, smaller_kernel
from pyrosparse.sparse.products import products

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def error(expected: Tensor, actual: Tensor) -> float:
    return difference(expected.detach(), actual.detach())


def supports(kind: str, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    support = torch.zeros(rows, columns, dtype=torch.bool)
    if kind == "random":
        support = torch.rand(rows, columns, generator=generator) < 0.1
    elif kind == "blocks":
        blocks = torch.rand(-(-rows // 8), -(-columns // 8), generator=generator) < 0.1
        support = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[:rows, :columns]
    elif kind == "clusters":
        support[rows // 3 : rows // 2, : columns // 2] = True
        support[-2:, -3:] = True
    return support


@given(
    st.sampled_from(["random", "blocks", "clusters", "none"]),
    st.sampled_from([1, 7, 32, 64]),
    st.sampled_from([1, 9, 48, 64]),
    st.sampled_from([1, 2, 5]),
    st.sampled_from(list(TOLERANCE)),
)
@settings(max_examples=80, deadline=None)
def test_every_product_is_the_dense_one(
    kind: str, rows: int, columns: int, count: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(rows * columns)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    weight *= supports(kind, rows, columns, generator)
    x = torch.randn(columns, count, generator=generator).to(dtype)
    bias = torch.randn(rows, generator=generator).to(dtype)
    for name, product in products(weight, bias).items():
        assert error(weight @ x + bias[:, None], product(x)) <= TOLERANCE[dtype], name
    for name, product in products(weight, None).items():
        assert error(weight @ x, product(x)) <= TOLERANCE[dtype], name


def test_which_products_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(64, 72, generator=generator)
    names = {
        kind: list(products(random * supports(kind, 64, 72, generator), None))
        for kind in ("random", "clusters")
    }
    assert names["random"] == ["csr"]
    assert names["clusters"] == ["csr", "bsr 4", "bsr 8", "panels", "submatrix", "rectangles"]


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"padding": (2, 1)},
    "strided": {"stride": (2, 3), "padding": 2},
    "dilated": {"dilation": (2, 1), "padding": 3},
    "same": {"padding": "same"},
    "same and dilated": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid", "bias": False},
    "grouped": {"groups": 2, "padding": 1},
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's, of the dense convolution
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_convolution_is_the_dense_one(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(4, 6, (4, 5), **CONVOLUTIONS[name]).to(dtype)
    x = torch.randn(3, 4, 12, 15, generator=generator).to(dtype)
    kernels: list[tuple[Any, ...]] = [
        (..., slice(0, 1), slice(None)),
        (..., slice(3, 4), slice(2, 4)),
        (0, 0),
        (...,),
    ]
    for support in kernels:
        conv.weight.data.normal_(generator=generator)
        conv.weight.data[support] = 0
        found = dict(candidates(conv))
        # Four rows cannot be padded alike above and below.
        assert ("csr" in found) == (name not in ("grouped", "same"))
        for kernel, candidate in found.items():
            y = candidate(x)
            assert y.is_contiguous()
            assert error(conv(x), y) <= TOLERANCE[dtype], kernel


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CONVOLUTIONS)
@given(
    st.integers(0, 3), st.integers(1, 4), st.integers(0, 4), st.integers(1, 5), st.integers(0, 9)
)
@settings(max_examples=25, deadline=None)
def test_kernels_fit_in_smaller_kernels(
    name: str, top: int, height: int, left: int, width: int, seed: int
) -> None:
    conv = nn.Conv2d(2, 2, (4, 5), **CONVOLUTIONS[name]).double()
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.zeros_like(conv.weight)
    kernel[..., top : top + height, left : left + width] = 1
    conv.weight.data = kernel * torch.randn(kernel.shape, generator=generator).double()
    small = smaller_kernel(conv)
    sides = min(height, 4 - top), min(width, 5 - left)
    if small is None:
        assert sides == (4, 5)
        return
    inner = small[1] if isinstance(small, nn.Sequential) else small
    assert inner.weight.shape[2:] == sides
    x = torch.randn(2, 2, 12, 15, generator=generator).double()
    assert error(conv(x), small(x)) <= 1e-12


def test_a_kernel_of_zeros_and_other_paddings() -> None:
    conv = nn.Conv2d(1, 2, 3, padding=1)
    conv.weight.data.zero_()
    x = torch.ones(1, 1, 5, 5)
    for _, candidate in candidates(conv):
        assert torch.equal(candidate(x), conv(x))
    assert not list(candidates(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")))


class Preset:
    """In the place of ``latency``: the times of named kernels, later calls later times."""

    def __init__(self, *times: dict[str, float]) -> None:
        self.times = list(times)

    def __call__(self, kernels: dict[str, nn.Module], x: Tensor, repeats: int) -> dict[str, float]:
        times = self.times.pop(0) if len(self.times) > 1 else self.times[0]
        return {name: times.get(name, 9.0) for name in kernels}


def pruned(density: float = 0.1) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = ps.networks.lenet5_caffe().eval()
    for target in ps.weights(net):
        assert target.value is not None
        target.value.data[torch.rand(target.shape) > density] = 0
    net.conv1.weight.data[..., 3:] = 0
    net.fc1.weight.data[32:] = 0
    net.fc1.weight.data[:32] = torch.randn(32, 800) / 30
    return net, torch.randn(2, 1, 28, 28)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("kernel", "layers"),
    [
        ("csr", 4), ("panels", 1), ("submatrix", 3), ("rectangles", 1),
        ("smaller kernel", 1), ("bsr 8", 0), ("dense", 4),
    ],
)  # fmt: skip
def test_whole_networks(
    monkeypatch: pytest.MonkeyPatch, kernel: str, layers: int, dtype: torch.dtype
) -> None:
    net, x = pruned()
    net, x = net.to(dtype), x.to(dtype)
    monkeypatch.setattr(inference, "_times", Preset({kernel: 1.0, "dense": 2.0}))
    fast, kernels = sparse_inference(net, x)
    assert [layer.name for layer in kernels.layers] == ["conv1", "conv2", "fc1", "fc2"]
    replaced = [layer.name for layer in kernels.layers if layer.kernel == kernel]
    assert len(replaced) == layers
    assert all(layer.kernel in (kernel, "dense") for layer in kernels.layers)
    for size in (1, 2, 5):
        y = torch.randn(size, 1, 28, 28).to(dtype)
        assert error(net(y), fast(y)) <= 10 * TOLERANCE[dtype]
    for again in (copy.deepcopy(fast), through_a_file(fast)):
        assert torch.equal(again(x), fast(x))
    other, _ = sparse_inference(net, x)
    other.load_state_dict(fast.state_dict())


def through_a_file(net: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert type(loaded) is type(net)
    return loaded


@pytest.mark.parametrize(
    ("times", "kernel"),
    [
        ([{"dense": 1.19, "csr": 1.0}], "dense"),
        ([{"dense": 1.21, "csr": 1.0}], "csr"),
        ([{"dense": 2.0, "csr": 1.0}, {"dense": 1.1, "csr": 1.0}], "dense"),
        ([{"dense": 2.0, "csr": 1.0, "bsr 8": 0.9}, {"dense": 1.5, "bsr 8": 1.0}], "bsr 8"),
    ],
)
def test_dense_stays_unless_another_is_faster_twice(
    monkeypatch: pytest.MonkeyPatch, times: Sequence[dict[str, float]], kernel: str
) -> None:
    net = nn.Sequential(nn.Linear(64, 64)).eval()
    net[0].weight.data[8:] = 0
    monkeypatch.setattr(inference, "_times", Preset(*times))
    fast, kernels = sparse_inference(net, torch.randn(3, 64))
    assert kernels.layers[0].kernel == kernel
    assert (type(fast[0]) is nn.Linear) == (kernel == "dense")
    assert kernel in str(kernels)


def test_what_compact_returns() -> None:
    net, x = pruned()
    small = ps.compact(net, None, x)
    before = copy.deepcopy(small.state_dict())
    fast, kernels = sparse_inference(small, x, repeats=1)
    assert error(small(x), fast(x)) <= 1e-5
    assert all(torch.equal(small.state_dict()[name], before[name]) for name in before)
    assert {layer.kernel for layer in kernels.layers} <= kernels.layers[0].seconds.keys()
    density = {layer.name: layer.density for layer in kernels.layers}
    weight = small.get_parameter("fc1.weight")
    assert density.get("fc1", 1.0) == int(weight.count_nonzero()) / weight.numel()


class Tied(nn.Module):
    """One layer in two places, called on other shapes, and one that is read, not called."""

    def __init__(self, read: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.list = nn.ModuleList([self.first])
        self.same = self.first
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.read = read
        for module in (self.first, self.attention.out_proj):
            module.weight.data[torch.rand(8, 8) < 0.7] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.list[0](self.same(self.first(x)[:, :1]))
        x = self.attention(x, x, x)[0]
        return x @ self.first.weight if self.read else x


def test_layers_in_several_places_and_layers_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_times", Preset({"csr": 1.0, "dense": 2.0}))
    net, x = Tied().eval(), torch.randn(2, 5, 8)
    fast, kernels = sparse_inference(net, x)
    assert [layer.name for layer in kernels.layers] == ["first"]
    assert not any(type(module) is nn.Linear for module in fast.modules())
    assert error(net(x), fast(x)) <= 1e-5
    with pytest.raises(ValueError, match="cannot be replaced"):
        sparse_inference(Tied(read=True).eval(), x)


def test_a_layer_alone_and_inputs_without_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_times", Preset({"csr": 1.0, "dense": 2.0}))
    layer = nn.Linear(8, 8).eval()
    layer.weight.data[2:] = 0
    for x in (torch.randn(8), torch.randn(3, 8), torch.randn(2, 3, 8)):
        fast, kernels = sparse_inference(layer, x)
        assert kernels.layers[0].kernel == "csr"
        assert error(layer(x), fast(x)) <= 1e-5
    conv = nn.Conv2d(2, 3, 3).eval()
    conv.weight.data[:, 0] = 0
    x = torch.randn(2, 5, 5)
    assert error(conv(x), sparse_inference(conv, x)[0](x)) <= 1e-5


def test_hooks_and_half_precision_stay() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    for layer in net:
        layer.weight.data[2:] = 0
    net[0].register_forward_hook(lambda module, args, output: output + 1)
    x = torch.randn(2, 8)
    fast, kernels = sparse_inference(net, x, repeats=1)
    assert [layer.name for layer in kernels.layers] == ["1"]
    assert error(net(x), fast(x)) <= 1e-5
    half = net.bfloat16()
    x = x.bfloat16()
    assert error(half(x), sparse_inference(half, x, repeats=1)[0](x)) <= 0.1


def test_what_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout())
    with pytest.raises(ValueError, match=r"net\.eval"):
        sparse_inference(net, torch.ones(1, 3))
    with pytest.raises(ValueError, match="repeats"):
        sparse_inference(net.eval(), torch.ones(1, 3), repeats=0)
    assert not sparse_inference(net, torch.ones(1, 3))[1].layers
