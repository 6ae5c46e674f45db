"""Data that are read several times, and must be the same each time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyrosparse.evidence.batches import as_batch, batches, is_map_style
from pyrosparse.util.arrays import is_array, raw_bytes

MEMORY = 2**30
"""Bytes of a loader's batches that are kept in memory, so that it is gone through once."""


class Repeated:
    """Batches that are the same, in the same order, each time they are read.

    Tensors do not change. The batches of a loader are kept in memory, up to ``memory`` bytes. A
    larger loader, and a ``Dataset``, is read again with the same random numbers, and compared with
    the first time by a checksum. The caller's random state does not change.

    >>> shuffled = torch.utils.data.DataLoader(torch.arange(100), batch_size=10, shuffle=True)
    >>> data = Repeated([batch] for batch in shuffled)
    >>> first, second = ([batch[0] for batch in data.minibatches(10)] for _ in range(2))
    >>> all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    True
    """

    def __init__(self, data: Any, memory: int = MEMORY) -> None:
        self.data = data
        self.memory = memory
        self._start = torch.get_rng_state()
        self._kept: list[Any] = []
        self._whole = False
        self._marks: list[int] | None = None

    @classmethod
    def of(cls, data: Any) -> Repeated:
        """The data as ``Repeated``; unchanged if they already are."""
        return data if isinstance(data, Repeated) else cls(data)

    def minibatches(
        self, size: int, model: Callable[..., Any] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """The batches.

        size:  the batch size, if the data are not already batches.
        model: the model whose argument names are the keys of a dict; needed only for dicts.

        Raises ValueError if the batches differ from those of the first time.
        """
        if _is_fixed(self.data):
            yield from batches(self.data, size, model)
        elif self._whole:
            yield from batches(self._kept, size, model)
        else:
            yield from self._compared(size, model)

    def _compared(self, size: int, model: Callable[..., Any] | None) -> Iterator[tuple[Any, ...]]:
        marks = []
        source = self.data if _has_rows(self.data) else self._raw()
        for batch in self._from_the_start(source, size, model):
            marks.append(_mark(batch))
            if self._marks is not None and marks != self._marks[: len(marks)]:
                raise ValueError(_CHANGED)
            yield batch
        if self._marks is not None and len(marks) != len(self._marks):
            raise ValueError(_CHANGED)
        self._marks = marks

    def _from_the_start(
        self, source: Any, size: int, model: Callable[..., Any] | None
    ) -> Iterator[tuple[Any, ...]]:
        """The batches, made with separate random numbers that are the same each time."""
        state, iterator = self._start, None
        while True:
            outside = torch.get_rng_state()
            torch.set_rng_state(state)
            try:
                iterator = iter(batches(source, size, model)) if iterator is None else iterator
                batch = next(iterator, None)
            finally:
                state = torch.get_rng_state()
                torch.set_rng_state(outside)
            if batch is None:
                return
            yield batch

    def _raw(self) -> Iterator[Any]:
        """The batches as the data return them, kept until the memory limit is reached."""
        kept: list[Any] | None = []
        room = self.memory
        for given in self.data:
            batch = _converted(given)
            if kept is not None:
                room -= _bytes(batch)
                if room < 0:
                    kept = None
                else:
                    # A copy, as a generator may write every batch into the same tensor.
                    kept.append(_copy(batch))
            yield batch
        if kept is not None:
            self._kept, self._whole = kept, True


def minibatches(
    data: Any, size: int, model: Callable[..., Any] | None = None
) -> Iterator[tuple[Any, ...]]:
    """The batches of data that are read once, or are ``Repeated``."""
    if isinstance(data, Repeated):
        return data.minibatches(size, model)
    return iter(batches(data, size, model))


_CHANGED = (
    "the data changed, or came in another order, when they were read again, and draws on different "
    "data cannot be compared. Turn off shuffling and random augmentation (shuffle=False), or give "
    f"tensors, or a loader of at most {MEMORY / 2**30:g} GiB, which is kept in memory"
)


def _is_fixed(data: Any) -> bool:
    """Whether data are tensors, or a list of batches, which do not change."""
    return isinstance(data, (tuple, list, Mapping)) or is_array(data) or hasattr(data, "subset")


def _has_rows(data: Any) -> bool:
    """Whether ``batches`` makes the batches of the data."""
    return hasattr(data, "batches") or is_map_style(data)


def _converted(batch: Any) -> Any:
    """A batch with its arrays as tensors; a batch by name keeps its names."""
    if isinstance(batch, Mapping):
        return {name: as_batch((part,))[0] for name, part in batch.items()}
    return as_batch(batch)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (tuple, list, Mapping)):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(part)


def _mark(batch: Any) -> int:
    """A checksum of the values in a batch, whatever the order of its tensors."""
    return sum(zlib.crc32(raw_bytes(one)) for one in _tensors(batch))


def _bytes(batch: Any) -> int:
    return int(sum(tensor.nbytes for tensor in _tensors(batch)))


def _copy(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.detach().clone()
    if isinstance(batch, Mapping):
        return {name: _copy(part) for name, part in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(_copy(part) for part in batch)
    return batch
