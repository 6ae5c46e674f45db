"""A torch.fx graph as JSON, and back."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import fx, nn

from pyrosparse.storage.operations import ATTRIBUTES, METHODS, function, function_name
from pyrosparse.storage.storage import StorageError
from pyrosparse.storage.values import decode, encode

_EMPTY: nn.Module = fx.GraphModule({}, fx.Graph())


def describe_graph(graph: fx.Graph) -> list[dict[str, Any]]:
    """The operations of a graph as JSON, in the order in which they run.

    Raises ValueError on operations and arguments that a file cannot name.

    >>> graph = fx.Graph()
    >>> x = graph.placeholder("x")
    >>> describe_graph(graph)
    [{'op': 'placeholder', 'name': 'x', 'target': 'x', 'args': [], 'kwargs': {}}]
    """
    names = {id(node): node.name for node in graph.nodes}
    return [_describe(node, names) for node in graph.nodes]


def read_graph(
    nodes: Sequence[Mapping[str, Any]], modules: Collection[str], tensors: Collection[str]
) -> fx.Graph:
    """The graph that ``describe_graph`` wrote.

    modules, tensors: the names of those that it may call and read.

    Raises StorageError if it is no graph, or does what no file may do. torch.fx writes Python
    from graphs, so nothing gets into one that is not known to be a name, a number or a text.

    >>> node = {"op": "placeholder", "name": "x", "target": "x", "args": [], "kwargs": {}}
    >>> read_graph([node, {**node, "name": "y"}], [], [])
    Traceback (most recent call last):
    pyrosparse.storage.layouts.StorageError: its graph has two inputs called 'x'
    """
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    inputs: set[str] = set()
    for entry in nodes:
        op, name, target = entry["op"], entry["name"], entry["target"]
        earlier = {} if op == "placeholder" else made  # a default is a number or a text
        args = tuple(decode(value, earlier) for value in entry["args"])
        kwargs = {key: decode(value, earlier) for key, value in entry["kwargs"].items()}
        for key in kwargs:
            _check_identifier("an argument", key)
        if op == "placeholder":
            if target in inputs:
                raise StorageError(f"its graph has two inputs called {target!r}")
            inputs.add(target)
        target = _resolved(op, target, args, modules, tensors)
        made[name] = graph.create_node(op, target, args, kwargs, name=name)
        if made[name].name != name:
            raise StorageError(
                f"its graph calls a result {name!r}, which is not a valid name or not unique"
            )
    ends = [node.op == "output" for node in graph.nodes]
    if sum(ends) != 1 or not ends[-1]:
        raise StorageError("its graph does not end with its one output")
    return graph


def _resolved(
    op: str, target: str, args: Sequence[Any], modules: Collection[str], tensors: Collection[str]
) -> Any:
    """The target of an operation that may be one: a name, or the function of that name."""
    of_result = bool(args) and isinstance(args[0], fx.Node)
    if op == "placeholder":
        _check_identifier("an input", target)
    elif op == "call_module":
        _check_path(target, modules)
    elif op == "get_attr":
        _check_path(target, tensors)
    elif op == "call_method":
        if target not in METHODS or not of_result:
            raise StorageError(f"its graph calls the method {target!r}, which it may not")
    elif op == "call_function":
        called = function(target)
        if called is getattr and not (of_result and args[1] in ATTRIBUTES):
            raise StorageError(f"its graph reads the attribute {args[1]!r}, which it may not")
        return called
    elif op != "output":
        raise StorageError(f"its graph has an operation of the unknown kind {op!r}")
    return target


def _describe(node: fx.Node, names: Mapping[int, str]) -> dict[str, Any]:
    target = function_name(node.target) if node.op == "call_function" else str(node.target)
    if target is None or (node.op == "call_method" and target not in METHODS):
        name = getattr(node.target, "__name__", node.target)
        raise ValueError(
            f"the operation {name!r} ({node.name} in the graph) is not among those that a file "
            "may contain: use operations of torch instead, or save the network as a pickle, "
            "torch.save(net, path)"
        )
    try:
        args = [encode(value, names) for value in node.args]
        kwargs = {key: encode(value, names) for key, value in node.kwargs.items()}
    except ValueError as error:
        raise ValueError(
            f"the operation {node.name!r} cannot be saved: it takes {error}"
        ) from error
    return {"op": node.op, "name": node.name, "target": target, "args": args, "kwargs": kwargs}


def _check_identifier(what: str, name: str) -> None:
    plain = re.fullmatch(r"\*{0,2}[a-z_]\w*", name, re.ASCII | re.IGNORECASE)
    if not plain or keyword.iskeyword(name) or name == "self":
        raise StorageError(f"its graph has {what} called {name!r}, which is not a valid name")


def _check_path(path: str, known: Collection[str]) -> None:
    """Whether a dotted name is known, and stands for nothing that modules have already."""
    if path not in known:
        raise StorageError(f"its graph uses {path!r}, which it does not have")
    holder = _EMPTY
    for piece in path.split("."):
        if not re.fullmatch(r"[\w-]+", piece, re.ASCII) or hasattr(holder, piece):
            raise StorageError(f"its graph uses {path!r}, which no layer can be called")
        holder = nn.Module()
