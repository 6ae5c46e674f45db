"""ONNX files: onnxruntime computes what the network computes, or there is no file."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.storage import onnx_file
from pyrosparse.storage.onnx_file import ExportError
from tests.compaction.test_architectures import make, masks_of

REASON = "needs the packages of pip install 'pyrosparse[onnx]'"


@pytest.fixture
def runtime():
    """onnxruntime, where all that is needed to export is installed."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=REASON)
    return pytest.importorskip("onnxruntime", reason=REASON)


def run(runtime, path: Path, *inputs: Tensor) -> list[Tensor]:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, feed)]


def close(actual: Tensor, expected: Tensor) -> bool:
    error = (actual - expected).abs().max() / expected.abs().max()
    return actual.shape == expected.shape and float(error) < 1e-5


@pytest.mark.parametrize("name", ["lenet5_caffe", "resnet_pad", "separable", "transformer_torch"])
def test_compact_networks_at_every_batch_size(runtime, tmp_path: Path, name: str) -> None:
    net, x = make(name)
    net, x = net.float(), x.float()
    small = ps.compact(net, masks_of(net, "both", 0.6, 0), x, at_least=0)
    path = ps.export_onnx(small, tmp_path / "a.onnx", x[:1])
    assert small.training
    small.eval()
    for size in (1, 3, 8):
        y = torch.randn(size, *x.shape[1:], generator=torch.Generator().manual_seed(size))
        assert close(run(runtime, path, y)[0], small(y).detach())
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


