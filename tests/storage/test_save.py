"""Files of compact networks: what is loaded is what was saved, and no file does anything else."""

import copy
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import pyrosparse as ps
from pyrosparse.compaction import CompactNet
from pyrosparse.compaction.rules import _ARITHMETIC, _CALLS, _DROPOUTS, _MODULES
from pyrosparse.storage.modules import _NAME_OF, build, describe, named_tensors
from pyrosparse.storage.operations import METHODS, function, function_name
from pyrosparse.storage.values import decode, encode
from tests.compaction.cases import structured
from tests.compaction.test_architectures import KINDS, NETWORKS, make, masks_of


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def same_networks(first: CompactNet, second: CompactNet) -> bool:
    """Names, numbers, types, places in memory, modes, graph and account."""
    tensors = [
        [
            (name, bits(t), t.dtype, t.shape, t.stride(), t.requires_grad, type(t))
            for name, t in [*net.named_parameters(), *net.named_buffers()]
        ]
        for net in (first, second)
    ]
    modes = [{name: m.training for name, m in net.named_modules()} for net in (first, second)]
    graphs = [
        [(n.op, n.name, n.target, n.args, n.kwargs) for n in net.graph.nodes]
        for net in (first, second)
    ]
    return (
        tensors[0] == tensors[1]
        and modes[0] == modes[1]
        and str(graphs[0]) == str(graphs[1])
        and list(first.state_dict()) == list(second.state_dict())
        and first.account == second.account
        and str(first.account) == str(second.account)
    )


def one(*layers: nn.Module, x: Tensor | None = None) -> CompactNet:
    torch.manual_seed(0)
    return ps.compact(nn.Sequential(*layers), None, x)


