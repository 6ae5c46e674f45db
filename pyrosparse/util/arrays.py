"""Arrays, tables and lists of numbers as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrosparse.util.errors import UsageError


def is_array(value: Any) -> bool:
    """Whether something is a tensor, an array, or a column or table that becomes one."""
    return isinstance(value, Tensor | np.ndarray) or hasattr(value, "to_numpy")


def rows(value: Any, name: str) -> Tensor:
    """A column of data as a tensor with one datum a row; raises as ``as_tensor`` does.

    name: of the column, for errors.
    """
    tensor = as_tensor(value, name)
    if not tensor.dim():
        raise ValueError(
            f"{name} of the data is one number, but one row for each datum is expected"
        )
    return tensor


def as_tensor(value: Any, name: str) -> Tensor:
    """An array, a ``DataFrame``, a ``Series`` or a sequence of numbers as a tensor: of floating
    numbers in torch's default dtype, of whole ones in int64. A tensor stays as it is.

    Raises TypeError if it is of another kind; ValueError if it holds what is no number, is
    masked, or has rows of different shapes.

    >>> as_tensor([[0.5], [1.0]], "x")
    tensor([[0.5000],
            [1.0000]])
    >>> as_tensor(np.array(["cat", "dog"]), "y")
    Traceback (most recent call last):
    ValueError: y of the data has the dtype <U3, which is not numeric: ...
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Sequence) and not isinstance(value, list | tuple | str | bytes):
        # A column that is read when it is asked for, as those of Hugging Face's datasets.
        read = value[:]
        return as_tensor(list(read) if type(read) is type(value) else read, name)
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        raise UsageError(
            f"{name} of the data is a list of tensors: give one tensor, torch.stack(...)"
        )
    if not (is_array(value) or hasattr(value, "__array__") or isinstance(value, list)):
        raise UsageError(
            f"{name} of the data is a {type(value).__name__}: give a tensor, an array, a DataFrame "
            "or a list of numbers; batches belong in a list, not in a tuple"
        )
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{name} of the data is a masked array, whose mask would be lost: leave masked data "
            "out, or give the mask as a separate tensor for poutine.mask in the model"
        )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} of the data has rows of different shapes: {error}") from error
    if array.dtype.kind == "f":
        double = array.astype(np.float32 if array.dtype == np.float32 else np.float64)
        return torch.from_numpy(double).to(torch.get_default_dtype())
    if array.dtype.kind == "b":
        return torch.from_numpy(array.copy())
    if np.can_cast(array.dtype, np.int64):
        return torch.from_numpy(array.astype(np.int64))
    raise ValueError(
        f"{name} of the data has the dtype {array.dtype}, which is not numeric: give numbers of "
        "one dtype, without missing values, and labels as 0, 1, 2, ..."
    )


def raw_bytes(tensor: Tensor) -> memoryview:
    """Every bit of a tensor's values, row by row, from whichever device.

    >>> bytes(raw_bytes(torch.tensor([1, 2], dtype=torch.uint8)))
    b'\\x01\\x02'
    """
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data
