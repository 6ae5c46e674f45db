"""Processes that train one posterior together: shared and separate state, and exchange."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrosparse.infer.alone import Alone, Loss, RankError, T
from pyrosparse.infer.flat_gradients import FlatGradients
from pyrosparse.util.arrays import raw_bytes

_SCALAR = (bool, int, float, complex, str, type(None))


class Ranks(Alone):
    r"""The processes of torch's default group, which train together like a single process.

    From a batch of B data rank r gets b_r, and the gradient of the negative ELBO is

    .. math:: g = \sum_r \frac{b_r}{B} g_r

    which is also exact if the b_r differ, as the plate of the data scales each rank's likelihood by
    N / b_r. Each rank draws its own latent variables in a step, so that g has less noise than in
    one process; all other random numbers are the same on all ranks.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._noise: list[Tensor] = []
        self._gradients = FlatGradients()

    def seed(self, seed: int) -> None:
        shared = _generators()
        entropy = np.random.SeedSequence([seed % 2**64, self.rank])
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
        self._noise = _generators()
        _set_generators(shared)

    def parts(
        self, batches: Iterable[tuple[Any, ...]], local: bool
    ) -> Iterator[tuple[tuple[Any, ...], float]]:
        if not local:
            for index, batch in enumerate(batches):
                if not index:
                    self._check_same_data(batch)
                yield self._part(batch)
            return
        own = iter(batches)
        while True:
            batch = next(own, ())
            count = torch.tensor(_rows(batch) if batch else 0, device=self._device())
            rows = int(count)
            with _answering():
                dist.all_reduce(count)
            if not count:
                return
            yield batch, rows / int(count)

    def exchange(
        self,
        backward: Callable[[], Loss],
        parameters: Mapping[str, Tensor],
        share: float,
        reads: bool,
    ) -> Loss:
        loss: Loss = 0.0
        failure: Exception | None = None
        shared = _generators()
        _set_generators(self._noise)
        try:
            if share:
                loss = backward()
        except Exception as error:
            failure = error
        finally:
            self._noise = _generators()
            _set_generators(shared)
        self._gradients.follow(list(parameters.values()))
        reads |= self._gradients.flat.is_cpu
        if failure is not None and not reads:
            raise failure
        flat = self._gradients.pack(loss, share, failed=failure is not None)
        with _answering():
            dist.all_reduce(flat)
        total, failed = self._gradients.unpack()
        if reads and failed:
            self._raise_first(failure)
        return total

    @contextmanager
    def together(self) -> Iterator[None]:
        failure: Exception | None = None
        try:
            yield
        except RankError:
            raise  # all ranks raise it, or it says that they do not answer
        except Exception as error:
            failure = error
        self._raise_first(failure)

    def by_first(self, work: Callable[[], T]) -> T:
        found: list[Any] = [None, None]
        if self.first:
            try:
                found[0] = work()
            except Exception as error:
                found[1] = _portable(error, 0)
        with _answering():
            dist.broadcast_object_list(found, src=0)
        if found[1] is not None:
            raise found[1]
        return found[0]  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.size
        with _answering():
            dist.all_gather_object(found, value)
        return found

    def average(self, buffers: Mapping[str, Tensor]) -> None:
        for name in self._different({name: _mark(one) for name, one in buffers.items()}):
            tensor = buffers[name]
            value = tensor.detach().clone()
            whole = not tensor.is_floating_point()
            with _answering():
                dist.all_reduce(value, dist.ReduceOp.MAX if whole else dist.ReduceOp.SUM)
            tensor.detach().copy_(value if whole else value / self.size)

    def check_alike(self, values: Mapping[str, Any], when: str, advice: str) -> None:
        differ = self._different({name: _mark(value) for name, value in values.items()})
        if differ:
            names = [f"{name} (rank {rank})" for name, rank in differ.items()]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise RankError(
                f"{when}, the ranks differ from rank 0 in {', '.join(names[:5])}{more}: {advice}"
            )

    def noise(self) -> list[list[Tensor]]:
        return self.gather(self._noise)

    def restore_noise(self, states: list[list[Tensor]]) -> None:
        self._noise = states[self.rank]

    def _different(self, values: dict[str, Any]) -> dict[str, int]:
        """The names of values that differ between ranks, each with a rank whose value differs."""
        everyone = self.gather(values)
        return {
            name: rank
            for rank, other in reversed(list(enumerate(everyone)))
            for name in {**everyone[0], **other}
            if name not in everyone[0] or name not in other or everyone[0][name] != other[name]
        }

    def _raise_first(self, failure: Exception | None) -> None:
        """Raise on all ranks the exception of the first rank that has one."""
        mine = None if failure is None else _portable(failure, self.rank)
        try:
            found = self.gather(mine)
        except RankError:
            if failure is not None:
                raise failure from None
            raise
        for rank, error in enumerate(found):
            if error is not None:
                raise failure if failure is not None and rank == self.rank else error

    def _part(self, batch: tuple[Any, ...]) -> tuple[tuple[Any, ...], float]:
        rows = _rows(batch)
        start, stop = rows * self.rank // self.size, rows * (self.rank + 1) // self.size

        def mine(tensor: Tensor) -> Tensor:
            return tensor[start:stop] if tensor.dim() else tensor

        return pytree.tree_map_only(Tensor, mine, batch), (stop - start) / rows

    def _check_same_data(self, batch: tuple[Any, ...]) -> None:
        tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]
        self.check_alike(
            {f"tensor {place} of the batch": one for place, one in enumerate(tensors)},
            "at the first batch of an epoch",
            "give every rank the same data in the same order, of which each takes its rows, or a "
            "DataLoader with a DistributedSampler",
        )

    def _device(self) -> str:
        return "cuda" if dist.get_backend() == "nccl" else "cpu"


def process_group() -> Alone:
    """The ranks of ``torch.distributed``'s default process group; ``Alone`` without a group.

    >>> process_group().size
    1
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Ranks()
    return Alone()


def _rows(batch: tuple[Any, ...]) -> int:
    """The number of data in a batch; raises ValueError if it is unknown."""
    leaves = pytree.tree_leaves(batch)
    lengths = {len(one) for one in leaves if isinstance(one, Tensor) and one.dim()}
    others = [one for one in leaves if not isinstance(one, (Tensor, *_SCALAR))]
    if len(lengths) != 1 or others:
        found = f"{type(others[0]).__name__} in it" if others else f"lengths {sorted(lengths)}"
        raise ValueError(
            f"a rank cannot take its rows of a batch with {found}: give tensors with one datum a "
            "row, alone or in tuples, lists and dicts"
        )
    return lengths.pop()


def _mark(value: Any) -> Any:
    """A stand-in for a value, which ranks compare."""
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype), zlib.crc32(raw_bytes(value))
    return value


def _generators() -> list[Tensor]:
    """The states of torch's generators: the CPU's, and the one of the rank's GPU."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else states


def _set_generators(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


def _portable(error: Exception, rank: int) -> Exception:
    """An exception in a form that can be sent to other ranks."""
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            copy.add_note(f"raised on rank {rank}")
            return copy  # type: ignore[no-any-return]
    except Exception:
        pass
    return RankError(f"rank {rank} stopped: {type(error).__name__}: {error}")


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"another rank no longer answers ({error}): it has ended, or runs different code. "
            "Written checkpoints are complete: start all ranks again to continue from the last "
            "one"
        ) from error
