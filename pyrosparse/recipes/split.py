"""The data of a run in three parts, from whatever form they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyrosparse.data import DataSet, Examples
from pyrosparse.recipes.parts import (
    by_index,
    count,
    few,
    first,
    in_memory,
    moved,
    names_of,
    ordered,
    part_of,
    subset,
    tensors,
    together,
)
from pyrosparse.util.arrays import raw_bytes
from pyrosparse.util.generators import generators_left_alone

HELD_OUT = 0.2
"""The share of data that become test data where none are given, but for those of loaders."""


@dataclass(frozen=True)
class Split:
    """Training, validation and test data; None for those that there are not.

    Each part is ``Examples``, a tuple of tensors (inputs, targets), an object whose ``batches``
    makes such minibatches, or a re-iterable of them. Data by name are ``ordered`` first.

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

    @property
    def names(self) -> list[str]:
        """The names of the training data, of which none has a place yet; empty of others."""
        return names_of(self.train)

    def ordered(self, model: Any) -> Split:
        """The same, with data by name in the order of a model's arguments: its inputs, with the
        defaults between them, and the targets last.

        Raises TypeError if the model has no argument of a name, ValueError if there are no
        targets.

        >>> data = {"y": torch.arange(10) % 2, "x": torch.zeros(10, 3)}
        >>> split(data).ordered(lambda x, y=None: None).train
        Examples(8 x (3,), torch.float32, cpu)
        """
        parts = (ordered(part, model) for part in (self.train, self.validation, self.test))
        train, validation, test = parts
        return replace(self, train=train, validation=validation, test=test)

    def steps(self, batch_size: int) -> int:
        """Steps an epoch; loaders have batches of their own size.

        >>> split((torch.zeros(100, 4), torch.zeros(100).long())).steps(30)  # 80 to train on
        3
        """
        return -(-self.n // batch_size) if by_index(self.train) else len(self.train)

    @property
    def example(self) -> tuple[Any, ...]:
        """What the network is called with, for one datum."""
        return first(self.batch[:-1], 1)

    @property
    def batch(self) -> tuple[Any, ...]:
        """A few training data, (inputs, targets)."""
        return few(self.train)

    def some(self, count: int, seed: int) -> tuple[Any, ...]:
        """So many training data, (inputs, targets), chosen by the seed; fewer where there are not
        as many.

        Raises ValueError if the batches of a loader have data of different shapes.

        >>> data = split((torch.zeros(100, 4), torch.zeros(100).long()))
        >>> [len(part) for part in data.some(30, seed=0)]
        [30, 30]
        """
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.train, tuple):
            chosen = torch.randperm(self.n, generator=generator)[:count]
            return tuple(part[chosen.to(part.device)] for part in self.train)
        with generators_left_alone():
            if hasattr(self.train, "batches"):
                return next(iter(self.train.batches(count, generator)))  # type: ignore[no-any-return]
            torch.manual_seed(seed)
            found: list[Any] = []
            for batch in self.train:
                found.append(batch)
                if sum(len(one[0]) for one in found) >= count:
                    break
        return first([together(column) for column in zip(*found, strict=True)], count)

    @property
    def shift(self) -> bool:
        """Whether the data are images in memory of which a tenth is a pixel or more: smaller ones
        change too much with every shift."""
        shape = self.train.x.shape[1:] if isinstance(self.train, Examples) else ()
        return len(shape) == 3 and min(shape[1:]) >= 10

    @property
    def judged(self) -> Any:
        """What results are judged on: test data, or where there are none, training data."""
        return self.train if self.test is None else self.test

    @property
    def key(self) -> str | None:
        """What tells these data from others; None of loaders and ``Dataset``."""
        parts = [part for part in (self.train, self.validation) if part is not None]
        if not all(map(in_memory, parts)):
            return None
        return digest(tensor for part in parts for tensor in tensors(part))


def split(
    data: Any, validation: Any = None, test: Any = None, *, seed: int = 0, device: Any = None
) -> Split:
    """Data in three parts.

    data:       a ``DataSet``; ``Examples``; tensors or arrays (inputs, targets), one datum a row; a
                dict of them by the names of the network's arguments, with ``labels``; a torch
                ``Dataset``; or a loader of such batches.
    validation: likewise, or the share of the training data to hold out, at random by the seed.
    test:       likewise; a fifth by default. A loader holds out nothing.
    device:     where data in memory go; by default they stay.

    Raises TypeError on data of another kind, ValueError on shares outside [0, 1), if there is
    nothing to hold out from, and if columns differ in length or hold what is no number.

    >>> found = split((torch.zeros(10, 3), torch.arange(10) % 2), validation=0.25)
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
    train = part_of(data)
    if test is None and by_index(train):
        test = HELD_OUT
    train, test = _held_out(train, test, "test", seed)
    train, validation = _held_out(train, validation, "validation", seed)
    train, validation, test = (moved(part, device) for part in (train, validation, test))
    return Split(train, validation, test, count(train), name, classes, flip)


def _held_out(train: Any, part: Any, what: str, seed: int) -> tuple[Any, Any]:
    """What is left to train on, and the part; a share is taken at random by the seed."""
    if part is None:
        return train, None
    if not isinstance(part, float | int):
        return train, part_of(part)
    if not 0 <= part < 1:
        raise ValueError(f"{what} is data or a share of the data, in [0, 1); got {part}")
    if part == 0:
        return train, None
    if not by_index(train):
        raise ValueError(f"a loader cannot be divided: pass {what} data")
    n = count(train)
    some = max(1, round(part * n))
    if some >= n:
        raise ValueError(f"none of the {n} data would be left for training: pass {what} data")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return subset(train, order[some:].sort().values), subset(train, order[:some].sort().values)


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
