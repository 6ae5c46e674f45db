"""A network as a graph of operations that do not write in place, and the shapes of its tensors."""

from __future__ import annotations

import copy
import inspect
import math
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from pyrosparse.compaction.branches import BRANCH, ExampleValues, reads_only_sizes, whole_shape
from pyrosparse.compaction.check import difference
from pyrosparse.compaction.layers import has_hooks
from pyrosparse.compaction.parts import PARTS
from pyrosparse.compaction.rules.registry import REGISTERED
from pyrosparse.util.generators import generators_left_alone
from pyrosparse.util.modes import forget

_IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    torch.dropout_: torch.dropout,
    torch.sigmoid_: torch.sigmoid,
    torch.tanh_: torch.tanh,
    torch.clamp_: torch.clamp,
    F.elu_: F.elu,
    F.leaky_relu_: F.leaky_relu,
    F.hardtanh_: F.hardtanh,
    F.selu_: F.selu,
    F.celu_: F.celu,
}


class TraceError(ValueError):
    """The forward of a network cannot be traced by torch.fx."""


def trace(net: nn.Module, arguments: int = 1, example: tuple[Any, ...] | None = None) -> fx.Graph:
    """The graph of a network; a submodule that torch.fx cannot trace stays one operation.

    The network's modules are changed: operations no longer write in place.

    arguments: the number of arguments in a call of the network; the others have their defaults.
    example:   these arguments. With them the graph is that for which the network chooses on the
               example, where it chooses by sizes: each such condition is asserted in the graph.
               Without them a forward that does so cannot be traced.

    Raises TraceError, a ValueError, if the network's own ``forward`` cannot be traced; ValueError
    if the network has hooks or a patched ``forward``.

    >>> [node.op for node in trace(nn.Sequential(nn.ReLU(inplace=True))).nodes]
    ['placeholder', 'call_module', 'output']
    """
    if has_hooks(net) or "forward" in vars(net):
        raise ValueError(
            f"the {type(net).__name__} itself has forward hooks or a patched forward, which "
            "torch.fx ignores: remove them, or wrap the network, nn.Sequential(net), which keeps "
            "them"
        )
    try:
        defaults = {
            name: parameter.default
            for name, parameter in list(inspect.signature(net.forward).parameters.items())[
                arguments:
            ]
            if parameter.default is not parameter.empty
        }
        try:
            graph = _Tracer(example).trace(net, concrete_args=defaults or None)
        except Exception:
            tracer = _Tracer(example)
            tracer.proxy_buffer_attributes = True
            graph = tracer.trace(net, concrete_args=defaults or None)
    except Exception as error:
        raise TraceError(
            f"torch.fx cannot trace the forward of {type(net).__name__} ({error}). Move control "
            "flow that depends on the data to a submodule of its own: compact treats it as one "
            "operation and does not cut it"
        ) from error
    _write_nowhere(graph, net)
    return graph


def shapes(net: nn.Module, graph: fx.Graph, example: tuple[Any, ...]) -> dict[fx.Node, torch.Size]:
    """The shape of every tensor in the graph for an example.

    Raises TraceError if the network accepts the example and its graph does not."""
    run = _Shapes(fx.GraphModule(net, graph))
    why: Exception | None = None
    try:
        with torch.no_grad():
            run.run(*example)
    except Exception as error:
        why = error
    if why is not None:
        with torch.no_grad():
            net(*example)  # an example that does not fit has the network's own error
        raise TraceError(
            f"the graph that torch.fx makes of {type(net).__name__} fails on the example "
            f"({str(why).partition(chr(10))[0]}): it may hold a number that the forward computes "
            "anew for each input"
        ) from why
    # GraphModule copies the graph: names identify the nodes.
    return {node: run.found[node.name] for node in graph.nodes if node.name in run.found}


_ROUNDING = 1e-3
"""How far a graph may be from its network, of the largest output, also in half precision."""


def result_of(program: nn.Module, example: tuple[Any, ...]) -> Any:
    """What a network or a graph gives on an example; None where it fails, which ``shapes`` says."""
    forget(program)
    copies = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, example)
    with torch.no_grad(), generators_left_alone():
        torch.manual_seed(0)  # for what the forward draws
        try:
            return program(*copies)
        except Exception:
            return None


def refuse_other_program(
    expected: Any, net: nn.Module, graph: fx.Graph, example: tuple[Any, ...]
) -> None:
    """Raise TraceError if a graph computes something else on an example than the network of which
    it was made, as where the forward asks whether its input is a tensor.

    expected: ``result_of`` the network before it was traced.
    net:      that in which the graph finds its parts."""
    found = result_of(fx.GraphModule(net, graph), example)
    if expected is None or found is None:
        return
    first, second = (
        [leaf for leaf in tree_leaves(one) if isinstance(leaf, Tensor)] for one in (expected, found)
    )
    if len(first) != len(second) or difference(first, second) > _ROUNDING:
        raise TraceError(
            f"torch.fx makes another program of {type(net).__name__} than the one that it "
            "runs, as where a forward asks isinstance(x, Tensor), which is not true while it is "
            "traced: leave such questions out"
        )


def refuse_other_programs(net: nn.Module, example: tuple[Any, ...]) -> None:
    """Raise TraceError as ``refuse_other_program`` for the graph that ``trace`` makes of a network,
    which does not change.

    example: in float64, on the CPU."""
    traced = copy.deepcopy(net).cpu().double().eval()
    expected = result_of(traced, example)
    refuse_other_program(expected, traced, trace(traced, len(example)), example)


