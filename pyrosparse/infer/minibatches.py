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
    """Data in minibatches, in an order that only the seed and the epoch determine.

    data:       as ``prepared`` returns them.
    size:       data in a minibatch, if data are not already batches.
    first_step: the step of the whole training at which this run begins.
    ranks:      the number of processes that share each minibatch, or each bring a part of it.

    Raises ValueError if ``first_step`` is not before the last step, or the number of minibatches in
    an epoch is unknown, and if the data's sampler is for another number of ranks.

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
        ranks: int = 1,
    ) -> None:
        self.model = model
        self.guide = guide
        self.data = data
        self.size = size
        self.seed = seed
        self.first_step = first_step
        self.ranks = ranks
        self.sampler = distributed_sampler(data) if ranks > 1 else None
        if self.sampler is not None and self.sampler.num_replicas != ranks:
            raise ValueError(
                f"the sampler of the data is for {self.sampler.num_replicas} ranks, but there are "
                f"{ranks}: make the sampler after init_process_group, "
                "DistributedSampler(dataset)"
            )
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
        """The number of data if they are tensors, else 0."""
        if isinstance(self.data, tuple):
            return len(self.data[0])
        return len(self.data) if hasattr(self.data, "batches") else 0

    def an_epoch(self) -> int | None:
        """The number of minibatches in a whole epoch; None if unknown beforehand."""
        if self.n:
            return -(-self.n // self.size) - self._merges_last
        return len(self.data) if hasattr(self.data, "__len__") else None

    def skipped(self, epoch: int) -> int:
        """The number of minibatches of an epoch before the first step."""
        return max(0, self.first_step - epoch * (self.an_epoch() or 0)) if self.first_step else 0

    def of(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """The minibatches of an epoch, without those before the first step."""
        return islice(self._all_of(epoch), self.skipped(epoch), None)

    def _all_of(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        if self.sampler is not None and hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        # One generator for each epoch, from the seed alone: an epoch's order needs no history.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        if hasattr(self.data, "batches"):
            made = self.data.batches(self.size, generator)
            yield from _with_last_merged(made, self.size) if self._merges_last else made
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
        """Whether the last batch would give a rank a single datum, for which batch normalisation
        has no variance; it is then merged into the batch before."""
        least = 2 * self.ranks
        return self.n > self.size and 0 < self.n % self.size < least and self._normalises()

    def _normalises(self) -> bool:
        # Gates may also normalise, and then have such statistics.
        return any(
            isinstance(module, BatchNorm) or any("running_mean" in name for name in module._buffers)
            for root in modules(self.model, self.guide)
            for module in root.modules()
        )


def distributed_sampler(data: Any) -> Any:
    """The sampler of a loader that gives each rank data of its own, such as a
    ``DistributedSampler``; None if there is none.

    >>> distributed_sampler([]) is None
    True
    """
    batch_sampler = getattr(data, "batch_sampler", None)
    found = (getattr(data, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    return next((one for one in found if hasattr(one, "num_replicas")), None)


class OneShare:
    """Replaces the data of a run if each rank has only a share of them. Iteration is an error,
    because ranks would learn different things from different data."""

    def __iter__(self) -> Iterator[Any]:
        raise ValueError(
            "this needs all training data on every rank, but a loader with a DistributedSampler "
            "gives each rank only a share: give fit tensors or a Dataset, which it divides itself"
        )


def _with_last_merged(
    batches: Iterator[tuple[Tensor, ...]], size: int
) -> Iterator[tuple[Tensor, ...]]:
    """The batches; the last one is merged into the one before if it is smaller."""
    held = next(batches)
    for batch in batches:
        if len(batch[0]) < size:
            held = tuple(map(torch.cat, zip(held, batch, strict=True)))
        else:
            yield held
            held = batch
    yield held