class Several(nn.Module):
    """Two batches, a table that is none, an option, and two results."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.fc = nn.Linear(4, 3)

    def forward(
        self, x: Tensor, index: Tensor, table: Tensor, twice: bool = False
    ) -> tuple[Tensor, Tensor]:
        y = self.fc(x + self.embed(index)) @ table
        return (2 * y if twice else y), index + 1


def test_several_inputs_and_results(runtime, tmp_path: Path) -> None:
    net = Several()
    table = torch.randn(3, 5)

    def inputs(size: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.randn(size, 4), torch.arange(size) % 7, table

    path = ps.export_onnx(net, tmp_path / "a.onnx", (*inputs(4), True))
    values = inputs(9)
    y, index = run(runtime, path, *values)
    expected, after = net(*values, True)
    assert close(y, expected.detach()) and torch.equal(index, after)


def test_the_network_and_the_generators_stay(runtime, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    ps.export_onnx(net, tmp_path / "a.onnx", torch.ones(2, 4))
    assert net.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_a_difference_writes_nothing(
    runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = nn.Linear(4, 3), torch.ones(2, 4)
    path = ps.export_onnx(net, tmp_path / "a.onnx", x)
    earlier = path.read_bytes()
    exported = onnx_file._exported
    for part in (1.001, 1.00002):  # the weights of another network
        other = onnx_file._Positional(copy.deepcopy(net), None)
        other.net.weight.data *= part
        other.net.bias.data *= part
        monkeypatch.setattr(onnx_file, "_exported", lambda _, *rest, o=other: exported(o, *rest))
        with pytest.raises(ExportError, match="other outputs than the network"):
            ps.export_onnx(net, path, x)
    assert path.read_bytes() == earlier and len(list(tmp_path.iterdir())) == 1


def test_a_network_of_one_batch_size_is_refused(runtime, tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.detach().new_tensor([[1.0], [2.0]])

    with pytest.raises(ExportError, match="does not accept 3 examples"):
        ps.export_onnx(Fixed(), tmp_path / "a.onnx", torch.ones(2, 4))
    assert not list(tmp_path.iterdir())


def test_lengths_and_sides_vary_on_request(runtime, tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    path = ps.export_onnx(encoder, tmp_path / "a.onnx", torch.randn(2, 6, 8), dynamic={1: "length"})
    x = torch.randn(3, 11, 8)
    assert close(run(runtime, path, x)[0], encoder(x).detach())
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    sides = {2: "height", 3: "width"}
    path = ps.export_onnx(net, tmp_path / "b.onnx", torch.randn(1, 1, 6, 7), dynamic=sides)
    x = torch.randn(3, 1, 9, 5)
    assert close(run(runtime, path, x)[0], net(x).detach())


def test_several_inputs_have_one_length(runtime, tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 3)

        def forward(self, ids: Tensor, mask: Tensor, table: Tensor) -> Tensor:
            found = self.embed(ids) * mask[..., None]
            return (found.sum(1) / mask.sum(1, keepdim=True)) @ table

    net = Masked()
    table = torch.randn(3, 5)

    def inputs(rows: int, length: int) -> dict[str, Tensor]:
        ids = torch.arange(rows * length).view(rows, length) % 7
        return {"ids": ids, "mask": torch.ones(rows, length), "table": table}

    path = ps.export_onnx(net, tmp_path / "a.onnx", inputs(2, 4), dynamic={1: "length"})
    other = inputs(3, 9)
    assert close(run(runtime, path, *other.values())[0], net(**other).detach())


def test_a_dimension_that_cannot_vary_is_refused(runtime, tmp_path: Path) -> None:
    net, path = nn.Linear(4, 3), tmp_path / "a.onnx"
    with pytest.raises(ExportError, match=r"not accept another features than 4 .*leave it out"):
        ps.export_onnx(net, path, torch.ones(2, 4), dynamic={1: "features"})
    with pytest.raises(ValueError, match="dimension 2 'length', and the example has none"):
        ps.export_onnx(net, path, torch.ones(2, 4), dynamic={2: "length"})
    for dynamic in ({0: "rows"}, {-1: "x"}, {1: "batch"}, {1: "a", 2: "a"}, {1: "a b"}):
        with pytest.raises(ValueError, match="each with a name of its own"):
            ps.export_onnx(nn.ReLU(), path, torch.ones(2, 4, 4), dynamic=dynamic)
    with pytest.raises(ValueError, match="could stand for any length"):
        ps.export_onnx(nn.ReLU(), path, torch.ones(2, 1), dynamic={1: "length"})
    assert not list(tmp_path.iterdir())


def test_what_onnxruntime_lacks_is_said(runtime, tmp_path: Path) -> None:
    net = nn.Conv2d(1, 2, 3).double()
    with pytest.raises(ExportError, match=r"cannot run .*net\.float\(\)"):
        ps.export_onnx(net, tmp_path / "a.onnx", torch.ones(1, 1, 5, 5).double())
    assert not list(tmp_path.iterdir())


def test_an_example_without_a_batch(runtime, tmp_path: Path) -> None:
    for example in (torch.ones(()), (), torch.ones(0, 3)):
        with pytest.raises(ValueError, match="example with a batch"):
            ps.export_onnx(nn.ReLU(), tmp_path / "a.onnx", example)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, sys)  # any module will do
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"package {package} .*pip install 'pyrosparse\[onnx\]'"):
        ps.export_onnx(nn.Linear(2, 2), tmp_path / "a.onnx", torch.ones(1, 2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(onnx_file, "_require", lambda *_: None)
    net = torch.nn.Linear(4, 2)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ExportError, match=rf"weight is in {name}.*export net.float\(\)"):
        onnx_file.export_onnx(net.to(dtype), tmp_path / "net.onnx", torch.ones(1, 4, dtype=dtype))
    with pytest.raises(ExportError, match=f"the example is in {name}"):
        onnx_file.export_onnx(net.float(), tmp_path / "net.onnx", torch.ones(1, 4, dtype=dtype))


class Words(nn.Module):
    """Arguments and results by name, and a cache beside them, as Hugging Face's networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, scale: Tensor | None = None) -> dict[str, object]:
        x = self.table(ids) if scale is None else self.table(ids) * scale
        return {"logits": self.head(x), "cache": object()}


def test_arguments_and_results_by_name(runtime, tmp_path: Path) -> None:
    net, ids, scale = Words(), torch.arange(6).view(2, 3), torch.rand(2, 3, 1)
    path = ps.export_onnx(net, tmp_path / "a.onnx", {"scale": scale, "ids": ids})
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {entry.name for entry in session.get_inputs()} == {"ids", "scale"}
    ids, scale = torch.arange(15).view(5, 3) % 9, torch.rand(5, 3, 1)
    (found,) = session.run(None, {"ids": ids.numpy(), "scale": scale.numpy()})
    assert close(torch.from_numpy(found), net(ids, scale)["logits"].detach())
