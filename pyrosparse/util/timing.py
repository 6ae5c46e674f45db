"""How long networks take, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.util.modes import evaluating


def batch_of(inputs: Sequence[Any], size: int) -> list[Any]:
    """A network's arguments at another batch size: the first datum again and again.

    inputs: tensors (N, ..), and arguments that are not one row a datum, which stay.

    >>> [x.shape for x in batch_of([torch.ones(3, 4), torch.ones(7)], 2)]
    [torch.Size([2, 4]), torch.Size([7])]
    """
    return [
        x[:1].expand(size, *x.shape[1:]).contiguous()
        if isinstance(x, Tensor) and x.dim() and len(x) == len(inputs[0])
        else x
        for x in inputs
    ]


def latency(
    nets: Sequence[nn.Module], *inputs: Any, repeats: int = 30, warm_up: int = 5
) -> list[float]:
    """The median time of a forward pass of each network, in seconds.

    The networks take turns, so that what else the machine does meets all of them alike. Threads
    are as torch has them.

    Raises ValueError if repeats is not positive.

    >>> 0 < latency([nn.Linear(2, 2)], torch.ones(1, 2), repeats=3)[0] < 1
    True
    """
    if repeats < 1:
        raise ValueError(f"repeats must be 1 or more, got {repeats}")
    cuda = any(isinstance(x, Tensor) and x.is_cuda for x in inputs)
    times: list[list[float]] = [[] for _ in nets]
    with torch.inference_mode(), evaluating(*nets):
        for turn in range(warm_up + repeats):
            # Each begins a turn in its turn: a rhythm of the machine's meets none of them always.
            for place in range(len(nets)):
                index = (turn + place) % len(nets)
                if cuda:
                    torch.cuda.synchronize()
                start = time.perf_counter()
                nets[index](*inputs)
                if cuda:
                    torch.cuda.synchronize()
                if turn >= warm_up:
                    times[index].append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def best_latency(
    nets: Sequence[nn.Module], *inputs: Any, repeats: int = 30, rounds: int = 3
) -> list[float]:
    """The smallest of several medians of ``latency``, of each network, in seconds.

    What else the machine does only adds time, and it may fill a whole round.

    Raises ValueError if repeats is not positive.

    >>> 0 < best_latency([nn.Linear(2, 2)], torch.ones(1, 2), repeats=3)[0] < 1
    True
    """
    medians = [latency(nets, *inputs, repeats=repeats) for _ in range(rounds)]
    return [min(of_net) for of_net in zip(*medians, strict=True)]
