"""Arguments of operations and layers as JSON, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from pyrosparse.storage.storage import StorageError

_CONSTANTS: dict[str, Any] = {
    "...": ...,
    "inf": math.inf,
    "-inf": -math.inf,
    "nan": math.nan,
    **{
        str(value): value
        for value in vars(torch).values()
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format))
    },
}


def encode(value: Any, names: Mapping[int, str]) -> Any:
    """An argument as JSON: numbers, texts and lists as they are, all else as one entry's object.

    names: what stands elsewhere in the file (tensors, results of operations), by ``id``; of these
           the name is written.

    Raises ValueError if it is nothing that a file can hold.

    >>> encode((2, slice(None, 1, None), torch.float32), {})
    {'tuple': [2, {'slice': [None, 1, None]}, {'constant': 'torch.float32'}]}
    """
    if id(value) in names:
        return {"name": names[id(value)]}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list):
        return [encode(item, names) for item in value]
    if type(value) in (tuple, torch.Size):
        return {"tuple": [encode(item, names) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, names), encode(v, names)] for k, v in value.items()]}
    if isinstance(value, slice):
        return {"slice": [encode(end, names) for end in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    constant = "..." if value is ... else str(value)
    if constant in _CONSTANTS and isinstance(value, type(_CONSTANTS[constant])):
        return {"constant": constant}
    raise ValueError(f"a value of type {type(value).__name__}, which a file cannot hold")


def decode(value: Any, objects: Mapping[str, Any]) -> Any:
    """The argument that ``encode`` wrote.

    objects: what may be referred to, by name.

    Raises StorageError if it refers to something else, or is of no kind that is known.

    >>> decode({"tuple": [2, {"name": "x"}]}, {"x": "the tensor"})
    (2, 'the tensor')
    """
    if isinstance(value, list):
        return [decode(item, objects) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise StorageError(f"an argument is {value}, which is of no known kind")
    ((kind, content),) = value.items()
    if kind == "name":
        if content not in objects:
            raise StorageError(f"an argument refers to {content!r}, and nothing before it is that")
        return objects[content]
    if kind == "tuple":
        return tuple(decode(item, objects) for item in content)
    if kind == "dict":
        return {decode(key, objects): decode(item, objects) for key, item in content}
    if kind == "slice":
        return slice(*(decode(end, objects) for end in content))
    if kind == "device":
        return torch.device(content)
    if kind == "constant" and content in _CONSTANTS:
        return _CONSTANTS[content]
    raise StorageError(f"an argument is {value}, which is of no known kind")
