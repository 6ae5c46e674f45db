"""Sparse storage: tensors with many zeros in one safetensors file, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from pyrosparse.storage.layouts import Layout, StorageError, decode, encode
from pyrosparse.util import tensor_file

FORMAT = "pyrosparse sparse weights 1"

# What a file can make of Python's and torch's checks; RuntimeError is torch's on absurd sizes.
_DAMAGE = (
    SafetensorError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    RuntimeError, MemoryError, SyntaxError, AssertionError,
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """How one tensor was stored.

    layout:      ``dense``, ``bitmask``, ``gaps`` or ``rectangles``; ``layout_bytes`` says what each
                 of them is, and what each would take.
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
    know, and OSError if the file cannot be written; an earlier file is then still there.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_sparse(f"{folder}/a.safetensors", {"w": torch.eye(100)})["w"]
    Stored(layout='gaps', bytes=500, dense_bytes=40000)
    """
    parts, headers, stored = pack(tensors)
    write(path, parts, FORMAT, headers)
    return stored


def load_sparse(path: str | os.PathLike[str], *, memory: int | None = None) -> dict[str, Tensor]:
    """Read what ``save_sparse`` wrote: dense tensors by name, on the CPU.

    memory: the most bytes that the tensors may take, since a small file can claim many; by default
            256 MiB and 1024 times the file.

    Warns where the file has no digest, as those that earlier versions wrote.

    Raises StorageError if the file is truncated, was changed in a single bit, is not one of
    ours or asks for more memory, and FileNotFoundError if there is none.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = save_sparse(f"{folder}/a.safetensors", {"w": torch.tensor([0.0, 2.0, 0.0])})
    ...     load_sparse(f"{folder}/a.safetensors")
    {'w': tensor([0., 2., 0.])}
    """
    with reading(path):
        headers, parts = read(path, FORMAT)
        return unpack(headers, parts, allowance(path, memory))


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
        layout, pieces = encode(tensor)
        # The piece before the colon, so that no name of a tensor can be taken for another's piece.
        parts |= {f"{piece}:{name}": value for piece, value in pieces.items()}
        headers[name] = {"layout": layout, "shape": list(tensor.shape)}
        size = sum(value.numel() * value.element_size() for value in pieces.values())
        stored[name] = Stored(layout, size, tensor.numel() * tensor.element_size())
    return parts, headers, stored


def unpack(headers: Mapping[str, Any], parts: dict[str, Tensor], memory: int) -> dict[str, Tensor]:
    """The tensors of these pieces.

    memory: the most bytes that they may take.

    Raises StorageError if headers and pieces do not belong together, or the tensors are larger.
    """
    pieces: dict[str, dict[str, Tensor]] = {name: {} for name in headers}
    for part, value in parts.items():
        piece, _, name = part.partition(":")
        pieces.setdefault(name, {})[piece] = value
    tensors = {}
    for name, header in headers.items():
        shape = header["shape"]
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise StorageError(f"the shape of {name!r}, {shape}, is no shape")
        try:
            tensors[name] = decode(name, header["layout"], shape, pieces[name], memory=memory)
            memory -= tensors[name].nbytes
        except KeyError as missing:
            raise StorageError(f"it has no {missing} of {name!r}") from missing
    unread = [f"{piece}:{name}" for name, left in pieces.items() for piece in left]
    if unread:
        raise StorageError(f"it has data that belong to no tensor: {', '.join(sorted(unread))}")
    return tensors


def write(
    path: str | os.PathLike[str], parts: dict[str, Tensor], file_format: str, content: Any
) -> None:
    """Write these pieces to a safetensors file, with its format and JSON content in the metadata.

    Raises ValueError on dtypes that safetensors does not know, and OSError if it cannot be
    written.
    """
    try:
        tensor_file.save(path, parts, {file_format: json.dumps(content)})
    except (KeyError, SafetensorError) as error:
        raise ValueError(f"safetensors cannot store one of these dtypes: {error}") from error


def read(path: str | os.PathLike[str], file_format: str) -> tuple[Any, dict[str, Tensor]]:
    """The JSON content and the pieces of a file that ``write`` made.

    Raises StorageError on a safetensors file of another format.
    """
    _, content, parts = read_one_of(path, [file_format])
    return content, parts


def read_one_of(
    path: str | os.PathLike[str], formats: Sequence[str]
) -> tuple[str, Any, dict[str, Tensor]]:
    """Which of these formats a file is of, its JSON content and its pieces.

    Raises StorageError on a safetensors file of another format.
    """
    found = formats[0]
    try:
        metadata, parts = tensor_file.load(path, [found])
    except tensor_file.OtherFileError as error:
        if not (others := [one for one in formats[1:] if one in error.metadata]):
            raise StorageError(f"it is a safetensors file, but not one of {found!r}") from error
        found = others[0]
        metadata, parts = tensor_file.load(path, [found])
    return found, json.loads(metadata[found]), parts


def allowance(path: str | os.PathLike[str], memory: int | None) -> int:
    """The most bytes that the tensors of a file may take; ``memory`` if that is a number."""
    # A byte of gaps passes over 255 zeros, which is 1020 bytes of float32.
    return 1024 * os.path.getsize(path) + 2**28 if memory is None else memory


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever a damaged file makes the code inside raise becomes a StorageError with its path.

    Raises FileNotFoundError if there is no file.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(f"there is no file at {path}")
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    except _DAMAGE as error:
        raise StorageError(
            f"{path} cannot be read ({error}): it is truncated, damaged or not a safetensors "
            "file. Get a complete copy, or save it again"
        ) from error
