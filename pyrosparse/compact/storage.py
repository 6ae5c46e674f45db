"""Sparse storage: tensors with many zeros in one safetensors file, without pickle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pyrosparse.files import write_atomically

FORMAT = "pyrosparse sparse weights 1"

Layout = Literal["dense", "bitmask", "indices"]

# What a file can make of Python's and torch's checks; RuntimeError is torch's on absurd sizes.
_DAMAGE = (
    SafetensorError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    RuntimeError, MemoryError, SyntaxError, AssertionError,
)  # fmt: skip


class StorageError(ValueError):
    """A file of weights or of a network cannot be read, or was changed."""


@dataclass(frozen=True)
class Stored:
    """How one tensor was stored.

    layout:      ``dense``; ``bitmask``, one bit an element and the non-zero values; or
                 ``indices``, the int32 positions of the non-zero values and these.
    bytes:       what its data take in the file.
    dense_bytes: what they would take if it were stored dense.
    """

    layout: Layout
    bytes: int
    dense_bytes: int


def save_sparse(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Write tensors to one safetensors file, each in the layout that takes the fewest bytes.

    tensors: by name, any shapes and any dtypes of safetensors, on any device; they come back bit
             for bit (a negative zero and a NaN are values like others).

    Returns how each was stored. Raises ValueError on dtypes and layouts that safetensors does not
    know, and OSError where the file cannot be written; an earlier file is then still there.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_sparse(f"{folder}/a.safetensors", {"w": torch.eye(100)})["w"]
    Stored(layout='indices', bytes=800, dense_bytes=40000)
    """
    parts, headers, stored = pack(tensors)
    write_atomically(path, serialize(parts, FORMAT, headers))
    return stored