def small_net() -> CompactNet:
    return one(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


# Every architecture with every kind of mask, and each kind alone where layers differ most.
CASES = [(name, "both") for name in NETWORKS]
CASES += [(name, kind) for name in ("separable", "transformer_torch") for kind in KINDS[:3]]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_architecture_comes_back(tmp_path: Path, name: str, kind: str) -> None:
    net, x = make(name)
    small = ps.compact(net, masks_of(net, kind, 0.5, 0), x, at_least=0)
    path = ps.save(tmp_path / "a.safetensors", small)
    again = ps.load(path)
    assert isinstance(again, CompactNet) and same_networks(again, small)
    for other in (again, copy.deepcopy(again)):
        assert ps.save(tmp_path / "b.safetensors", other).read_bytes() == path.read_bytes()
    expected = small.eval()(x)
    assert torch.equal(again.eval()(x), expected)
    assert torch.equal(copy.deepcopy(again)(x), expected)
    first, second = (ps.compact(one, None, x, at_least=0) for one in (small, again))
    assert same_networks(first, second)


@pytest.mark.parametrize("name", ["resnet_projection", "transformer_torch"])
def test_training_goes_on_as_it_would_have(tmp_path: Path, name: str) -> None:
    net, x = make(name)
    small = ps.compact(net, structured(net, 0.6, 0), x, at_least=0).train()
    nets = [small, ps.load(ps.save(tmp_path / "a.safetensors", small))]
    for one in nets:
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            one(x).square().sum().backward()
            optimizer.step()
    assert not torch.equal(next(nets[0].parameters()), next(iter(net.parameters())))
    assert same_networks(*nets)


def test_needs_no_code_of_the_user(tmp_path: Path) -> None:
    net, x = make("separable")  # a class of the tests
    small = ps.compact(net, structured(net, 0.6, 0), x, at_least=0).eval()
    ps.save(tmp_path / "a.safetensors", small)
    save_file({"x": x}, tmp_path / "x.safetensors")
    script = """
import pickle, sys, torch, pyrosparse as ps
from safetensors.torch import load_file, save_file
def refuse(*args, **kwargs): raise AssertionError("pickle")
torch.load = pickle.load = pickle.loads = pickle.Unpickler = refuse
net = ps.load("a.safetensors")
save_file({"y": net(load_file("x.safetensors")["x"]).detach()}, "y.safetensors")
assert not any(name.startswith("tests") for name in sys.modules)
"""
    root = str(Path(ps.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)
    assert torch.allclose(load_file(tmp_path / "y.safetensors")["y"], small(x), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_types_modes_and_places(tmp_path: Path, dtype: torch.dtype) -> None:
    small = small_net().to(dtype)
    small.get_submodule("2").eval().weight.requires_grad_(False)
    weight = small.get_parameter("0.weight")
    weight.data = weight.data.T.contiguous().T
    again = ps.load(ps.save(tmp_path / "a", small))
    assert same_networks(again, small)
    assert again.training and not again.get_submodule("2").training
    assert again.get_parameter("0.weight").stride() == (1, 3)


@pytest.mark.parametrize(
    "sides", [(4, 3, 3, 3), (1, 5, 3, 3), (5, 1, 3, 3), (6, 4, 1, 1), (1, 1, 1, 1)]
)
def test_channels_last(tmp_path: Path, sides: tuple[int, ...]) -> None:
    conv = nn.Conv2d(sides[1], sides[0], sides[2])
    x = torch.randn(2, sides[1], 5, 5)
    for small in (one(conv, x=x), one(conv, x=x).to(memory_format=torch.channels_last)):
        again = ps.load(ps.save(tmp_path / "a", small))
        assert same_networks(again, small)  # with the strides
        last = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(again(last), small(last))


def test_a_view_is_saved_alone(tmp_path: Path) -> None:
    small = small_net()
    table = torch.randn(100, 100)
    small.get_parameter("0.weight").data = table[:3, 10:14]
    again = ps.load(ps.save(tmp_path / "a", small))
    weight = again.get_parameter("0.weight")
    assert torch.equal(weight, table[:3, 10:14]) and weight.is_contiguous()
    assert weight.untyped_storage().nbytes() == 48


class Tied(nn.Module):
    """Weights with two names, and tensors that no layer has."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.shift = nn.Parameter(torch.randn(4), requires_grad=False)
        self.register_buffer("scale", torch.randn(4), persistent=False)

    def forward(self, x: Tensor, more: Tensor | None = None, twice: bool = True) -> Tensor:
        x = self.second(self.first(x) * self.scale + self.shift)
        return F.linear(2 * x if twice else x, self.first.weight.flip(0))


def test_tied_weights_and_tensors_of_no_layer(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    small = ps.compact(Tied(), None, x)
    again = ps.load(ps.save(tmp_path / "a", small))
    assert same_networks(again, small) and torch.equal(again(x), small(x))
    assert again.get_parameter("second.weight") is again.get_parameter("first.weight")
    assert isinstance(again.shift, nn.Parameter) and not again.shift.requires_grad
    assert len(list(again.parameters())) == len(list(small.parameters()))


def test_zeros_cost_little_and_every_bit_counts(tmp_path: Path) -> None:
    small = one(nn.Linear(400, 300))
    whole = ps.save(tmp_path / "a", small).stat().st_size
    weight = small.get_parameter("0.weight").data
    weight[torch.rand(weight.shape) < 0.99] = 0
    weight.view(-1)[:4] = torch.tensor([-0.0, torch.nan, torch.inf, -torch.inf])
    path = ps.save(tmp_path / "b", small)
    assert path.stat().st_size < 0.03 * whole
    assert same_networks(ps.load(path), small)
    assert bits(ps.load(path).get_parameter("0.weight")) == bits(weight)


def test_clusters_are_saved_as_rectangles(tmp_path: Path) -> None:
    small = one(nn.Conv2d(20, 30, 5), x=torch.randn(1, 20, 6, 6))
    weight = small.get_parameter("0.weight").data
    cluster = weight[:, 3:17].clone()
    path = ps.save(tmp_path / "a", small)
    overhead = path.stat().st_size - 4 * weight.numel()
    weight.zero_()[:, 3:17] = cluster
    weight[0, 0, 0, 0] = 1
    path = ps.save(tmp_path / "b", small)
    # Less than a bit for each element, and not 300 bytes more of header.
    assert path.stat().st_size < 4 * (cluster.numel() + 1) + overhead + 300
    assert weight.numel() / 8 > 300
    assert same_networks(ps.load(path), small)


def test_saving_and_loading_leave_the_generators_and_the_network_alone(tmp_path: Path) -> None:
    net, x = make("transformer_torch")
    small = ps.compact(net, None, x)
    before, state = copy.deepcopy(small), torch.get_rng_state()
    ps.load(ps.save(tmp_path / "a", small))
    assert torch.equal(torch.get_rng_state(), state)
    assert same_networks(small, before)


def test_a_full_disk_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ps.save(tmp_path / "a", small_net())
    content = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="free some space"):
        ps.save(path, one(nn.Linear(9, 9)))
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == ["a"]


# What layers and operations a file can hold.

LAYERS = [
    (nn.Linear(3, 2, bias=False), (4, 3)),
    (nn.Bilinear(3, 3, 2), None),
    (nn.Conv1d(2, 4, 3, 2, 1, dilation=2, groups=2, padding_mode="circular"), (1, 2, 9)),
    (nn.Conv2d(2, 4, (3, 1), padding="same", bias=False), (1, 2, 5, 5)),
    (nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1, groups=2), (1, 4, 3, 3)),
    (nn.BatchNorm2d(3, eps=1e-3, momentum=None, affine=False), (2, 3, 4, 4)),
    (nn.BatchNorm1d(3, track_running_stats=False), (2, 3)),
    (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (2, 3, 4, 4)),
    (nn.GroupNorm(2, 4, affine=False), (2, 4, 3)),
    (nn.LayerNorm((3, 4), bias=False), (2, 3, 4)),
    (nn.LayerNorm(4, elementwise_affine=False), (2, 4)),
    (nn.RMSNorm(4, eps=0.1), (2, 4)),
    (nn.LocalResponseNorm(2, alpha=0.1), (2, 4, 3)),
    (nn.MaxPool2d(3, 2, 1, return_indices=False, ceil_mode=True), (1, 2, 6, 6)),
    (nn.AvgPool2d((2, 3), divisor_override=5), (1, 2, 6, 6)),
    (nn.AdaptiveAvgPool2d((None, 2)), (1, 2, 6, 6)),
    (nn.LPPool2d(2.0, 3), (1, 2, 6, 6)),
    (nn.PReLU(3, init=0.1), (2, 3)),
    (nn.GELU(approximate="tanh"), (2, 3)),
    (nn.Hardtanh(-2, 3.5), (9, 9)),
    (nn.LeakyReLU(0.3, inplace=True), (9, 9)),
    (nn.ELU(0.3), (9, 9)),
    (nn.Softplus(2, 3), (9, 9)),
    (nn.Threshold(0.1, -2.0), (9, 9)),
    (nn.Softmax(dim=1), (2, 3)),
    (nn.GLU(0), (2, 3)),
    (nn.Dropout2d(0.7, inplace=True), (2, 3, 4, 4)),
    (nn.Flatten(0, 1), (2, 3, 4)),
    (nn.Unflatten(1, (2, 2)), (2, 4)),
    (nn.Unfold(2, stride=2), (1, 2, 4, 4)),
    (nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True), (1, 2, 3, 3)),
    (nn.ConstantPad2d((1, 0, 2, 1), float("-inf")), (1, 2, 3, 3)),
    (nn.ReflectionPad1d(1), (1, 2, 3)),
    (nn.PixelShuffle(2), (1, 4, 3, 3)),
    (nn.ChannelShuffle(2), (1, 4, 3, 3)),
    (nn.Identity(), (2,)),
    (nn.Embedding(5, 3, padding_idx=2, max_norm=1.0), None),
    (nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True), (2, 5, 3)),
    (nn.LSTM(3, 4, proj_size=2, dropout=0.0), None),
    (nn.GRU(3, 4, bias=False), (5, 2, 3)),
    (nn.RNN(3, 4, nonlinearity="relu"), (5, 2, 3)),
    (nn.LSTMCell(3, 4, bias=False), (2, 3)),
    (nn.MultiheadAttention(4, 2, dropout=0.1, bias=False, add_bias_kv=True, kdim=3, vdim=5), None),
    (nn.MultiheadAttention(4, 2, add_zero_attn=True, batch_first=True), None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "shape"), LAYERS, ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else ""
)
def test_layers_of_torch(layer: nn.Module, shape: tuple[int, ...] | None) -> None:
    description = json.loads(json.dumps(describe("layer", layer)))
    again = build(description, named_tensors(layer))
    assert type(again) is type(layer) and repr(again) == repr(layer)
    assert describe("layer", again) == description
    again.to_empty(device="cpu").load_state_dict(layer.state_dict())
    if shape is not None:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        results = [copy.deepcopy(net).eval()(x.clone()) for net in (layer, again)]
        for first, second in zip(*map(tree_leaves, results), strict=True):
            assert torch.equal(first, second)


def test_all_that_compaction_knows_can_be_saved() -> None:
    for target in [*_CALLS, *_ARITHMETIC, *_DROPOUTS]:
        if isinstance(target, str):
            assert target in METHODS
        else:
            name = function_name(target)
            assert name is not None and function(name) is target
    assert _NAME_OF.keys() >= _MODULES.keys()


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([..., torch.float16, torch.channels_last, torch.strided, torch.device("cpu")])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
        | st.builds(slice, inner, inner, inner)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_arguments_come_back(value: Any) -> None:
    again = decode(json.loads(json.dumps(encode(value, {}), allow_nan=False)), {})
    assert repr(again) == repr(value)  # nan, and -0.0, and True beside 1
    assert type(again) is type(value)


def test_functions_of_torchvision_that_are_not_traced(tmp_path: Path) -> None:
    swin = pytest.importorskip("torchvision").models.swin_transformer
    net = swin.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [4, 4], num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    small = ps.compact(net, None, x)
    again = ps.load(ps.save(tmp_path / "swin.safetensors", small))
    assert torch.equal(again(x), small(x))
