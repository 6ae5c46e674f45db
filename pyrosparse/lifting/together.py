"""Many draws of a lifted network in one pass, where network and methods allow it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_GATES_ROOM, _WEIGHTS_ROOM, _DEVICE_ROOM = 2**24, 2**22, 2**28
"""Bytes of the largest result of an operation in one pass: of gates and of weights on a processor,
where what lies in its cache is faster, and on other devices."""
_OPERATIONS = 4e7
"""Floating-point operations of a call, up to which weights are drawn in one pass: above, the time
is that of products with one matrix a draw, which are no faster together."""
_FEWEST = 3


@dataclass
class Call:
    """One call of a network: what it was given and gave, and what it took.

    largest:    bytes of the largest result of an operation.
    operations: floating-point operations.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    largest: int
    operations: float

    def same(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether it was given these arguments."""
        (ours, spec), (theirs, other) = map(
            pytree.tree_flatten, ((self.args, self.kwargs), (args, kwargs))
        )
        return spec == other and all(map(_equal, ours, theirs))


@contextmanager
def calls_of_network(lifted: nn.Module) -> Iterator[list[Call]]:
    """For a block, note the calls of a lifted network.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian())
    >>> with calls_of_network(bnn) as calls:
    ...     _ = bnn(torch.ones(2, 4))
    >>> len(calls), calls[0].operations
    (1, 48.0)
    """
    calls: list[Call] = []
    costs = _Costs()

    def before(*_: Any) -> None:
        costs.largest, costs.operations = 0, 0.0
        costs.__enter__()

    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        costs.__exit__(None, None, None)
        calls.append(Call(args, kwargs, output, costs.largest, costs.operations))

    handles = [
        lifted.register_forward_pre_hook(before),
        lifted.register_forward_hook(after, with_kwargs=True, always_call=True),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def draws_a_pass(calls: Sequence[Call], *, weights: bool, device: torch.device) -> int:
    """How many draws to take in one pass, by what one draw took; 1 for one by one, where more would
    be no faster.

    weights: whether weights are drawn, and not gates alone.

    >>> one = Call((), {}, None, largest=2**20, operations=1e6)
    >>> draws_a_pass([one], weights=True, device=torch.device("cpu"))
    4
    """
    if not calls or (weights and max(call.operations for call in calls) > _OPERATIONS):
        return 1
    room = _WEIGHTS_ROOM if weights else _GATES_ROOM
    room = room if device.type == "cpu" else _DEVICE_ROOM
    size = room // max(1, *(call.largest for call in calls))
    return size if size >= _FEWEST else 1


def outputs_together(lifted: nn.Module, traces: Sequence[poutine.Trace], call: Call) -> list[Any]:
    """What a lifted network gives in a call under each of several draws, by ``torch.func.vmap``.

    traces: of the guide, one a draw. The weights are those that were drawn; gates act by their
            hooks.

    Raises an error of whatever kind where this cannot be: where the network or a method draws
    anew in the call, writes to a buffer, or asks for the values of a tensor.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal")).eval()
    >>> traces = [poutine.trace(bnn.guide).get_trace() for _ in range(5)]
    >>> call = Call((torch.ones(2, 4),), {}, None, 0, 0.0)
    >>> outputs = outputs_together(bnn, traces, call)
    >>> torch.equal(outputs[3], poutine.replay(bnn, trace=traces[3])(torch.ones(2, 4)))
    True
    """
    first = traces[0]
    values = {
        name: torch.stack([cast(Tensor, trace.nodes[name]["value"]) for trace in traces])
        for name, site in first.nodes.items()
        if site["type"] == "sample" and isinstance(site["value"], Tensor)
    }

    def one(values: dict[str, Tensor]) -> Any:
        trace = first.copy()
        for name, value in values.items():
            trace.nodes[name] = cast(Any, {**trace.nodes[name], "value": value})
        with poutine.block(), poutine.replay(trace=trace):
            return lifted(*call.args, **call.kwargs)

    # Validation asks for values. A missing batching rule is a loop, which warns that it is slow.
    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        stacked = vmap(one, randomness="error")(values)
    leaves, spec = pytree.tree_flatten(stacked)
    return [
        pytree.tree_unflatten([leaf[number] for leaf in leaves], spec)
        for number in range(len(traces))
    ]


def close(one: Any, other: Any) -> bool:
    """Whether two outputs of a network are the same but for rounding."""
    (ours, spec), (theirs, other_spec) = map(pytree.tree_flatten, (one, other))
    return spec == other_spec and all(map(_near, ours, theirs))


class answered(Messenger):
    """A Pyro handler under which a lifted network gives an output that is known, in place of
    computing it: where it is called as in ``call``."""

    def __init__(self, lifted: nn.Module, call: Call, output: Any) -> None:
        super().__init__()
        self._lifted = lifted
        self._call = call
        self.output = output

    def answers(self, lifted: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether it is this network's output that is known, for these arguments."""
        return lifted is self._lifted and self._call.same(args, kwargs)


class _Costs(TorchDispatchMode):
    largest = 0
    operations = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view:
            sizes = [one.nbytes for one in pytree.tree_leaves(result) if isinstance(one, Tensor)]
            self.largest = max(self.largest, *sizes, 0)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=result)
        return result


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.dtype == other.dtype and torch.equal(one, other))
    return one is other or (type(one) is type(other) and bool(one == other))


def _near(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.is_floating_point()):
        return _equal(one, other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    reach = 1e3 * torch.finfo(one.dtype).eps * other.abs().max() if other.numel() else 0.0
    return bool(((one - other).abs() <= reach).all())
