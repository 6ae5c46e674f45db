"""Functions with parameters as modules: ``F.conv2d`` as convolution, ``F.layer_norm`` as norm."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from pyrosparse.compaction.layers import BATCH_NORMS, CONVOLUTIONS, TRANSPOSED
from pyrosparse.compaction.rules.rule import arguments, attribute
from pyrosparse.compaction.trace import shapes


def as_modules(graph: fx.Graph, net: nn.Module, inputs: tuple[Any, ...] = ()) -> None:
    """Replace functions by modules if nothing else reads their parameters.

    Parameters that the network computes from others, as a standardised convolution does, are
    computed once and become parameters themselves. So do fixed kernels in buffers, as of blurring;
    they are not trained.

    inputs: the network's; they are needed for convolutions with as many groups as their operand
            has channels.

    A module replaces the one that holds its parameters if that one has no submodules, so that the
    parameters keep their names.

    Supported are ``linear``, convolutions, also transposed ones, ``layer_norm``, ``rms_norm``,
    ``group_norm``, ``prelu`` and, with running statistics, ``batch_norm``.

    >>> class Scaled(nn.Linear):
    ...     def forward(self, x: Tensor) -> Tensor:
    ...         return F.linear(x, self.weight, self.bias)
    >>> net = nn.Sequential(Scaled(2, 1))
    >>> graph = fx.Tracer().trace(net)
    >>> as_modules(graph, net)
    >>> [node.target for node in graph.nodes], type(net[0]).__name__
    (['input', '0', 'output'], 'Linear')
    """
    reads = Counter(id(attribute(net, str(n.target))) for n in graph.nodes if n.op == "get_attr")
    owned = Counter(
        id(tensor)
        for node in graph.nodes
        if node.op == "call_module"
        for tensor in net.get_submodule(node.target).parameters()
    )
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _MAKERS:
            continue
        names, make = _MAKERS[node.target]
        given = arguments(node, **names)
        source = given.pop("input")
        if isinstance(source, fx.Node) and _reads_channels(given.get("groups")):
            given["groups"] = _channels(source, net, inputs)
        nodes = {k: value for k, value in given.items() if isinstance(value, fx.Node)}
        before = list(dict.fromkeys(one for value in nodes.values() for one in _before(value)))
        if not isinstance(source, fx.Node) or any(one.op not in _CONSTANT for one in before):
            continue
        named = {str(one.target): one for one in before if one.op == "get_attr"}
        own = Counter(id(attribute(net, str(one.target))) for one in named.values())
        if any(reads[key] + owned[key] > count for key, count in own.items()):
            continue
        tensors = {k: _value(net, value) for k, value in nodes.items()}
        for name in {"weight", "bias"} & tensors.keys():
            tensors[name] = _parameter(tensors[name])
        if any(name in tensors and tensors[name] is None for name in ("weight", "bias")):
            continue  # random, or no numbers
        owner = next(iter(named)).rpartition(".")[0] if named else ""
        module = make(given | tensors, net.get_submodule(owner))
        if module is None:
            continue
        place = _place(net, node, list(named))
        net.set_submodule(place, module.eval())
        with graph.inserting_before(node):
            new = graph.call_module(place, (source,))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        for one in reversed(before):
            if not one.users:
                graph.erase_node(one)


_CONSTANT = ("get_attr", "call_function", "call_method")


def _before(node: fx.Node) -> list[fx.Node]:
    """A node and all on which it depends, in the order of the graph."""
    found = {node}
    for one in reversed(list(node.graph.nodes)):
        if one in found:
            found.update(one.all_input_nodes)
    return [one for one in node.graph.nodes if one in found]


def _value(net: nn.Module, node: fx.Node) -> Tensor | None:
    """What a node gives, which depends on parameters and buffers alone; as a parameter, if it is
    computed from some, and None if it is random."""
    if node.op == "get_attr":
        return attribute(net, str(node.target))  # type: ignore[no-any-return]
    first, second = _computed(net, node), _computed(net, node)
    if not isinstance(first, Tensor) or not torch.equal(first, second):
        return None
    reads = [attribute(net, str(one.target)) for one in _before(node) if one.op == "get_attr"]
    return nn.Parameter(first.clone(), any(tensor.requires_grad for tensor in reads))


def _parameter(tensor: Tensor | None) -> nn.Parameter | None:
    """A tensor as a parameter, which is not trained if it was none; None if it has no numbers."""
    if isinstance(tensor, nn.Parameter):
        return tensor
    if tensor is None or not tensor.is_floating_point():
        return None
    return nn.Parameter(tensor.detach().clone(), False)


def _channels(node: fx.Node, net: nn.Module, inputs: tuple[Any, ...]) -> int:
    """The channels of a tensor; a graph that was run belongs to a module, so a copy is."""
    found = shapes(net, copy.deepcopy(node.graph), inputs)
    return next(size[1] for one, size in found.items() if one.name == node.name)


def _reads_channels(size: Any) -> bool:
    """Whether a size is that of the second dimension of a tensor: ``x.shape[1]``, ``x.size(1)``."""
    if not isinstance(size, fx.Node):
        return False
    if size.target == "size":
        return size.args[1:] == (1,)
    shape = size.args[0] if size.target is operator.getitem and size.args[1] == 1 else None
    if not isinstance(shape, fx.Node):
        return False
    return shape.args[1:] == ("shape",) or (shape.target == "size" and len(shape.args) == 1)


def _computed(net: nn.Module, node: fx.Node) -> Any:
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for one in _before(node):
            args, kwargs = fx.map_arg((one.args, one.kwargs), values.__getitem__)
            if one.op == "get_attr":
                values[one] = attribute(net, str(one.target))
            elif one.op == "call_method":
                values[one] = getattr(args[0], str(one.target))(*args[1:], **kwargs)
            else:
                assert callable(one.target)
                values[one] = one.target(*args, **kwargs)
    return values[node]


def _place(net: nn.Module, node: fx.Node, tensors: list[str]) -> str:
    owners = {name.rpartition(".")[0] for name in tensors}
    if len(owners) == 1 and "" not in owners:
        (owner,) = owners
        holder = net.get_submodule(owner)
        own = [*holder._parameters.values(), *holder._buffers.values()]
        held = [t for t in own if t is not None and t.is_floating_point()]
        if not holder._modules and len(held) == len(tensors):
            return owner
        return f"{owner}.{node.name}"
    return node.name


def _linear(given: dict[str, Any], owner: nn.Module) -> nn.Module:
    outputs, inputs = given["weight"].shape
    return _holding(nn.Linear(inputs, outputs, device="meta"), given)


def _convolution(kind: Any) -> Any:
    transposed = issubclass(kind, TRANSPOSED)

    def make(given: dict[str, Any], owner: nn.Module) -> nn.Module | None:
        options = {k: value for k, value in given.items() if k not in ("weight", "bias")}
        if any(isinstance(one, fx.Node) for one in tree_leaves(options)):
            return None
        weight = given["weight"]
        first, second = len(weight), weight.shape[1] * options["groups"]
        inputs, outputs = (first, second) if transposed else (second, first)
        size = tuple(weight.shape[2:])
        module = kind(inputs, outputs, size, bias=False, device="meta", **options)
        return _holding(module, given)

    return make


def _group_norm(given: dict[str, Any], owner: nn.Module) -> nn.Module | None:
    weight, groups, eps = given["weight"], given["num_groups"], given["eps"]
    if weight is None or isinstance(groups, fx.Node) or isinstance(eps, fx.Node):
        return None
    return _holding(nn.GroupNorm(groups, len(weight), eps=eps, device="meta"), given)


def _prelu(given: dict[str, Any], owner: nn.Module) -> nn.Module:
    return _holding(nn.PReLU(len(given["weight"]), device="meta"), given)


def _layer_norm(given: dict[str, Any], owner: nn.Module) -> nn.Module | None:
    return _norm(nn.LayerNorm, given)


def _rms_norm(given: dict[str, Any], owner: nn.Module) -> nn.Module | None:
    return _norm(nn.RMSNorm, given)


def _norm(kind: Any, given: dict[str, Any]) -> nn.Module | None:
    shape, eps = given["normalized_shape"], given["eps"]
    if not all(isinstance(side, int) for side in shape) or isinstance(eps, fx.Node):
        return None
    return _holding(kind(tuple(shape), eps=eps, device="meta"), given)


def _batch_norm(given: dict[str, Any], owner: nn.Module) -> nn.Module | None:
    mean, variance = given["running_mean"], given["running_var"]
    if given["training"] is not False or not isinstance(mean, Tensor) or variance is None:
        return None
    # The module that holds the statistics says which class takes tensors of these dimensions.
    kind = next((kind for kind in BATCH_NORMS if isinstance(owner, kind)), None)
    if kind is None:
        return None
    module = kind(len(mean), given["eps"], given["momentum"], device="meta")
    module.running_mean, module.running_var = mean, variance
    module.num_batches_tracked = torch.zeros((), dtype=torch.long, device=mean.device)
    return _holding(module, given)


def _holding(module: nn.Module, given: dict[str, Any]) -> nn.Module:
    for name in ("weight", "bias"):
        if name in module._parameters:
            module._parameters[name] = given.get(name)
    if isinstance(module, BATCH_NORMS):
        module.affine = module.weight is not None
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.elementwise_affine = module.weight is not None
    return module


_WEIGHTED: dict[str, Any] = {"input": None, "weight": None, "bias": None}
_STRIDES: dict[str, Any] = {"stride": 1, "padding": 0}

_MAKERS: dict[Any, tuple[dict[str, Any], Any]] = {
    F.linear: (_WEIGHTED, _linear),
    **{
        function: (_WEIGHTED | _STRIDES | {"dilation": 1, "groups": 1}, _convolution(kind))
        for function, kind in zip((F.conv1d, F.conv2d, F.conv3d), CONVOLUTIONS, strict=True)
    },
    **{
        function: (
            _WEIGHTED | _STRIDES | {"output_padding": 0, "groups": 1, "dilation": 1},
            _convolution(kind),
        )
        for function, kind in zip(
            (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), TRANSPOSED, strict=True
        )
    },
    F.group_norm: (
        {"input": None, "num_groups": None, "weight": None, "bias": None, "eps": 1e-5},
        _group_norm,
    ),
    F.prelu: ({"input": None, "weight": None}, _prelu),
    F.layer_norm: (
        {"input": None, "normalized_shape": None, "weight": None, "bias": None, "eps": 1e-5},
        _layer_norm,
    ),
    F.rms_norm: (
        {"input": None, "normalized_shape": None, "weight": None, "eps": None},
        _rms_norm,
    ),
    F.batch_norm: (
        {
            "input": None,
            "running_mean": None,
            "running_var": None,
            "weight": None,
            "bias": None,
            "training": False,
            "momentum": 0.1,
            "eps": 1e-5,
        },
        _batch_norm,
    ),
}
