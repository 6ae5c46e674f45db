"""The plan of a compact network: all of it but the numbers in its tensors, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from pyrosparse.compaction.account import Account, Layer
from pyrosparse.compaction.compact_net import CompactNet
from pyrosparse.compaction.copies import copied
from pyrosparse.compaction.in_place.counts import numbers
from pyrosparse.compaction.masked import make_permanent
from pyrosparse.compaction.parts import PARTS, Gained
from pyrosparse.storage import modules
from pyrosparse.storage.graph import describe_graph, read_graph
from pyrosparse.storage.modules import is_nameable, named_tensors, qualified_name
from pyrosparse.storage.storage import StorageError
from pyrosparse.util.hooks import hooks_of

_DEPTH = 100


def plan_of(net: CompactNet) -> dict[str, Any]:
    """What makes up a compact network beside the numbers: JSON from which ``network`` makes it.

    ``nodes`` and ``modules`` are the graph and the layers that it calls; ``original``, layers of
    the network's own classes, which compact left as they were; ``tensors`` says of each whether it
    is a parameter, is trained, and how it lies in memory; ``same`` has further names of the same
    tensors; ``training``, the modules in training mode; ``account``, the account.

    Raises ValueError, naming it, on an operation, layer or hook that a file cannot hold.

    >>> from pyrosparse.compaction import compact
    >>> plan = plan_of(compact(nn.Sequential(nn.Linear(2, 1, bias=False))))
    >>> plan["tensors"], plan["modules"]["0"]["class"]
    ({'0.weight': {'parameter': True, 'trained': True, 'order': [0, 1]}}, 'torch.nn.Linear')
    """
    refuse_hooks(net)
    tensors, same = describe_tensors(net)
    called = {name: net.get_submodule(name) for name in sorted(_targets(net.graph, "call_module"))}
    nameable = {name: module for name, module in called.items() if is_nameable(module)}
    return {
        "nodes": describe_graph(net.graph),
        "modules": {name: modules.describe(name, module) for name, module in nameable.items()},
        "original": {
            name: _original(name, module) for name, module in called.items() if name not in nameable
        },
        "tensors": tensors,
        "same": same,
        "training": sorted(name for name, module in net.named_modules() if module.training),
        "account": dataclasses.asdict(net.account),
    }


def describe_tensors(net: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
    """Of each tensor whether it is a parameter, is trained, and how it lies in memory; and further
    names of the same tensors."""
    tensors: dict[str, Any] = {}
    same: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in named_tensors(net).items():
        if first.setdefault(id(tensor), name) != name:
            same[name] = first[id(tensor)]
            continue
        tensors[name] = {
            "parameter": isinstance(tensor, nn.Parameter),
            "trained": tensor.requires_grad,
            "order": _order(tensor),
        }
    return tensors, same


def network(
    plan: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    trusted: Mapping[str, type[nn.Module]],
    into: nn.Module | None = None,
) -> CompactNet:
    """The compact network of a plan.

    tensors: by name, those that the plan lists; they are copied.
    trusted: classes of layers beside those of torch.nn and ours, by name.
    into:    a network as the original was, for layers of its own classes; it is left as it is.

    Raises StorageError if the plan has what no plan may have, or the tensors do not fit.
    """
    own = own_tensors(plan, tensors)
    unused = set(own)
    original = plan.get("original", {})
    inside = _by_layer(own, [*plan["modules"], *original])
    layers = {
        name: modules.build(description, inside[name], trusted)
        for name, description in plan["modules"].items()
    }
    layers |= _layers_of(into, original)
    for name in layers:
        _fill(name, layers[name], inside[name])
        unused -= {f"{name}.{key}" for key in named_tensors(layers[name])}
    graph = read_graph(plan["nodes"], layers.keys(), own.keys())
    read = _targets(graph, "get_attr")
    unused = (unused - read) | (layers.keys() - _targets(graph, "call_module"))
    if unused:
        raise StorageError(f"its graph does not use what it has as {', '.join(sorted(unused))}")
    # Twice, as compact itself does: from a dict the layers come in another order.
    whole = fx.GraphModule(layers | {name: own[name] for name in read}, graph)
    net = CompactNet(whole, graph, account_of(plan["account"]))
    set_modes(net, set(plan["training"]))
    return net


def copy_of(into: nn.Module) -> nn.Module:
    """A copy of a network that was given as ``into``.

    Raises StorageError if a copy would not compute what it does."""
    try:
        net = copied(into)
    except ValueError as error:
        raise StorageError(f"the network given as `into` cannot be used: {error}") from error
    return without_parametrizations(net)


def without_parametrizations(net: nn.Module) -> nn.Module:
    """A network with what its parametrizations give in their place, as in compact networks."""
    for module in net.modules():
        if is_parametrized(module):
            make_permanent(module)
    return net


def _original(name: str, module: nn.Module) -> dict[str, Any]:
    """What says whether a layer of another network is like this one, beside its tensors."""
    for inner, part in module.named_modules(prefix=name):
        if is_parametrized(part):
            raise ValueError(
                f"{inner!r}, a {type(part).__name__}, cannot be saved: make the parametrization "
                "permanent, torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
            )
    if any(isinstance(inner, (Gained, *PARTS)) for inner in module.modules()):
        raise ValueError(
            f"{name!r}, a {type(module).__name__}, has gates in it that no weights could take in, "
            "which a file cannot hold: write its forward so that torch.fx can trace it, and "
            "compact again; or save the network as a pickle, torch.save(net, path)"
        )
    return {"class": qualified_name(type(module)), "numbers": numbers(module, layers=True)}


def _layers_of(
    net: nn.Module | None, original: Mapping[str, Mapping[str, Any]]
) -> dict[str, nn.Module]:
    """Copies of a network's own layers that a plan names."""
    if original and net is None:
        raise StorageError(
            f"it has layers of the original network's own classes, {', '.join(sorted(original))}: "
            "ps.load(path, into=net), with a network like the original"
        )
    layers = {}
    for name, said in original.items():
        assert net is not None
        try:
            found = net.get_submodule(name)
            refuse_hooks(found)
        except (AttributeError, ValueError) as error:
            raise StorageError(f"the network given as `into` does not fit: {error}") from error
        layer = copy_of(found)
        if _original(name, layer) != said:
            raise StorageError(
                f"{name!r} of the network given as `into` is a {type(layer).__name__} with other "
                "numbers in it than the file says"
                if qualified_name(type(layer)) == said["class"]
                else f"{name!r} of the network given as `into` is a {type(layer).__name__}, and "
                f"the file says {said['class']}"
            )
        layers[name] = layer
    return layers