def load_sparse(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read what ``save_sparse`` wrote: dense tensors by name, on the CPU.

    Raises StorageError where the file is truncated, was changed, or is not one of ours, and
    FileNotFoundError where there is none.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = save_sparse(f"{folder}/a.safetensors", {"w": torch.tensor([0.0, 2.0, 0.0])})
    ...     load_sparse(f"{folder}/a.safetensors")
    {'w': tensor([0., 2., 0.])}
    """
    with reading(path):
        headers, parts = read(path, FORMAT)
        return unpack(headers, parts)


def pack(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Stored]]:
    """The pieces of all tensors, the headers that ``unpack`` needs, and how each is stored.

    Raises ValueError on layouts that safetensors does not know.
    """
    stored: dict[str, Stored] = {}
    parts: dict[str, Tensor] = {}
    headers: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"{name!r} is not an ordinary tensor: {tensor.layout}, {tensor.dtype}")
        layout, pieces = _encode(tensor)
        # The piece before the colon, so that no name of a tensor can be taken for another's piece.
        parts |= {f"{piece}:{name}": value for piece, value in pieces.items()}
        headers[name] = {"layout": layout, "shape": list(tensor.shape)}
        size = sum(_bytes(value) for value in pieces.values())
        stored[name] = Stored(layout, size, _bytes(tensor))
    return parts, headers, stored


def unpack(headers: Mapping[str, Any], parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of these pieces.

    Raises StorageError where headers and pieces do not belong together.
    """
    parts = dict(parts)
    tensors = {name: _decode(name, header, parts) for name, header in headers.items()}
    if parts:
        raise StorageError(f"it has data that belong to no tensor: {', '.join(sorted(parts))}")
    return tensors


def serialize(parts: dict[str, Tensor], file_format: str, content: Any) -> bytes:
    """A safetensors file of these pieces, with its format and JSON content in the metadata.

    Raises ValueError on dtypes that safetensors does not know.
    """
    try:
        # One entry of metadata: safetensors writes several in any order, and bytes should repeat.
        return save(parts, metadata={file_format: json.dumps(content)})
    except (KeyError, SafetensorError) as error:
        raise ValueError(f"safetensors cannot store one of these dtypes: {error}") from error


def read(path: str | os.PathLike[str], file_format: str) -> tuple[Any, dict[str, Tensor]]:
    """The JSON content and the pieces of a file that ``serialize`` made.

    Raises StorageError on a safetensors file of another format.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if file_format not in metadata:
            raise StorageError(f"it is a safetensors file, but not one of {file_format!r}")
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return json.loads(metadata[file_format]), parts


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever a damaged file makes the code inside raise becomes a StorageError with its path.

    Raises FileNotFoundError where there is no file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file at {path}")
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    except _DAMAGE as error:
        raise StorageError(
            f"{path} cannot be read ({error}): it is truncated, damaged or no safetensors file"
        ) from error


def _encode(tensor: Tensor) -> tuple[Layout, dict[str, Tensor]]:
    # A copy of its own: safetensors refuses memory that two tensors share.
    flat = tensor.detach().cpu().flatten().clone().contiguous()
    rows = _rows(flat)
    # By bits and not by value: -0.0 equals 0.0 but is not the same.
    nonzero = (rows != 0).any(dim=1)
    n, size, count = len(rows), rows.shape[1], int(nonzero.count_nonzero())
    costs: dict[Layout, int] = {"dense": n * size, "bitmask": -(-n // 8) + count * size}
    if n <= torch.iinfo(torch.int32).max:
        costs["indices"] = 4 * count + count * size
    layout = min(costs, key=lambda key: costs[key])
    if layout == "dense":
        return layout, {"values": flat.view(tensor.shape)}
    values = rows[nonzero].view(tensor.dtype).flatten()
    if layout == "bitmask":
        bits = np.packbits(nonzero.numpy(), bitorder="little")
        return layout, {"mask": torch.from_numpy(bits), "values": values}
    return layout, {"indices": nonzero.nonzero().flatten().to(torch.int32), "values": values}


def _decode(name: str, header: Mapping[str, Any], parts: dict[str, Tensor]) -> Tensor:
    """Rebuild one tensor, taking its pieces out of ``parts``."""
    layout, shape = header["layout"], header["shape"]
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise StorageError(f"the shape of {name!r}, {shape}, is no shape")
    values, n = parts.pop(f"values:{name}"), math.prod(shape)
    if layout == "dense":
        if list(values.shape) != shape:
            raise StorageError(f"{name!r} has the shape {list(values.shape)}, not {shape}")
        return values
    if values.dim() != 1:
        raise StorageError(f"the values of {name!r} are not in one row")
    if layout == "bitmask":
        where: Tensor = _unpack(name, parts.pop(f"mask:{name}"), n)
        count = int(where.count_nonzero())
    elif layout == "indices":
        where = parts.pop(f"indices:{name}")
        count = len(where)
        _check_indices(name, where, n)
    else:
        raise StorageError(f"{name!r} has the layout {layout!r}, which is unknown")
    if count != len(values):
        raise StorageError(f"{name!r} has places for {count} values, but {len(values)} of them")
    rows = torch.zeros(n, values.element_size(), dtype=torch.uint8)
    rows[where if where.dtype == torch.bool else where.long()] = _rows(values)
    return rows.view(values.dtype).view(shape)


def _unpack(name: str, mask: Tensor, n: int) -> Tensor:
    if mask.dtype != torch.uint8 or mask.shape != (-(-n // 8),):
        raise StorageError(f"the mask of {name!r} is not one bit for each of {n} elements")
    bits = torch.from_numpy(np.unpackbits(mask.numpy(), bitorder="little")).bool()
    if bits[n:].any():
        raise StorageError(f"the mask of {name!r} has bits beyond its {n} elements")
    return bits[:n]


def _check_indices(name: str, indices: Tensor, n: int) -> None:
    if n > torch.iinfo(torch.int32).max:
        raise StorageError(f"{name!r} has {n} elements, more than int32 indices can count")
    if indices.dtype != torch.int32 or indices.dim() != 1:
        raise StorageError(f"the indices of {name!r} are not int32 in one row")
    if len(indices) and not (int(indices[0]) >= 0 and int(indices[-1]) < n):
        raise StorageError(f"{name!r} has indices outside its {n} elements")
    if not bool((indices[1:] > indices[:-1]).all()):
        raise StorageError(f"the indices of {name!r} do not rise strictly")


def _rows(flat: Tensor) -> Tensor:
    """The bytes of each element: (n,) of any dtype -> (n, itemsize) uint8."""
    return flat.view(torch.uint8).view(len(flat), flat.element_size())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
