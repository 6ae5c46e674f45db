"""The minibatches of every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from pyrosparse.evidence.batches import as_batch
from pyrosparse.evidence.traces import modules


class Minibatches:
    """Data in minibatches, in an order that the seed and the epoch alone determine.

    data:       as ``prepared`` gives them.
    size:       data in a minibatch, where it is we who make them.
    first_step: the step of the whole training at which the first epoch to be run begins.

    Raises ValueError where first_step is not before the last step, or cannot be counted to.

    >>> data = (torch.arange(10),)
    >>> whole = Minibatches(None, None, data, epochs=2, size=3, seed=0)
    >>> rest = Minibatches(None, None, data, epochs=2, size=3, seed=0, first_step=5)
    >>> rest.first_epoch, rest.skipped(1), len(list(rest.of(1)))
    (1, 1, 3)
    >>> torch.equal(next(rest.of(1))[0], list(whole.of(1))[1][0])
    True
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        data: Any,
        epochs: int,
        size: int,
        seed: int,
        first_step: int = 0,
    ) -> None:
        self.model = model
        self.guide = guide
        self.data = data
        self.size = size
        self.seed = seed
        self.first_step = first_step
        self.first_epoch = 0
        if first_step:
            an_epoch = self.an_epoch()
            if not an_epoch:
                raise ValueError(
                    "first_step needs to know how many batches an epoch has: give tensors, or "
                    "batches that have a length, such as a list or a DataLoader"
                )
            if first_step >= epochs * an_epoch:
                raise ValueError(
                    f"first_step must be before the last of {epochs} epochs of {an_epoch} steps, "
                    f"below {epochs * an_epoch}; got {first_step}"
                )
            self.first_epoch = first_step // an_epoch

    @property
    def n(self) -> int:
        """The number of data where they are tensors, else 0."""
        if isinstance(self.data, tuple):
            return len(self.data[0])
        return len(self.data) if hasattr(self.data, "batches") else 0

    def an_epoch(self) -> int | None:
        """How many minibatches a whole epoch has, where that is known beforehand."""
        if self.n:
            return -(-self.n // self.size) - self._merges_last
        return len(self.data) if hasattr(self.data, "__len__") else None

    def skipped(self, epoch: int) -> int:
        """How many minibatches of an epoch lie before the first step."""
        return max(0, self.first_step - epoch * (self.an_epoch() or 0)) if self.first_step else 0

    def of(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """The minibatches of an epoch, without those before the first step."""
        return islice(self._all_of(epoch), self.skipped(epoch), None)

    def _all_of(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        # One generator an epoch, from the seed alone: an epoch's order needs no history.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        if hasattr(self.data, "batches"):
            made = self.data.batches(self.size, generator)
            yield from _with_last_merged(made) if self._merges_last else made
        elif isinstance(self.data, tuple):
            order = torch.randperm(len(self.data[0]), generator=generator)
            parts = order.split(self.size)
            if self._merges_last:
                parts = (*parts[:-2], torch.cat(parts[-2:]))
            for index in parts:
                yield tuple(tensor[index.to(tensor.device)] for tensor in self.data)
        else:
            for batch in self.data:
                yield as_batch(batch, self.model)

    @property
    def _merges_last(self) -> bool:
        """Whether the last batch would be one datum, which batch normalisation has no variance of,
        and so goes into the batch before."""
        return self.n > self.size and self.n % self.size == 1 and self._normalises()

    def _normalises(self) -> bool:
        roots = modules(self.model, self.guide)
        return any(isinstance(module, BatchNorm) for root in roots for module in root.modules())


def _with_last_merged(batches: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The batches with the last one, of one datum, in the one before."""
    held = next(batches)
    for batch in batches:
        if len(batch[0]) == 1:
            held = tuple(map(torch.cat, zip(held, batch, strict=True)))
        else:
            yield held
            held = batch
    yield held
