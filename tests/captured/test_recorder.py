"""The graph that a recorder notes: what it reads, what it holds, and what it refuses."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pyrosparse.captured.graph import trace
from pyrosparse.captured.recorder import Recorder

aten = torch.ops.aten


def recorded(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Recorder, Tensor]:
    recorder = Recorder(inputs)
    with recorder:
        result = function(*inputs)
    recorder.graph.output(recorder.node(result))
    recorder.sort_inputs()
    return recorder, result


def operations(graph: torch.fx.Graph) -> list[str]:
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    # make_fx writes one for the other, and cleaning drops both.
    return [name.replace("aten.detach", "aten.alias") for name in names]


def several(x: Tensor) -> Tensor:
    first, second = x.split(2)
    return torch.stack(torch.broadcast_tensors(first, second)).sum()


def in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y[1:] += 2.0
    return y.detach().mul_(3.0)


def backward(x: Tensor) -> Tensor:
    w = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad((w @ w.exp()).tanh().sum(), [w])
    return gradient


FUNCTIONS = {
    "several results": several,
    "in place": in_place,
    "backward": backward,
    "a batch norm": lambda x: nn.functional.batch_norm(x, None, None, training=True),
    "a draw": lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "a list of tensors": lambda x: torch.cat([x, x[:1]]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_notes_the_operations_of_make_fx(name: str) -> None:
    x = torch.randn(4, 4, dtype=torch.float64)
    recorder, _ = recorded(FUNCTIONS[name], x)
    expected = make_fx(FUNCTIONS[name], tracing_mode="real")(x)
    assert operations(recorder.graph) == operations(expected.graph)
    assert recorder.count == sum("getitem" not in one for one in operations(expected.graph))
    program = GraphModule(nn.Module(), recorder.graph)
    other = torch.randn(4, 4, dtype=torch.float64)
    for value in (x, other):
        found = []
        for one in (program, FUNCTIONS[name]):
            torch.manual_seed(0)
            found.append(one(value))
        assert torch.equal(*found)


def test_tensors_from_outside_are_inputs_once_and_numbers_are_literals() -> None:
    buffer = torch.ones(3)
    recorder, _ = recorded(lambda x: (x + buffer) * buffer * torch.tensor(0.5), torch.ones(3))
    (outside,) = recorder.outside.values()
    (literal,) = recorder.literals.values()
    assert outside is buffer
    assert float(literal) == 0.5


def test_a_value_that_an_input_decides_cannot_be_read() -> None:
    with pytest.raises(RuntimeError, match=r"_local_scalar_dense.* reads the value"):
        recorded(lambda x: x * float(x.sum()), torch.ones(3))
    with pytest.raises(RuntimeError, match="reads the value of a tensor"):
        recorded(lambda x: x * float(torch.rand(())), torch.ones(3))


def test_a_value_that_the_program_has_written_can_be_read() -> None:
    _, result = recorded(lambda x: x * float(torch.tensor(0.5) * 4), torch.ones(3))
    assert torch.equal(result, torch.full((3,), 2.0))


def test_a_literal_that_an_input_was_written_to_cannot_be_read() -> None:
    with pytest.raises(RuntimeError, match="reads the value of a tensor"):
        recorded(lambda x: x * float(torch.tensor(0.5).add_(x[0])), torch.ones(3))


def test_results_are_not_held() -> None:
    """The memory of a step while it is captured would else be that of all its results."""
    seen = []

    def function(x: Tensor) -> Tensor:
        middle = x.exp()
        seen.append(weakref.ref(middle))
        result = middle.sum()
        del middle
        gc.collect()
        seen.append(seen[0]() is None)
        return result

    recorder, _ = recorded(function, torch.ones(3))
    assert seen[1]
    assert operations(recorder.graph) == ["aten.exp.default", "aten.sum.default"]


def test_what_autocast_cast_before_is_cast_again() -> None:
    """A cast weight from autocast's cache would come from outside, with its value of then."""
    layer, x = nn.Linear(3, 2), torch.randn(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x)  # which fills the cache
        graph = trace(lambda: layer(x).float().sum(), list(layer.parameters()), [x])
        assert torch.is_autocast_cache_enabled()
    assert not graph.outside
