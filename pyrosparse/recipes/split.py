"""The data of a run in three parts, from whatever form they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrosparse.data import DataSet, Examples
from pyrosparse.util.arrays import raw_bytes

HELD_OUT = 0.2
"""The share of tensors that become test data where none are given."""


@dataclass(frozen=True)
class Split:
    """Training, validation and test data; None for those that there are not.

    Each part is ``Examples``, a tuple of tensors (inputs, targets), or a re-iterable of batches.

    n:       how many training data there are.
    name:    for people.
    classes: their names; () where they are not known.
    flip:    whether an image mirrored left to right is still one of its class.
    """

    train: Any
    validation: Any
    test: Any
    n: int
    name: str = "data"
    classes: tuple[str, ...] = ()
    flip: bool = False

    def steps(self, batch_size: int) -> int:
        """Steps an epoch; loaders have batches of their own size.

        >>> split((torch.zeros(100, 4), torch.zeros(100).long())).steps(30)  # 80 to train on
        3
        """
        return -(-self.n // batch_size) if _in_memory(self.train) else len(self.train)

    @property
    def example(self) -> tuple[Tensor, ...]:
        """What the network is called with, for one datum."""
        return tuple(part[:1] for part in self.batch[:-1])

    @property
    def batch(self) -> tuple[Tensor, ...]:
        """A few training data, (inputs, targets)."""
        if isinstance(self.train, Examples):
            return self.train.x[:2], self.train.y[:2]
        if isinstance(self.train, tuple):
            return tuple(part[:2] for part in self.train)
        with torch.random.fork_rng(
            devices=range(torch.cuda.device_count())
        ):  # a loader shuffles by the caller's generator
            return tuple(part[:2] for part in next(iter(self.train)))

    def some(self, count: int, seed: int) -> tuple[Tensor, ...]:
        """So many training data, (inputs, targets), chosen by the seed; fewer where there are not
        as many.

        >>> data = split((torch.zeros(100, 4), torch.zeros(100).long()))
        >>> [len(part) for part in data.some(30, seed=0)]
        [30, 30]
        """
        if _in_memory(self.train):
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(self.n, generator=generator)[:count]
            return tuple(part[chosen.to(part.device)] for part in _tensors(self.train))
        found: list[Any] = []
        with torch.random.fork_rng(devices=[]):  # a loader shuffles by the caller's generator
            torch.manual_seed(seed)
            for batch in self.train:
                found.append(batch)
                if sum(len(one[0]) for one in found) >= count:
                    break
        return tuple(torch.cat(columns)[:count] for columns in zip(*found, strict=True))

    @property
    def shift(self) -> bool:
        """Whether the data are images of which a tenth is a pixel or more: smaller ones change too
        much with every shift."""
        shape = self.batch[0].shape[1:]
        return len(shape) == 3 and min(shape[1:]) >= 10

    @property
    def judged(self) -> Any:
        """What results are judged on: test data, or where there are none, training data."""
        return self.train if self.test is None else self.test

    @property
    def key(self) -> str | None:
        """What tells these data from others; None of loaders."""
        parts = [self.train, self.validation]
        if not all(part is None or _in_memory(part) for part in parts):
            return None
        return digest(tensor for part in parts if part is not None for tensor in _tensors(part))


def split(
    data: Any, validation: Any = None, test: Any = None, *, seed: int = 0, device: Any = None
) -> Split:
    """Data in three parts.

    data:       a ``DataSet``; ``Examples``; tensors or arrays (inputs, targets), one datum a row;
                or a loader of such batches.
    validation: likewise, or the share of the training data to hold out, at random by the seed.
    test:       likewise; of data in memory a fifth by default. A loader holds out nothing.
    device:     where data in memory go; by default they stay.

    Raises TypeError on data of another kind, such as dicts, ValueError on shares outside [0, 1)
    and where there is nothing to hold out from.

    >>> found = split((np.zeros((10, 3)), np.arange(10) % 2), validation=0.25)
    >>> len(found.train), len(found.validation), len(found.test), found.train.x.dtype
    (6, 2, 2, torch.float32)
    """
    name: str = "data"
    classes: tuple[str, ...] = ()
    flip = False
    if isinstance(data, DataSet):
        name, classes, flip = data.name, data.classes, data.flip
        validation = data.validation if validation is None else validation
        test = data.test if test is None else test
        data = data.train
    train = _part(data)
    if test is None and _in_memory(train):
        test = HELD_OUT
    train, test = _held_out(train, test, "test", seed)
    train, validation = _held_out(train, validation, "validation", seed)
    train, validation, test = (_to(part, device) for part in (train, validation, test))
    return Split(train, validation, test, count(train), name, classes, flip)


def digest(tensors: Iterable[Tensor]) -> str:
    """A code of tensors: their shapes, where they are, and every bit.

    >>> digest([torch.zeros(3)]) == digest([torch.zeros(3)]) != digest([torch.ones(3)])
    True
    """
    code = hashlib.sha256()
    for tensor in tensors:
        code.update(f"{tuple(tensor.shape)} {tensor.dtype} {tensor.device}".encode())
        code.update(raw_bytes(tensor))
    return code.hexdigest()


def _part(data: Any) -> Any:
    if isinstance(data, Examples):
        return data
    if isinstance(data, (tuple, list)) and data and all(_is_array(part) for part in data):
        tensors = tuple(_tensor(part) for part in data)
        if len(tensors) < 2:
            raise TypeError("data must be (inputs, targets); got inputs alone")
        x, y = tensors[0], tensors[-1]
        classes = y.dtype == torch.int64 and y.dim() == 1
        fits = x.is_floating_point() and x.dim() > 1
        return Examples(x, y) if len(tensors) == 2 and classes and fits else tensors
    if isinstance(data, Mapping):
        refuse_named(data)
    batches = hasattr(data, "__iter__") and hasattr(data, "__len__")
    if batches and not isinstance(data, (Tensor, np.ndarray, str)):
        with torch.random.fork_rng(
            devices=range(torch.cuda.device_count())
        ):  # a loader shuffles by the caller's generator
            first = next(iter(data), None)
        if isinstance(first, Mapping):
            refuse_named(first)
        return data
    raise TypeError(
        "data must be a DataSet, Examples, tensors or arrays (inputs, targets), or a loader of "
        f"such batches that has a length; got {type(data).__name__}"
    )


def refuse_named(data: Mapping[str, Any]) -> None:
    """Raise TypeError: recipes call networks by position, and measure tensors."""
    raise TypeError(
        f"compress does not support dicts; the data have {', '.join(map(repr, data))}: pass a "
        "tuple of tensors in the order of the network's arguments, the targets last; or lift the "
        "network, train it by ps.fit, which supports dicts, and cut it by ps.compact"
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _tensor(value: Any) -> Tensor:
    """As a tensor of float32 or int64, unless it is one already."""
    if isinstance(value, Tensor):
        return value
    tensor = torch.as_tensor(value)
    if tensor.is_floating_point():
        return tensor.to(torch.get_default_dtype())
    return tensor.long() if tensor.dtype != torch.bool else tensor


def _held_out(train: Any, part: Any, what: str, seed: int) -> tuple[Any, Any]:
    """What is left to train on, and the part; a share is taken at random by the seed."""
    if part is None:
        return train, None
    if not isinstance(part, float | int):
        return train, _part(part)
    if not 0 <= part < 1:
        raise ValueError(f"{what} is data or a share of the data, in [0, 1); got {part}")
    if part == 0:
        return train, None
    if not _in_memory(train):
        raise ValueError(f"no data can be held out of a loader: pass {what} data")
    n = count(train)
    some = max(1, round(part * n))
    if some >= n:
        raise ValueError(f"none of the {n} data would be left for training: pass {what} data")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return _rows(train, order[some:].sort().values), _rows(train, order[:some].sort().values)


def _in_memory(part: Any) -> bool:
    return isinstance(part, (Examples, tuple))


def count(part: Any) -> int:
    """How many data a part has; 0 where there is none."""
    if part is None:
        return 0
    if isinstance(part, tuple):
        return len(part[0])
    if isinstance(part, Examples):
        return len(part)
    dataset = getattr(part, "dataset", None)
    if dataset is not None and not getattr(part, "drop_last", False):
        return len(dataset)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return sum(len(batch[0]) for batch in part)


def _rows(part: Any, index: Tensor) -> Any:
    if isinstance(part, Examples):
        return part.subset(index.to(part.y.device))
    return tuple(tensor[index.to(tensor.device)] for tensor in part)


def _tensors(part: Any) -> tuple[Tensor, ...]:
    return (part.x, part.y) if isinstance(part, Examples) else part


def _to(part: Any, device: Any) -> Any:
    if device is None or not _in_memory(part):
        return part
    if isinstance(part, Examples):
        return part.to(device)
    return tuple(tensor.to(device) for tensor in part)
