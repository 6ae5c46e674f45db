"""Reading a network's weights from whatever file they are in."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pyrosparse.infer import checkpoint
from pyrosparse.storage.network_file import FORMAT as NETWORK
from pyrosparse.storage.storage import FORMAT as SPARSE
from pyrosparse.storage.storage import StorageError, load_sparse
from pyrosparse.util.files import open_file


def load_weights(path: str | os.PathLike[str], *, memory: int | None = None) -> dict[str, Tensor]:
    """Read a state dict: from safetensors, from our sparse weights or checkpoints, or from torch.

    path: ``*.safetensors`` as ``save_sparse``, ``fit`` or ``safetensors`` itself wrote it; any
          other name is read as ``torch.save`` wrote it, with ``weights_only=True``: a state dict,
          or a dict with one under ``state_dict``.
    memory: of sparse weights, the most bytes that they may take, as of ``load_sparse``.

    Raises StorageError if the file is damaged or holds something else, FileNotFoundError if
    there is none, and OSError if the path is of something else, such as a folder.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(torch.nn.Linear(3, 2).state_dict(), f"{folder}/a.pt")
    ...     sorted(load_weights(f"{folder}/a.pt"))
    ['bias', 'weight']
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise FileNotFoundError(f"there is no file of weights at {path}")
    open_file(path).close()  # what is no file is refused
    return _safetensors(path, memory) if path.suffix == ".safetensors" else _torch(path)


def _safetensors(path: Path, memory: int | None) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if SPARSE in metadata:
            return load_sparse(path, memory=memory)
        if NETWORK in metadata:
            raise StorageError(
                f"{path} holds a compact network, whose weights do not fit another network: read "
                "it with ps.load(path); its state_dict() has the weights"
            )
        if metadata.get("format") == checkpoint.FORMAT:
            with checkpoint.reading(path):
                return _of_checkpoint(checkpoint.load(path), path)
        return load_file(path)
    except checkpoint.CheckpointError as error:
        raise StorageError(str(error)) from error
    except SafetensorError as error:
        raise StorageError(
            f"{path} cannot be read ({error}): it is truncated, damaged or not a safetensors "
            "file. Get a complete copy, or save it again"
        ) from error


def _of_checkpoint(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    # The state of a lifted network: its net, and beside it the posterior.
    weights = {
        name.removeprefix("net."): tensor
        for module in state["modules"]
        for name, tensor in module.items()
        if name.startswith("net.")
    }
    if not weights:
        raise checkpoint.CheckpointError(f"{path} is a checkpoint without a lifted network in it")
    return weights


def _torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StorageError(
            f"{path} is refused: it is not a file of torch.save, or it contains Python objects "
            "other than tensors, which could run code. Save only the state dict: "
            "torch.save(net.state_dict(), path)"
        ) from error
    except PermissionError:
        raise
    except Exception as error:  # whatever zip, pickle and torch make of damage
        raise StorageError(
            f"{path} cannot be read ({error}): it is truncated, damaged or not a file of "
            "torch.save. Get a complete copy, or save it again"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = isinstance(content, Mapping) and all(isinstance(v, Tensor) for v in content.values())
    if not tensors or not content:
        raise StorageError(
            f"{path} holds a {type(content).__name__} instead of a state dict (tensors by name)"
        )
    return dict(content)
