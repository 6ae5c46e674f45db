"""Checkpoints: the whole state of a run, from which it continues exactly, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from pyrosparse.util import tensor_file

FORMAT = "pyrosparse checkpoint 1"

_PLAIN = (bool, int, float, str, type(None))

# Exceptions that damaged contents can raise; RecursionError is a RuntimeError.
_DAMAGE = (
    SafetensorError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    RuntimeError, MemoryError,
)  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or belongs to another run."""


def save(path: str | os.PathLike[str], tree: dict[str, Any]) -> Path:
    """Write a tree of tensors and JSON values to one safetensors file, whole or not at all.

    tree: nested dicts and lists; leaves are tensors or JSON values.

    Raises OSError if it cannot be written, or its folder is missing; an earlier checkpoint then
    remains.

    >>> import torch
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(f"{folder}/a.safetensors", {"step": 3, "w": torch.ones(2)})
    ...     load(path)["step"]
    3
    """
    tensors: dict[str, Tensor] = {}

    def strip(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = str(len(tensors))
            # Each gets a copy: safetensors cannot hold shared memory.
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": name}
        if _is_plain(value):
            return {"value": value}
        if isinstance(value, dict):
            return {"dict": [[key, strip(item)] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return {"list": [strip(item) for item in value]}
        return {"value": value}  # JSON refuses it

    content = json.dumps(strip(tree))
    metadata = {"format": FORMAT, "content": content}
    # A folder that was removed is not created again: it would lack the other files of the run.
    tensor_file.save(path, tensors, metadata, parents=False)
    return Path(path)


def _is_plain(value: Any) -> bool:
    """Whether JSON returns a value unchanged: most of a long history, which needs no tree."""
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that ``save`` wrote.

    Warns if the file has no digest, as in files that earlier versions wrote.

    Raises CheckpointError if the file is truncated, damaged, even in a single bit, or not a
    checkpoint of this package, and FileNotFoundError if there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint")
    if not os.path.lexists(path):
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    with reading(path):
        try:
            metadata, tensors = tensor_file.load(path, ["format", "content"])
        except tensor_file.OtherFileError as error:
            metadata = dict(error.metadata)
        if metadata.get("format") != FORMAT or "content" not in metadata:
            raise CheckpointError(
                f"{path} is a safetensors file, but not a checkpoint of pyrosparse (its format "
                f"is {metadata.get('format')!r}, not {FORMAT!r})"
            )

        def fill(value: Any) -> Any:
            ((kind, item),) = value.items()
            if kind == "tensor":
                return tensors[item]
            if kind == "dict":
                return {key: fill(entry) for key, entry in item}
            if kind == "list":
                return [fill(entry) for entry in item]
            if kind == "value":
                return item
            raise ValueError(f"it has a value of the unknown kind {kind!r}")

        tree = fill(json.loads(metadata["content"]))
        if not isinstance(tree, dict):
            raise ValueError(f"it contains a {type(tree).__name__} instead of a dict")
        return tree


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise CheckpointError for any exception that a damaged checkpoint causes in the block.

    >>> with reading("a.safetensors"):
    ...     {}["settings"]
    Traceback (most recent call last):
    pyrosparse.infer.checkpoint.CheckpointError: a.safetensors is not a readable checkpoint ...
    """
    try:
        yield
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({type(error).__name__}: {error}): it is "
            "truncated, damaged or from another program. Delete it to start again"
        ) from error
