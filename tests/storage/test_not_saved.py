"""What a file of a network cannot hold: it is named, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import pyrosparse as ps
from pyrosparse.compaction import CompactNet
from pyrosparse.storage import StorageError
from tests.compaction.cases import kinds


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


fx.wrap("flat")


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return flat(self.first(x))


def other_function(net: CompactNet) -> None:
    next(n for n in net.graph.nodes if n.op == "call_function").target = print


def other_method(net: CompactNet) -> None:
    next(n for n in net.graph.nodes if n.op == "call_method").target = "numpy"


def other_attribute(net: CompactNet) -> None:
    node = next(n for n in net.graph.nodes if n.target is getattr)
    node.args = (node.args[0], "__class__")


def strange_argument(net: CompactNet) -> None:
    node = next(n for n in net.graph.nodes if n.target == "mean")
    node.kwargs = {"dtype": torch.Generator}


CHANGES: dict[str, tuple[Callable[[CompactNet], object], str]] = {
    "hook": (lambda net: net.conv.register_forward_hook(lambda *_: None), "'conv' has hooks"),
    "hook of all": (lambda net: net.register_forward_pre_hook(lambda *_: None), "has hooks"),
    "a patched forward": (lambda net: setattr(net.conv, "forward", torch.relu), "forward is not"),
    "another method": (lambda net: setattr(net.conv, "_conv_forward", len), "_conv_forward is not"),
    "a setting": (lambda net: setattr(net.bn, "note", "x"), "'bn'.* note is not"),
    "a wrong size": (lambda net: setattr(net.conv, "stride", 1.5), "'conv'|torch.nn.Conv2d"),
    "a tensor": (lambda net: net.conv.register_buffer("more", torch.ones(1)), "more is not"),
    "a part": (lambda net: setattr(net.conv, "more", nn.ReLU()), "class of more, .* is not"),
    "unused": (lambda net: setattr(net, "unused", nn.Linear(2, 2)), "does not use .*unused.bias"),
    "parametrized": (
        lambda net: nn.utils.parametrizations.weight_norm(net.conv), "ParametrizedConv2d"
    ),
    "function": (other_function, "the operation 'print'"),
    "argument": (strange_argument, "'mean' cannot be saved: it takes a value of type"),
    "method": (other_method, "the operation 'numpy'"),
    "attribute": (other_attribute, "cannot be saved: .*'__class__'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_saved_is_named(tmp_path: Path, name: str) -> None:
    net = kinds()
    ps.save(tmp_path / "a", net)
    (tmp_path / "a").unlink()
    change, message = CHANGES[name]
    change(net)
    with pytest.raises(ValueError, match=message) as caught:
        ps.save(tmp_path / "a", net)
    assert not list(tmp_path.iterdir())
    assert not isinstance(caught.value, StorageError)


def test_what_torch_fx_could_not_trace_is_named(tmp_path: Path) -> None:
    small = ps.compact(Calls(), None, torch.ones(2, 4))
    with pytest.raises(ValueError, match="the operation 'flat'"):
        ps.save(tmp_path / "a", small)
    with pytest.raises(ValueError, match=r"not Linear: ps.save\(path, ps.compact"):
        ps.save(tmp_path / "a", nn.Linear(2, 2))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