def _targets(graph: fx.Graph, op: str) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == op}


def _order(tensor: Tensor) -> list[int]:
    """The dimensions as they lie in memory, the widest steps first: channels_last is [0, 2, 3, 1].

    >>> _order(torch.ones(2, 3).T)
    [1, 0]
    """
    # Of dimensions with equal steps, one of size 1 is the inner one.
    steps = [(-step, size == 1) for step, size in zip(tensor.stride(), tensor.shape, strict=True)]
    return sorted(range(tensor.dim()), key=lambda dim: steps[dim])


def own_tensors(plan: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers by all their names."""
    if plan["tensors"].keys() != tensors.keys():
        names = ", ".join(sorted(plan["tensors"].keys() ^ tensors.keys()))
        raise StorageError(f"tensors are in its plan or in its data, and not in both: {names}")
    own: dict[str, Tensor] = {}
    for name, entry in plan["tensors"].items():
        order = entry["order"]
        if sorted(order) != list(range(tensors[name].dim())):
            raise StorageError(f"{name!r} lies in memory in the order {order}, which is none")
        inverse = [order.index(dim) for dim in range(len(order))]
        # A copy: what is read from a file is a view of it, and kernels want aligned memory.
        ordered = tensors[name].permute(order).clone(memory_format=torch.contiguous_format)
        tensor = ordered.permute(inverse)
        if entry["parameter"]:
            tensor = nn.Parameter(tensor, requires_grad=False)
        own[name] = tensor.requires_grad_(bool(entry["trained"]))
    for name, first in plan["same"].items():
        if name in own or first not in plan["tensors"]:
            raise StorageError(f"{name!r} cannot be another name of {first!r}")
        own[name] = own[first]
    return own


def _by_layer(own: Mapping[str, Tensor], layers: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """The tensors in each layer, by their names there."""
    inside: dict[str, dict[str, Tensor]] = {name: {} for name in layers}
    for name, tensor in own.items():
        pieces = name.split(".")
        if len(pieces) > _DEPTH:
            raise StorageError(f"it has a tensor {len(pieces)} layers deep; {_DEPTH} are enough")
        for end in range(1, len(pieces)):
            layer = ".".join(pieces[:end])
            if layer in inside:
                inside[layer][".".join(pieces[end:])] = tensor
    return inside


def _fill(name: str, layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put its own tensors into a layer."""
    for key, expected in named_tensors(layer).items():
        if key not in tensors:
            raise StorageError(f"the tensor {name}.{key} is missing")
        tensor = tensors[key]
        if tensor.shape != expected.shape:
            raise StorageError(
                f"the tensor {name}.{key} has the shape {list(tensor.shape)}, and its layer takes "
                f"{list(expected.shape)}"
            )
        same_kind = tensor.is_floating_point() == expected.is_floating_point()
        if not same_kind or isinstance(tensor, nn.Parameter) != isinstance(expected, nn.Parameter):
            raise StorageError(
                f"the tensor {name}.{key} is {_kind(tensor)}, and its layer takes {_kind(expected)}"
            )
        owner, _, leaf = key.rpartition(".")
        setattr(layer.get_submodule(owner), leaf, tensor)


def _kind(tensor: Tensor) -> str:
    role = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
    return f"a {role} of {tensor.dtype}"


def set_modes(net: nn.Module, training: set[str]) -> None:
    """Put the modules of these names in training mode, and the others in evaluation mode."""
    for name, module in net.named_modules():
        module.training = name in training
    unknown = training - dict(net.named_modules()).keys()
    if unknown:
        raise StorageError(
            f"it has no layers {', '.join(sorted(unknown))} that could be in training"
        )


def account_of(entry: Mapping[str, Any]) -> Account:
    """The account of a plan."""
    layers = []
    for layer in entry["layers"]:
        pairs = {key: tuple(layer[key]) for key in ("inputs", "outputs", "parameters")}
        layers.append(Layer(**{**layer, **pairs}))
    before, after = entry["parameters"]
    account = Account(
        layers,
        entry["barriers"],
        (before, after),
        entry["error"],
        entry.get("kept_class", ""),
        entry.get("round_to", 1),
        {int(number): time for number, time in entry.get("times", {}).items()},
    )
    str(account)  # raises where something in it is of a wrong type
    return account


def refuse_hooks(net: nn.Module) -> None:
    """Raise ValueError where a module has hooks."""
    for name, module in net.named_modules():
        if hooks_of(module) or module._backward_hooks or module._backward_pre_hooks:
            raise ValueError(
                f"{name or 'the network'!r} has hooks, which a file cannot hold: remove them first"
            )
