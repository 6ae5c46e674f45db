"""A captured step as a CUDA graph: all its kernels in one launch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from pyrosparse.captured.graph import Run, StepGraph

Recorder = Callable[[Run, list[Tensor]], tuple[list[Tensor | None], Callable[[], None]]]
"""Notes the kernels of a program; returns its results' memory and a function that fills it anew."""


class FixedInputs:
    """The inputs of a step for a CUDA graph: always at the same addresses.

    A kernel is replayed with the addresses and numbers with which it was recorded. Therefore
    tensors that differ in the next step, and numbers on the host, have memory of their own on the
    GPU, which is filled before each replay. Parameters, buffers and constants are read in place.

    inputs:    the inputs of the step's graph.
    arguments: the positions of the inputs that differ in the next step.
    device:    the GPU.

    Raises ValueError if the step computes on the host or writes to an input that is copied, and if
    an argument is expanded.
    """

    def __init__(
        self,
        step: StepGraph,
        inputs: list[Tensor],
        arguments: Collection[int],
        device: torch.device,
    ) -> None:
        numbers = {index for index, one in enumerate(inputs) if _is_number_on_host(one, device)}
        constants = range(len(inputs) - len(step.constants), len(inputs))
        copied = sorted({*numbers, *arguments})
        _refuse_work_elsewhere(step, inputs, copied, device)
        self.tensors = list(inputs)
        for index in copied:
            given = inputs[index]
            if 0 in given.stride():
                raise ValueError(f"an argument {tuple(given.shape)} is expanded: clone it")
            self.tensors[index] = torch.empty_strided(
                given.shape, given.stride(), dtype=given.dtype, device=device
            )
            if index in constants:
                self.tensors[index].copy_(given)
        self._numbers = sorted(numbers.difference(constants))
        self._copied = [index for index in copied if index not in numbers]
        self._in_place = [index for index in range(len(inputs)) if index not in copied]

    def fill(self, inputs: list[Tensor]) -> None:
        """Copy in the values that another step may have changed."""
        for index in self._numbers:
            # As an argument of a kernel; a copy from the host would wait for the GPU.
            self.tensors[index].fill_(inputs[index].item())
        for index in self._copied:
            self.tensors[index].copy_(inputs[index], non_blocking=True)

    def read_by(self, run: Run) -> Run:
        """A program that reads these tensors in place of a step's inputs."""

        def step(inputs: list[Tensor]) -> list[Tensor | None]:
            self.fill(inputs)
            return run(self.tensors)

        return step

    def addresses(self) -> list[int]:
        """The addresses of the inputs that are read in place."""
        return [self.tensors[index].data_ptr() for index in self._in_place]


def _is_number_on_host(tensor: Tensor, device: torch.device) -> bool:
    return tensor.dim() == 0 and tensor.device != device and tensor.device.type == "cpu"


def _refuse_work_elsewhere(
    step: StepGraph, inputs: list[Tensor], copied: Collection[int], device: torch.device
) -> None:
    for index, tensor in enumerate(inputs):
        if index not in copied and tensor.device != device:
            raise ValueError(f"the step reads a tensor {tuple(tensor.shape)} on {tensor.device}")
    if any(index in copied for index in step.written()):
        raise ValueError("the step writes to its arguments or to a number on the host")
    for node in step.graph.nodes:
        place = node.kwargs.get("device")
        if place is not None and torch.device(place).type != device.type:
            raise ValueError(f"the step works on {place} ({node.target})")


def replayed(run: Run, fixed: FixedInputs, record: Recorder) -> Run:
    """The program of a step as one launch.

    run:    the program; it ran before, on tensors of these kinds.
    fixed:  the memory that it reads.

    Raises RuntimeError if an operation cannot be recorded because it waits for the GPU.
    """
    addresses = fixed.addresses()
    results, replay = record(run, fixed.tensors)

    def step(inputs: list[Tensor]) -> list[Tensor | None]:
        nonlocal results, replay, addresses
        if (now := fixed.addresses()) != addresses:
            # The `data` of a parameter has been replaced by another tensor.
            addresses = now
            results, replay = record(run, fixed.tensors)
        fixed.fill(inputs)
        replay()
        # The next replay writes to the same memory. One kernel copies everything.
        own = iter(torch._foreach_mul([one for one in results if one is not None], 1.0))
        return [None if one is None else next(own) for one in results]

    return step


class CudaRecorder:
    """Records programs as CUDA graphs on one GPU.

    The graphs share a pool of memory: no two run at the same time, and the results, which are in
    the pool between two replays, are copied out before the next.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None

    def __call__(
        self, run: Run, inputs: list[Tensor]
    ) -> tuple[list[Tensor | None], Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        with (
            torch.no_grad(),
            torch.cuda.device(self.device),
            # Threads that load data may use the GPU at the same time.
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            results = run(inputs)
        self._pool = graph.pool()
        return results, graph.replay
