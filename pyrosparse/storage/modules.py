"""Layers as JSON, class and constructor's arguments, and back."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from pyrosparse.compaction.in_place.attention import MultiheadAttention
from pyrosparse.compaction.parts import PARTS
from pyrosparse.compaction.rules.registry import REGISTERED
from pyrosparse.storage.storage import StorageError
from pyrosparse.storage.values import decode, encode

# The files of torch.nn.modules whose layers are made from numbers and texts alone.
_FAMILIES = (
    "activation", "batchnorm", "channelshuffle", "conv", "distance", "dropout", "flatten", "fold",
    "instancenorm", "linear", "normalization", "padding", "pixelshuffle", "pooling", "rnn",
    "sparse", "upsampling",
)  # fmt: skip
_CLASSES: dict[str, type[nn.Module]] = {
    f"torch.nn.{name}": value
    for name, value in vars(nn).items()
    if isinstance(value, type)
    and issubclass(value, nn.Module)
    and not issubclass(value, LazyModuleMixin)
    and value.__module__ in [f"torch.nn.modules.{family}" for family in _FAMILIES]
} | {f"pyrosparse.{part.__name__}": part for part in (*PARTS, MultiheadAttention)}
_NAME_OF = {value: name for name, value in _CLASSES.items()}

# Of classes whose signature is (*args, **kwargs).
_RECURRENT = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"
)  # fmt: skip
_ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.GRU: _RECURRENT,
    nn.LSTM: (*_RECURRENT, "proj_size"),
    nn.RNN: (*_RECURRENT, "nonlinearity"),
}
# Arguments of torch.nn that say whether there is a tensor, and where the tensor has another name.
_SWITCHES = ("bias", "add_bias_kv")
_TENSOR: dict[tuple[type[nn.Module], str], str] = {
    (nn.MultiheadAttention, "bias"): "in_proj_bias",
    (nn.MultiheadAttention, "add_bias_kv"): "bias_k",
}


def is_nameable(module: nn.Module) -> bool:
    """Whether a file can name a layer's class: it is of torch.nn or ours, or has a rule.

    >>> is_nameable(nn.Linear(2, 1)), is_nameable(nn.Sequential())
    (True, False)
    """
    return type(module) in _NAME_OF or type(module) in REGISTERED


def describe(name: str, module: nn.Module) -> dict[str, Any]:
    """A layer's class and arguments as JSON, without its tensors.

    A layer of a class that has a registered rule is named by the class's module and name.

    Raises ValueError, with the name that is given, on layers that are not as their constructor
    makes them.

    >>> describe("drop", nn.Dropout(0.1))
    {'class': 'torch.nn.Dropout', 'arguments': {'p': 0.1, 'inplace': False}}
    """
    kind = type(module)
    tensors = named_tensors(module)
    names = {id(tensor): key for key, tensor in tensors.items()}
    try:
        arguments = {key: encode(value, names) for key, value in _arguments(module).items()}
    except ValueError as error:
        raise ValueError(f"{name!r}, a {kind.__name__}, cannot be saved: it has {error}") from error
    description = {"class": _NAME_OF.get(kind, qualified_name(kind)), "arguments": arguments}
    made = build(description, tensors, {qualified_name(kind): kind})
    expected, found = _settings(made), _settings(module)
    changed = [key for key in expected | found if expected.get(key) != found.get(key)]
    if changed:
        raise ValueError(
            f"{name!r}, a {kind.__name__}, cannot be saved: {', '.join(changed)} is not what its "
            "constructor sets. Set it as the constructor does, or remove it"
        )
    return description


def build(
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    trusted: Mapping[str, type[nn.Module]] | None = None,
) -> nn.Module:
    """The layer that was described, with tensors that hold nothing yet (on torch's meta device).

    tensors: those of the layer, by its own names. Only the modules of pyrosparse look at them.
    trusted: classes beside those of torch.nn and pyrosparse, by name.

    Raises StorageError on classes and arguments that a file may not have.

    >>> build({"class": "torch.nn.Linear", "arguments": {"in_features": 2, "out_features": 3}}, {})
    Linear(in_features=2, out_features=3, bias=True)
    """
    name = description["class"]
    classes = {**(trusted or {}), **_CLASSES}
    if name not in classes:
        raise StorageError(
            f"it has a layer of class {name!r}, which a file may not contain. If it is your own "
            "class, pass it: ps.load(path, trusted=[TheClass])"
        )
    kind = classes[name]
    arguments = {k: decode(value, tensors) for k, value in description["arguments"].items()}
    unknown = arguments.keys() - _parameters(kind)
    if unknown:
        raise StorageError(f"{name} takes no argument {', '.join(sorted(unknown))}")
    # The one number that is worked through in a loop: a huge one would keep it busy for ever.
    if arguments.get("num_layers", 0) > len(tensors):
        raise StorageError(f"{name} has {arguments['num_layers']} layers, more than tensors")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the layer has been made before
            return kind(**arguments)
    except Exception as error:
        # Whatever a constructor raises on arguments that it was not made for.
        raise StorageError(f"{name} cannot be made of {arguments}: {error}") from error


def qualified_name(kind: type[nn.Module]) -> str:
    """The name of a class in files: that of its module, and its own.

    >>> qualified_name(nn.Linear)
    'torch.nn.modules.linear.Linear'
    """
    return f"{kind.__module__}.{kind.__qualname__}"


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by all their names, in the order of the names.

    >>> list(named_tensors(nn.Linear(2, 2)))
    ['bias', 'weight']
    """
    parameters = module.named_parameters(remove_duplicate=False)
    buffers = module.named_buffers(remove_duplicate=False)
    return dict(sorted([*parameters, *buffers]))


def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    if kind in _ARGUMENTS:
        return _ARGUMENTS[kind]
    signature = inspect.signature(kind).parameters.values()
    named = [p.name for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return tuple(name for name in named if name not in ("device", "dtype"))


def _arguments(module: nn.Module) -> dict[str, Any]:
    """What the constructor was called with: layers keep that under the same names."""
    arguments = {}
    for name in _parameters(type(module)):
        attribute = _TENSOR.get((type(module), name), name)
        if not hasattr(module, attribute):
            continue  # left at its default; describe looks whether that makes the same layer
        value = getattr(module, attribute)
        if (
            name in _SWITCHES
            and type(module) not in (*PARTS, MultiheadAttention)
            and not isinstance(value, bool)
        ):
            value = value is not None
        arguments[name] = value
    return arguments


def _settings(module: nn.Module) -> dict[str, Any]:
    """All that makes up a layer beside the numbers in its tensors, by name."""
    settings: dict[str, Any] = {
        name: tuple(tensor.shape) for name, tensor in named_tensors(module).items()
    }
    for path, inner in module.named_modules():
        settings[f"class of {path or 'itself'}"] = type(inner)
        for name, value in vars(inner).items():
            # Private ones follow from the others, unless they stand before a method.
            method = callable(getattr(type(inner), name, None))
            if name != "training" and (method or not name.startswith("_")):
                settings[f"{path}.{name}".lstrip(".")] = value
    return settings
