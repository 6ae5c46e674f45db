"""Data of one kind, such as test data, from whatever form they come in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from pyrosparse.data import Examples
from pyrosparse.evidence.batches import (
    Columns,
    Loader,
    as_batch,
    columns,
    is_map_style,
    prepared,
)
from pyrosparse.util.arrays import is_array
from pyrosparse.util.errors import UsageError
from pyrosparse.util.generators import generators_left_alone

ONE_BY_ONE = (
    "the data ({}) come one by one, and batches are needed: give DataLoader(data, batch_size=...)"
)


def part_of(data: Any) -> Any:
    """Data of any form as ``Examples``, a tuple or dict of tensors, a ``Dataset`` or a loader.

    Raises UsageError if they are of another kind, ValueError if columns differ in length, are empty
    or hold anything but numbers.

    >>> part_of((np.zeros((4, 3)), np.arange(4)))
    Examples(4 x (3,), torch.float32, cpu)
    """
    if isinstance(data, Examples):
        return data
    if isinstance(data, TensorDataset) and type(data).__getitem__ is TensorDataset.__getitem__:
        data = data.tensors
    if isinstance(data, list) and data and all(map(_is_array, data)):
        data = tuple(data)
    if isinstance(data, tuple):
        tensors = prepared(data)
        if len(tensors) < 2:
            raise UsageError(
                "data must be (inputs, targets); got inputs only. Give the tokens of a language "
                "model by name: {'input_ids': tokens}"
            )
        return _examples(tensors)
    if isinstance(data, Mapping):
        return columns(data)
    if is_map_style(data):
        return data
    batches = hasattr(data, "__iter__") and hasattr(data, "__len__")
    if batches and not isinstance(data, (Tensor, np.ndarray, str)):
        return data
    raise UsageError(
        "data must be a DataSet, Examples, tensors or arrays (inputs, targets), a dict of them, a "
        "torch Dataset, or a loader of such batches that has a length; got "
        f"{type(data).__name__}"
    )


def _examples(tensors: Any) -> Any:
    """Inputs of floating point with classes as ``Examples``; other data do not change."""
    if not isinstance(tensors, tuple) or len(tensors) != 2:
        return tensors
    x, y = tensors
    classes = y.dtype == torch.int64 and y.dim() == 1
    return Examples(x, y) if classes and x.is_floating_point() and x.dim() > 1 else tensors


def ordered(part: Any, model: Any) -> Any:
    """Data by name as arguments in the order of a model's, and a ``Dataset`` as batches of its
    rows. Other data do not change.

    Raises UsageError if the model has no argument of a name, ValueError if there are no
    targets.

    >>> named = {"labels": torch.arange(4), "mask": torch.ones(4, 3), "ids": torch.zeros(4, 3)}
    >>> [len(one) for one in ordered(named, lambda ids, mask, labels: None)]
    [4, 4, 4]
    """
    names = names_of(part)
    if isinstance(part, Mapping) or is_map_style(part):
        found = _examples(prepared(part, model))
    elif not names:
        return part
    elif isinstance(part, list):
        found = [as_batch(batch, model) for batch in part]
    else:
        found = Loader(part, model)
    if names:
        _check_targets(few(found)[-1], names)
    return found


def names_of(part: Any) -> list[str]:
    """The names of data that are given by name; an empty list for other data."""
    if isinstance(part, Mapping):
        return list(part)
    if part is None or isinstance(part, (Examples, tuple)) or hasattr(part, "batches"):
        return []
    with generators_left_alone():
        found = part[0] if is_map_style(part) else next(iter(part), None)
    return list(found) if isinstance(found, Mapping) else []


def _check_targets(targets: Any, names: list[str]) -> None:
    if targets is None:
        raise ValueError(
            f"the data have no targets, only {', '.join(map(repr, names))}: give them as 'labels'"
        )
    if not isinstance(targets, Tensor) or not targets.dim():
        raise ValueError(ONE_BY_ONE.format(", ".join(map(repr, names))))


def few(part: Any) -> tuple[Any, ...]:
    """The first two data of an ordered part, (inputs, targets)."""
    if isinstance(part, tuple):
        return first(part, 2)
    with generators_left_alone():
        if hasattr(part, "batches"):
            return tuple(next(iter(part.batches(2))))
        batch = next(iter(part), None)
        if batch is None:
            raise ValueError("there are no data: the loader or list has no batches")
        _check_batch(batch)
        return first(batch, 2)


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def by_index(part: Any) -> bool:
    """Whether the data can be read by index, and not only in batches."""
    return isinstance(part, (tuple, Mapping)) or hasattr(part, "batches") or is_map_style(part)


def in_memory(part: Any) -> bool:
    """Whether an ordered part consists of tensors."""
    return isinstance(part, (Examples, tuple, Columns))


def count(part: Any) -> int:
    """The number of data of a part; 0 for None."""
    if part is None:
        return 0
    if isinstance(part, tuple):
        return len(part[0])
    if isinstance(part, Mapping):
        return len(next(iter(part.values())))
    if by_index(part):
        return len(part)
    dataset = getattr(part, "dataset", None)
    if dataset is not None and not getattr(part, "drop_last", False):
        return len(dataset)
    with generators_left_alone():
        return sum(_rows(batch) for batch in part)


def _rows(batch: Any) -> int:
    _check_batch(batch)
    return len(next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0])


def _check_batch(batch: Any) -> None:
    """Raise UsageError if a batch does not consist of columns."""
    if not isinstance(batch, (tuple, list, Mapping)) or not batch:
        what = "an empty one" if isinstance(batch, (tuple, list, Mapping)) else type(batch).__name__
        raise UsageError(
            "a list or loader must give batches, each (inputs, targets) or a dict of tensors by "
            f"name; got {what}"
        )
    ends = [next(iter(batch.values()))] if isinstance(batch, Mapping) else [batch[0], batch[-1]]
    for value in ends:
        if isinstance(value, (int, float)) or (is_array(value) and not value.ndim):
            raise ValueError(ONE_BY_ONE.format("list or loader"))
        if not is_array(value):
            raise UsageError(
                f"a batch of the list or loader has a {type(value).__name__} where a tensor or "
                "array belongs, one datum a row: give batches of tensors, or all data as a tuple "
                "(inputs, targets)"
            )


def subset(part: Any, index: Tensor) -> Any:
    """The data of a part at some indices."""
    if isinstance(part, Examples):
        return part.subset(index)
    if isinstance(part, tuple):
        return tuple(tensor[index.to(tensor.device)] for tensor in part)
    if isinstance(part, Mapping):
        return {name: tensor[index.to(tensor.device)] for name, tensor in part.items()}
    return Subset(part, index.tolist())


def tensors(part: Any) -> Iterable[Tensor]:
    """The tensors that identify a part in memory."""
    if isinstance(part, Columns):
        places = [place for place, one in enumerate(part.parts) if isinstance(one, Tensor)]
        return [torch.tensor(places), *part.tensors]
    return (part.x, part.y) if isinstance(part, Examples) else part


def moved(part: Any, device: Any) -> Any:
    """A part in memory, moved to a device; loaders do not change."""
    if device is None:
        return part
    if isinstance(part, Examples):
        return part.to(device)
    if isinstance(part, tuple):
        return tuple(tensor.to(device) for tensor in part)
    if isinstance(part, Mapping):
        return {name: tensor.to(device) for name, tensor in part.items()}
    return part


def first(batch: Any, count: int) -> tuple[Any, ...]:
    """The first data of a batch. Arguments without a dimension of the data do not change."""
    return tuple(part[:count] if isinstance(part, Tensor) else part for part in batch)


def together(parts: Sequence[Any]) -> Any:
    """One argument of several batches, concatenated."""
    if not isinstance(parts[0], Tensor):
        return parts[0]
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) > 1:
        raise ValueError(
            f"the batches of the loader have data of different shapes, such as {shapes[0]} and "
            f"{shapes[-1]}, but this recipe joins several batches: pad all of them to one length"
        )
    return torch.cat(tuple(parts))
