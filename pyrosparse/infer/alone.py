"""A process that trains by itself, with the interface of several ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
Loss = Tensor | float


class RankError(RuntimeError):
    """Ranks of a process group differ in what must be equal, or a rank no longer answers."""


class Alone:
    """A process that trains by itself, as the only rank; it has the same methods as ``Ranks``."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and shows the progress."""
        return self.rank == 0

    def seed(self, seed: int) -> None:
        """Seed this rank's own noise; the generators that all ranks share do not change."""

    def parts(
        self, batches: Iterable[tuple[Any, ...]], local: bool
    ) -> Iterator[tuple[tuple[Any, ...], float]]:
        """This rank's rows of each batch, with their share b_r / B of the batch.

        local: whether the batches already are this rank's; otherwise all ranks have the same."""
        return ((batch, 1.0) for batch in batches)

    def exchange(
        self,
        backward: Callable[[], Loss],
        parameters: Mapping[str, Tensor],
        share: float,
        reads: bool,
    ) -> Loss:
        """Run ``backward``, the half of a step before the optimizer, which sets gradients and
        returns the loss of this rank's share of a batch. Returns the loss of the whole batch, and
        leaves its gradients in the parameters.

        reads: whether to wait for a device, to see if another rank has raised an exception."""
        return backward()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise an exception in the block on one rank on all ranks."""
        yield

    def by_first(self, work: Callable[[], T]) -> T:
        """Do work on the first rank only: all ranks return its result, or raise its exception."""
        return work()

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        return [value]

    def average(self, buffers: Mapping[str, Tensor]) -> None:
        """Set buffers that differ by rank to their mean, in place, integers to the largest."""

    def check_alike(self, values: Mapping[str, Any], when: str, advice: str) -> None:
        """Raise RankError on all ranks, naming the values that are not bitwise equal."""

    def noise(self) -> list[list[Tensor]]:
        """The states of the generators of each rank's own noise; empty for a single rank."""
        return []

    def restore_noise(self, states: list[list[Tensor]]) -> None:
        """Restore the states that ``noise`` returned."""
