"""Layers that torch.fx cannot trace stay as they are: a file takes them from a like network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.storage import StorageError


class Signed(nn.Module):
    """Its forward asks for values, which torch.fx cannot trace."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inner = nn.Linear(6, 6)
        self.register_buffer("shift", torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x) + self.heads * self.shift
        return y if y.sum() > 0 else -y


class Other(Signed):
    pass


class Network(nn.Module):
    def __init__(self, kind: type[Signed] = Signed, heads: int = 2) -> None:
        super().__init__()
        self.first, self.leaf, self.hidden = nn.Linear(4, 6), kind(heads), nn.Linear(6, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(self.leaf(self.first(x)))))


def network() -> Network:
    net = Network().eval()
    with torch.no_grad():
        net.last.weight[:, ::2] = 0
    return net


def test_the_layer_is_taken_from_a_network_like_the_original(tmp_path: Path) -> None:
    net, x = network(), torch.randn(5, 4)
    small = ps.compact(net, None, x)
    assert small.account.parameters[1] < small.account.parameters[0]
    path = ps.save(tmp_path / "a", small)
    like = Network()
    before = {name: tensor.clone() for name, tensor in like.state_dict().items()}
    again = ps.load(path, into=like)
    assert torch.equal(again(x), small(x))
    assert str(again.account) == str(small.account)
    assert again.leaf is not like.leaf
    for name, tensor in like.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert ps.save(tmp_path / "b", again).read_bytes() == path.read_bytes()


def test_a_posterior_is_too(tmp_path: Path) -> None:
    net, x = Network(), torch.randn(5, 4)
    bnn = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net, "last"))
    small = ps.compact(bnn, {"last.input": torch.arange(8) % 2}, x)
    path = ps.save(tmp_path / "a", small)
    again = ps.load(path, into=Network())
    torch.manual_seed(0)
    expected = small(x)
    torch.manual_seed(0)
    assert torch.equal(again(x), expected)
    with pytest.raises(StorageError, match=r"leaf: ps.load\(path, into=net\)"):
        ps.load(path)


@pytest.mark.parametrize(
    ("into", "message"),
    [
        (None, r"own classes, leaf: ps.load\(path, into=net\)"),
        (Network(heads=3), "'leaf' .* is a Signed with other numbers in it"),
        (Network(Other), "'leaf' .* is a Other, and the file says .*Signed"),
        (nn.Linear(2, 2), "does not fit: .*leaf"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, into: nn.Module, message: str) -> None:
    path = ps.save(tmp_path / "a", ps.compact(network(), None, torch.randn(5, 4)))
    with pytest.raises(StorageError, match=message):
        ps.load(path, into=into)


def test_hooks_and_other_sizes_are_refused(tmp_path: Path) -> None:
    path = ps.save(tmp_path / "a", ps.compact(network(), None, torch.randn(5, 4)))
    hooked, wider = Network(), Network()
    hooked.leaf.inner.register_forward_hook(lambda *_: None)
    wider.leaf.inner = nn.Linear(6, 6, bias=False)
    for into in (hooked, wider):
        with pytest.raises(StorageError, match=r"'inner' has hooks|leaf\.inner\.bias"):
            ps.load(path, into=into)


def test_gates_within_are_refused(tmp_path: Path) -> None:
    """A file cannot say where in a layer of another class a gain stands."""
    net, x = network(), torch.randn(5, 4)
    hooked = network()
    hooked.leaf.inner.register_forward_hook(lambda _, args, y: y + 1)
    gains = {"leaf.inner.input": torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 1.0])}
    small = ps.compact(net, gains, x)
    again = ps.load(ps.save(tmp_path / "a", small), into=Network())
    assert torch.equal(again(x), small(x))  # a plain layer takes them into its weights
    with pytest.raises(ValueError, match=r"has hooks|has gates in it"):
        ps.save(tmp_path / "b", ps.compact(hooked, gains, x))
