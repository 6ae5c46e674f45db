"""A process that trains by itself, and what ``fit`` asks of it as of one of several ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
Loss = Tensor | float


class RankError(RuntimeError):
    """The ranks of a process group differ in what must be the same, or one no longer answers."""


class Alone:
    """A process that trains by itself, as the only rank; ``fit`` asks it as it asks ``Ranks``."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and shows the progress."""
        return self.rank == 0

    def seed(self, seed: int) -> None:
        """Begin this rank's own noise; the generators that all share are left alone."""

    def parts(
        self, batches: Iterable[tuple[Any, ...]], local: bool
    ) -> Iterator[tuple[tuple[Any, ...], float]]:
        """This rank's rows of each batch, with their share b_r / B of the batch.

        local: the batches are this rank's already; otherwise all ranks have the same."""
        return ((batch, 1.0) for batch in batches)

    def exchange(
        self,
        backward: Callable[[], Loss],
        parameters: Mapping[str, Tensor],
        share: float,
        reads: bool,
    ) -> Loss:
        """Run the half of a step before the optimizer, which sets gradients and returns the loss of
        this rank's share of a batch; returns the loss of the whole batch, and leaves its gradients.

        reads: whether to wait for a device, to see if another rank has raised an exception."""
        return backward()

    @contextmanager
    def together(self) -> Iterator[None]:
        """An exception in the block on one rank is raised on all."""
        yield

    def by_first(self, work: Callable[[], T]) -> T:
        """Work of the first rank alone: all return what it returned, or raise what it raised."""
        return work()

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        return [value]

    def average(self, buffers: Mapping[str, Tensor]) -> None:
        """Set what the ranks have different to its mean, in place; whole numbers to the largest."""

    def check_alike(self, values: Mapping[str, Any], when: str, advice: str) -> None:
        """Raise RankError, on all ranks, that names what differs; tensors in every bit."""

    def noise(self) -> list[list[Tensor]]:
        """The states of the generators of each rank's own noise; nothing where there is one."""
        return []

    def restore_noise(self, states: list[list[Tensor]]) -> None:
        """Take back what ``noise`` returned."""
