"""The layouts in which a tensor with zeros can be stored, as pieces that are tensors themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrosparse.storage.rectangles import covered, rectangles

Layout = Literal["dense", "bitmask", "gaps", "rectangles"]
Pieces = dict[str, Tensor]

_LARGEST = torch.iinfo(torch.int32).max  # elements of a tensor that is not stored whole or as bits
_UNSIGNED = (np.uint8, np.uint16, np.uint32)


class StorageError(ValueError):
    """A file of weights or of a network cannot be read, or was changed."""


def layout_bytes(tensor: Tensor) -> dict[Layout, int]:
    """The bytes that a tensor takes in each layout, with its values.

    ==============  ==============================================================================
    ``dense``       every element
    ``bitmask``     one bit for each element, and the non-zeros
    ``gaps``        before each non-zero how many zeros it comes after, in the smallest unsigned
                    integers that suffice, and the non-zeros: compressed sparse rows (CSR) with the
                    whole tensor as one row, and differences for columns
    ``rectangles``  of the clusters place, size and all elements; of the rest, the smaller of the
                    two above
    ==============  ==============================================================================

    tensor: any shape, any dtype of safetensors. Kernels of a convolution (out, in, k, l) are a
            matrix (in k, out l) when rectangles are looked for, so that neighbours in a kernel are
            neighbours there.

    Whatever has a bit in it is a non-zero: a negative zero and a NaN too. ``gaps`` and
    ``rectangles`` are for tensors of less than 2^31 elements, and left out for others.

    >>> weight = torch.zeros(100, 100)
    >>> weight[10:30, 50:90] = 1
    >>> layout_bytes(weight)
    {'dense': 40000, 'bitmask': 4450, 'gaps': 4004, 'rectangles': 3204}
    """
    found = _position_layouts(tensor)
    if tensor.numel() <= _LARGEST:
        found["rectangles"] = _in_rectangles(tensor)
    return {layout: _bytes(pieces) for layout, pieces in found.items()}


def encode(tensor: Tensor) -> tuple[Layout, Pieces]:
    """The pieces of a tensor, by name, in the layout that takes the fewest bytes.

    >>> layout, pieces = encode(torch.tensor([0.0] * 300 + [7.0, 0.0, 0.0, 8.0, 0.0]))
    >>> layout, pieces["gaps"], pieces["values"]
    ('gaps', tensor([255,  45,   2], dtype=torch.uint8), tensor([7., 8.]))
    """
    found = _position_layouts(tensor)
    smallest = min(map(_bytes, found.values()))
    count = len(found["bitmask"]["values"])
    # No search where the one smallest record beside the values would be too much already.
    if tensor.numel() <= _LARGEST and smallest > count * tensor.element_size() + 4:
        found["rectangles"] = _in_rectangles(tensor)
    layout = min(found, key=lambda key: _bytes(found[key]))
    return layout, found[layout]


def decode(
    name: str,
    layout: str,
    shape: Sequence[int],
    pieces: Pieces,
    *,
    memory: float = math.inf,
) -> Tensor:
    """The tensor of that name whose pieces these are; they are taken out of ``pieces``.

    ``indices``, a layout of earlier files (the int32 places of the non-zeros), is read too.

    memory: the most bytes that it may take.

    Raises StorageError if they do not fit together or make a larger tensor, and KeyError if
    one is missing.

    >>> decode("w", "gaps", [5], {"gaps": torch.tensor([1, 2]).byte(), "values": torch.ones(2)})
    tensor([0., 1., 0., 0., 1.])
    """
    values, n = pieces.pop("values"), math.prod(shape)
    if layout not in ("dense", "bitmask") and n > _LARGEST:
        raise StorageError(f"{name!r} has {n} elements, more than int32 indices can count")
    if n * values.element_size() > memory:
        raise StorageError(
            f"{name!r} takes {n * values.element_size()} bytes, but a file of this size may use "
            f"only {max(memory, 0)} more. If you trust the file, allow more: memory="
        )
    if layout == "dense":
        if list(values.shape) != shape:
            raise StorageError(f"{name!r} has the shape {list(values.shape)}, not {shape}")
        return values
    if values.dim() != 1:
        raise StorageError(f"the values of {name!r} are not in one row")
    if layout == "rectangles":
        return _from_rectangles(name, shape, values, pieces)
    if layout == "bitmask":
        places = _from_mask(name, pieces.pop("mask"), n)
    elif layout == "gaps":
        places = _from_gaps(name, pieces.pop("gaps"), n)
    elif layout == "indices":
        places = _from_indices(name, pieces.pop("indices"), n)
    else:
        raise StorageError(f"{name!r} has the layout {layout!r}, which is unknown")
    if len(places) != len(values):
        raise StorageError(
            f"{name!r} has places for {len(places)} values, but {len(values)} of them"
        )
    return _scattered(places, values, n).view(list(shape))


def _position_layouts(tensor: Tensor) -> dict[Layout, Pieces]:
    """All layouts but rectangles."""
    # A copy of its own: safetensors refuses memory that two tensors share.
    flat = tensor.detach().cpu().flatten().clone().contiguous()
    nonzero = _nonzero(flat)
    values = flat[torch.from_numpy(nonzero)]
    found: dict[Layout, Pieces] = {
        "dense": {"values": flat.view(tensor.shape)},
        "bitmask": {"mask": _mask(nonzero), "values": values},
    }
    if len(flat) <= _LARGEST:
        found["gaps"] = {"gaps": _gaps(nonzero), "values": values}
    return found


def _in_rectangles(tensor: Tensor) -> Pieces:
    order, (rows, columns) = _matrix(tensor.shape)
    flat = tensor.detach().cpu().permute(order).contiguous().flatten()
    nonzero = _nonzero(flat)
    table, rest = rectangles(nonzero.reshape(rows, columns), value_bytes=tensor.element_size())
    inside = covered(table, (rows, columns))
    values = flat[torch.from_numpy((inside | rest).reshape(-1))]
    # What rectangles cover need not be passed over.
    remaining = rest[~inside]
    mask, gaps = _mask(remaining), _gaps(remaining)
    where = {"mask": mask} if _bytes({"": mask}) < _bytes({"": gaps}) else {"gaps": gaps}
    corners, sizes = _smallest(table[:, :2]), _smallest(table[:, 2:])
    return {"corners": corners, "sizes": sizes, "values": values} | where


def _from_rectangles(name: str, shape: Sequence[int], values: Tensor, pieces: Pieces) -> Tensor:
    n, (order, (rows, columns)) = math.prod(shape), _matrix(shape)
    corners, sizes = pieces.pop("corners"), pieces.pop("sizes")
    for piece in (corners, sizes):
        if not _is_unsigned(piece) or piece.dim() != 2 or piece.shape != (len(corners), 2):
            raise StorageError(f"the rectangles of {name!r} are not pairs of unsigned integers")
    table = np.concatenate([corners.numpy(), sizes.numpy()], axis=1).astype(np.int64)
    ends = table[:, :2] + table[:, 2:]
    if (table[:, 2:] < 1).any() or (ends > np.array([rows, columns])).any():
        raise StorageError(f"{name!r} has rectangles outside its {rows} by {columns} elements")
    # Counted before anything of that size is made.
    total = int((table[:, 2] * table[:, 3]).sum())
    inside = covered(table if total <= len(values) else table[:0], (rows, columns)).reshape(-1)
    if int(inside.sum()) != total:
        raise StorageError(f"{name!r} has rectangles that overlap, or have more cells than values")
    if "mask" in pieces:
        rest = _from_mask(name, pieces.pop("mask"), n - total)
    else:
        rest = _from_gaps(name, pieces.pop("gaps"), n - total)
    if total + len(rest) != len(values):
        raise StorageError(
            f"{name!r} has places for {total + len(rest)} values, but {len(values)} of them"
        )
    outside = np.zeros(n - total, dtype=bool)
    outside[rest] = True
    inside[~inside] = outside
    arranged = _scattered(np.flatnonzero(inside), values, n).view([shape[side] for side in order])
    return arranged.permute(np.argsort(order).tolist()).contiguous()


def _matrix(shape: Sequence[int]) -> tuple[list[int], tuple[int, int]]:
    """The order of dimensions in which a tensor becomes a matrix, and its rows and columns."""
    order = list(range(len(shape)))
    if len(shape) <= 1:
        return order, (1, math.prod(shape))
    if len(shape) > 2:
        order = [*order[1:-1], 0, order[-1]]
    columns = math.prod(shape[side] for side in (order[-2:] if len(shape) > 2 else order[-1:]))
    return order, (math.prod(shape) // columns if columns else 0, columns)


def _mask(nonzero: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.packbits(nonzero, bitorder="little"))


def _from_mask(name: str, mask: Tensor, n: int) -> NDArray[np.int64]:
    if mask.dtype != torch.uint8 or mask.shape != (-(-n // 8),):
        raise StorageError(f"the mask of {name!r} is not one bit for each of {n} elements")
    bits = np.unpackbits(mask.numpy(), bitorder="little")
    if bits[n:].any():
        raise StorageError(f"the mask of {name!r} has bits beyond its {n} elements")
    return np.flatnonzero(bits)


def _gaps(nonzero: NDArray[np.bool_]) -> Tensor:
    """The zeros before each non-zero; the largest integer says: so many zeros, and more."""
    zeros = np.diff(np.flatnonzero(nonzero), prepend=-1) - 1
    shortest: NDArray[Any] | None = None
    for dtype in _UNSIGNED:
        largest = np.iinfo(dtype).max
        further, last = np.divmod(zeros, largest)
        gaps = np.full(len(zeros) + int(further.sum()), largest, dtype=dtype)
        gaps[np.cumsum(further + 1) - 1] = last
        if shortest is None or gaps.nbytes < shortest.nbytes:
            shortest = gaps
    assert shortest is not None
    return torch.from_numpy(shortest)


def _from_gaps(name: str, gaps: Tensor, n: int) -> NDArray[np.int64]:
    if not _is_unsigned(gaps) or gaps.dim() != 1:
        raise StorageError(f"the gaps of {name!r} are not unsigned integers in one row")
    zeros = gaps.numpy()
    is_value = zeros < np.iinfo(zeros.dtype).max
    if len(zeros) and not is_value[-1]:
        raise StorageError(f"the gaps of {name!r} do not end before a value")
    places: NDArray[np.int64] = np.cumsum(zeros.astype(np.int64) + is_value)[is_value] - 1
    if len(places) and places[-1] >= n:
        raise StorageError(f"the gaps of {name!r} lead outside its {n} elements")
    return places


def _from_indices(name: str, indices: Tensor, n: int) -> NDArray[np.int64]:
    if indices.dtype != torch.int32 or indices.dim() != 1:
        raise StorageError(f"the indices of {name!r} are not int32 in one row")
    if len(indices) and not (int(indices[0]) >= 0 and int(indices[-1]) < n):
        raise StorageError(f"{name!r} has indices outside its {n} elements")
    if not bool((indices[1:] > indices[:-1]).all()):
        raise StorageError(f"the indices of {name!r} do not rise strictly")
    return indices.numpy().astype(np.int64)


def _scattered(places: NDArray[np.int64], values: Tensor, n: int) -> Tensor:
    """Zeros, (n,), with the values at their places, bit for bit."""
    elements = torch.zeros(n, values.element_size(), dtype=torch.uint8)
    elements[torch.from_numpy(places)] = _elements(values)
    return elements.view(values.dtype).view(n)


def _nonzero(flat: Tensor) -> NDArray[np.bool_]:
    # By bits and not by value: -0.0 equals 0.0 but is not the same.
    nonzero: NDArray[np.bool_] = (_elements(flat) != 0).any(dim=1).numpy()
    return nonzero


def _elements(flat: Tensor) -> Tensor:
    """The bytes of each element: (n,) of any dtype -> (n, itemsize) uint8."""
    return flat.view(torch.uint8).view(len(flat), flat.element_size())


def _smallest(numbers: NDArray[np.int64]) -> Tensor:
    largest = int(numbers.max(initial=0))
    dtype = next(dtype for dtype in _UNSIGNED if largest <= np.iinfo(dtype).max)
    return torch.from_numpy(numbers.astype(dtype))


def _is_unsigned(piece: Tensor) -> bool:
    return piece.dtype in (torch.uint8, torch.uint16, torch.uint32)


def _bytes(pieces: Pieces) -> int:
    return sum(piece.numel() * piece.element_size() for piece in pieces.values())
