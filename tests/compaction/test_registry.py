"""Rules that users register for layers of their own."""

import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.compaction import CompactionError, Elementwise, Features, Mixing, Parametric
from pyrosparse.storage import StorageError


class OwnLinear(nn.Linear):
    pass


class OwnConvolution(nn.Conv2d):
    pass


class Branching(nn.Module):
    """torch.fx cannot trace it."""

    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope * x) if x.numel() else x * bool(x.sum())


class Scale(nn.Module):
    """A number for each channel; what is asked of its input keeps torch.fx out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.factor = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.channels:
            raise ValueError("another number of channels")
        return x * self.factor.view(-1, *[1] * (x.dim() - 2))


class ScaleRule(Parametric):
    def learn(self, flow):
        x = flow.read(self.source, 1)
        factor = self.module.factor.detach().double()
        return Features.of(1, x.constant | (factor == 0), x.value * factor)

    def sliced(self, module, wanted):
        new = Scale(int(wanted.sum()))
        new.factor = nn.Parameter(module.factor.detach()[wanted])
        return new


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.numel() else x - x.sum().item()


class NothingStays(Elementwise):
    def apply(self, values: Tensor) -> Tensor:
        return values


ps.compaction.register(OwnLinear, Mixing)
ps.compaction.register(OwnConvolution, Mixing)
ps.compaction.register(Branching, Elementwise)
ps.compaction.register(Scale, ScaleRule)
ps.compaction.register(Wrong, NothingStays)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        OwnConvolution(1, 6, 3, padding=1),
        Scale(6),
        Branching(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        OwnLinear(24, 5),
        Branching(0.2),
        nn.Linear(5, 3),
    ).double()
    with torch.no_grad():
        net[0].weight[0] = 0.0  # a constant channel, with its bias
        net[1].factor[1] = 0.0  # a dead one
        net[5].weight[2:] = 0.0
    return net


def test_layers_of_ones_own_are_cut_exactly():
    net, x = network(), torch.randn(4, 1, 6, 7, dtype=torch.float64)
    small = ps.compact(net, example=x)
    assert not small.account.barriers
    assert (
        type(small.get_submodule("0")) is OwnConvolution
        and small.get_submodule("0").out_channels == 4
    )
    assert small.get_submodule("1").channels == 4
    assert type(small.get_submodule("5")) is OwnLinear and (
        small.get_submodule("5").in_features,
        small.get_submodule("5").out_features,
    ) == (16, 2)
    assert torch.allclose(small(x), net.eval()(x), atol=1e-12)
    for shape in [(1, 1, 6, 7), (3, 1, 9, 8)]:  # other batches and sizes
        other = torch.randn(shape, dtype=torch.float64)
        assert torch.allclose(small(other), net(other), atol=1e-12)


def test_without_a_rule_they_are_barriers_in_a_graph():
    class Unknown(Branching):
        pass

    net = nn.Sequential(nn.Linear(4, 3), Unknown(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight[0] = 0.0
    assert ps.compact(net).account.kept_class == "Sequential"  # what can be, is cut in place
    ps.compaction.register(Unknown, Elementwise)
    small = ps.compact(net)
    assert not small.account.barriers and not small.account.kept_class


def test_gates_on_them_are_folded_or_stay_exact():
    net = network()
    bnn = ps.lift(net, ps.BetaBernoulli())
    masks = bnn.masks()
    for mask in masks.values():
        mask[::2] = 0.0
    bnn.freeze(masks)
    x = torch.randn(3, 1, 6, 7, dtype=torch.float64)
    small = ps.compact(net, masks, example=x)
    assert torch.allclose(small(x), bnn.eval().mean_forward(x), atol=1e-9)


def test_a_wrong_rule_is_found_out():
    net = nn.Sequential(nn.Linear(4, 3), Wrong(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight[0] = 0.0
    with pytest.raises(CompactionError):
        ps.compact(net)


def test_what_cannot_be_registered():
    with pytest.raises(TypeError, match="a class of layers"):
        ps.compaction.register(Scale(2), ScaleRule)
    with pytest.raises(TypeError, match="the class itself"):
        ps.compaction.register(Scale, ScaleRule(None))
    with pytest.raises(ValueError, match="register a subclass of your own"):
        ps.compaction.register(nn.Linear, Mixing)


def test_a_file_names_them_and_loads_what_is_trusted(tmp_path: Path):
    net, x = network(), torch.randn(4, 1, 6, 7, dtype=torch.float64)
    small = ps.compact(net, example=x)
    path = ps.save(tmp_path / "small.safetensors", small)
    classes = [OwnConvolution, OwnLinear, Branching, Scale]
    again = ps.load(path, trusted=classes)
    assert torch.equal(again(x), small(x)) and type(again.get_submodule("1")) is Scale
    assert [m.slope for m in again.modules() if isinstance(m, Branching)] == [0.1, 0.2]
    assert path.read_bytes() == ps.save(tmp_path / "again.safetensors", again).read_bytes()
    # Registered is not trusted: what a file may name is said by who loads it.
    with pytest.raises(StorageError, match=r"test_registry.Scale.*trusted=\[TheClass\]"):
        ps.load(path, trusted=classes[:-1])
    with pytest.raises(TypeError, match="trusted takes classes of layers"):
        ps.load(path, trusted=[*classes[:-1], print])
    moved = {f"{one.__module__}.{one.__qualname__}": one for one in classes}
    assert torch.equal(ps.load(path, trusted=moved)(x), small(x))


def test_a_class_of_the_file_stands_for_no_layer_of_torch(tmp_path: Path):
    path = ps.save(tmp_path / "small.safetensors", ps.compact(nn.Sequential(nn.Linear(2, 1))))
    net = ps.load(path, trusted={"torch.nn.Linear": OwnLinear})
    assert type(net.get_submodule("0")) is nn.Linear


def test_a_new_process_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = tmp_path / "a_layer_of_mine.py"
    module.write_text(
        textwrap.dedent("""
        import torch
        class Halved(torch.nn.Module):
            def forward(self, x):
                return x / 2 if x.numel() else x.sum().item() * x
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    halved = importlib.import_module("a_layer_of_mine").Halved
    ps.compaction.register(halved, Elementwise)
    net = nn.Sequential(nn.Linear(4, 3), halved(), nn.Linear(3, 2))
    net[0].weight.data[0] = 0
    small = ps.compact(net)
    ps.save(tmp_path / "small.safetensors", small)
    load = """
        import torch, pyrosparse as ps
        from a_layer_of_mine import Halved
        print(ps.load("small.safetensors", trusted=[Halved])(torch.ones(1, 4)).tolist())
        """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(load)],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(found.stdout) == small(torch.ones(1, 4)).tolist()