class _Tracer(fx.Tracer):
    """Traces into modules as far as possible.

    Buffers are constants of the program, unless that does not work: a mask that is cut to the
    length of a sequence can be traced only as an operand.

    example: the inputs by which conditions on sizes are decided.
    """

    def __init__(self, example: tuple[Any, ...] | None = None) -> None:
        # Its functions cannot be called with proxies: they are operations of the graph.
        einops = [sys.modules["einops"]] if "einops" in sys.modules else []
        super().__init__(autowrap_modules=(math, *einops))  # type: ignore[arg-type]
        self._proxies: dict[str, Any] = {}
        self._example = example
        self._values: ExampleValues | None = None

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        if self._example is not None:
            self._values = ExampleValues(root, self._example)
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Hooks are not traced: they may have side effects, such as recording activations.
        whole = isinstance(m, PARTS) or type(m) in REGISTERED or has_hooks(m)
        return whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._values is not None and self._values.running:
            return forward(*args, **kwargs)
        before = set(self.graph.nodes)
        stack, buffers = self.module_stack.copy(), self.proxy_buffer_attributes
        for as_operands in (False, True):
            self.proxy_buffer_attributes = buffers or as_operands
            try:
                return super().call_module(m, forward, args, kwargs)
            except Exception:
                # A foreign forward may raise anything on proxies: the module stays one operation.
                self._forget({node for node in self.graph.nodes if node not in before})
                self.module_stack = stack.copy()
            finally:
                self.proxy_buffer_attributes = buffers
        return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._values is not None and self._values.running:
            return attr_val
        self._proxies = parameter_proxy_cache
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """The value of a condition on sizes, for the example; the graph asserts it."""
        if self._values is None or not reads_only_sizes(obj.node):
            return bool(super().to_bool(obj))
        taken = bool(self._values.of(obj.node))
        condition = obj if taken else self.create_proxy("call_function", operator.not_, (obj,), {})
        self.create_proxy("call_function", torch._assert, (condition, BRANCH), {})
        return taken

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The parts of a tensor, or the sizes in a shape; the graph asserts how many these are."""
        node = obj.node
        count = node.args[1] if len(node.args) > 1 else node.kwargs.get("chunks")
        if node.target not in ("chunk", torch.chunk) or not isinstance(count, int):
            count = self.length(node)
            if count is None:
                return super().iter(obj)
        return iter([obj[place] for place in range(count)])  # type: ignore[index]

    def length(self, node: fx.Node) -> int | None:
        """How many sizes a shape, or a part of it, has; the graph asserts it. None for others."""
        shape = whole_shape(node)
        if self._values is None or shape is None:
            return None
        tensor = self.proxy(shape.args[0])  # type: ignore[arg-type]
        rank = self.create_proxy("call_function", getattr, (tensor, "ndim"), {})
        of_rank = (rank, len(self._values.of(shape)))
        same = self.create_proxy("call_function", operator.eq, of_rank, {})
        self.create_proxy("call_function", torch._assert, (same, BRANCH), {})
        return len(self._values.of(node))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def _forget(self, nodes: set[fx.Node]) -> None:
        for name in [name for name, proxy in self._proxies.items() if proxy.node in nodes]:
            del self._proxies[name]
        for node in reversed(self.graph.nodes):
            if node in nodes:
                self.graph.erase_node(node)


class _Proxy(fx.Proxy):
    """A proxy that knows how many sizes a shape has, for ``len(x.shape)`` and ``list(x.shape)``."""

    def __getattr__(self, k: str) -> Any:
        found = super().__getattr__(k)
        return _Attribute(self, k) if isinstance(found, Attribute) else found

    def __len__(self) -> int:
        assert isinstance(self.tracer, _Tracer)
        found = self.tracer.length(self.node)
        return super().__len__() if found is None else found


class _Attribute(_Proxy, Attribute):
    """An attribute of a proxy, such as its shape."""


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n.name] = result.shape
        return result


def _write_nowhere(graph: fx.Graph, net: nn.Module) -> None:
    """Replace operations that write in place by operations that do not.

    After an operation in place its operand *is* its result, so later readers of the operand read
    the result. Otherwise it could overwrite a tensor that the compact graph shares.
    """
    for node in list(graph.nodes):
        if not node.args or not isinstance(node.args[0], fx.Node):
            continue
        module = net.get_submodule(node.target) if node.op == "call_module" else None
        if module is not None and getattr(module, "inplace", False) is True:
            pass  # disabled below: another call of it must still be recognised as in place
        elif node.op == "call_function" and node.target in _IN_PLACE:
            node.target = _IN_PLACE[node.target]
        elif node.op != "call_module" and node.kwargs.get("inplace") is True:
            node.kwargs = node.kwargs | {"inplace": False}
        elif node.op == "call_method" and _has_pure_form(node.target):
            node.target = node.target[:-1]
        else:
            continue
        _read_instead(node.args[0], node)
    for module in net.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]


def _has_pure_form(method: str) -> bool:
    return method.endswith("_") and not method.endswith("__") and hasattr(Tensor, method[:-1])


def _read_instead(old: fx.Node, new: fx.Node) -> None:
    later = False
    for node in new.graph.nodes:
        if later and old in node.all_input_nodes:
            node.replace_input_with(old, new)
        later = later or node is new
