"""Checkpoints: all that a run needs to go on as if it had never stopped, without pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from pyrosparse.files import write_atomically

FORMAT = "pyrosparse checkpoint 1"


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is of another run."""


def save(path: str | os.PathLike[str], tree: dict[str, Any]) -> Path:
    """Write a tree of tensors and JSON values to one safetensors file, whole or not at all.

    tree: nested dicts and lists; leaves are tensors or JSON values.

    Raises OSError where it cannot be written; an earlier checkpoint is then still there.

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
            # A copy of its own for each: safetensors holds no shared memory.
            tensors[name] = value.detach().cpu().clone().contiguous()
            return {"tensor": name}
        if isinstance(value, dict):
            return {"dict": [[key, strip(item)] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return {"list": [strip(item) for item in value]}
        return {"value": value}

    content = json.dumps(strip(tree))
    metadata = {"format": FORMAT, "content": content}
    return write_atomically(path, serialize(tensors, metadata=metadata))


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what ``save`` wrote.

    Raises CheckpointError where the file is truncated, corrupt or not a checkpoint of ours, and
    FileNotFoundError where there is none.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint")
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is a safetensors file, but not a checkpoint of pyrosparse (its format "
                    f"is {metadata.get('format')!r}, not {FORMAT!r})"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = json.loads(metadata["content"])

        def fill(value: Any) -> Any:
            ((kind, item),) = value.items()
            if kind == "tensor":
                return tensors[item]
            if kind == "dict":
                return {key: fill(entry) for key, entry in item}
            if kind == "list":
                return [fill(entry) for entry in item]
            return item

        return fill(content)
    except (SafetensorError, json.JSONDecodeError, KeyError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({error}): it is truncated, damaged or of "
            "another program. Delete it to start afresh"
        ) from error
