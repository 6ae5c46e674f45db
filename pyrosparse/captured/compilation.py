"""Faster programs for captured steps, each used only if it computes the same."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from pyrosparse.captured.capture import Captured
from pyrosparse.captured.cuda_graph import CudaRecorder, FixedInputs, Recorder, replayed
from pyrosparse.captured.difference import difference
from pyrosparse.captured.graph import Run
from pyrosparse.captured.inductor import compiled
from pyrosparse.captured.state import State

INDUCTOR = "compiled by inductor"
CUDA_GRAPH = "replayed as a CUDA graph"


class Compilation:
    """Compiles the programs of captured steps with inductor; on a GPU, records them as CUDA graphs.

    A program that cannot be made, or differs from the one of the graph, is not used: one warning
    says why, and the next capture makes no other attempt.
    """

    def __init__(self) -> None:
        self._given_up: set[str] = set()
        self._recorders: dict[torch.device, Recorder] = {}

    def compile(self, captured: Captured, arguments: list[Tensor]) -> None:
        """Replace a capture's own program by faster ones."""
        inputs = captured.inputs(arguments)
        device = next(iter(captured.parameters.values())).device
        program, fixed = captured.program, None
        if _has_graphs(device) and CUDA_GRAPH not in self._given_up:
            with self._attempt(CUDA_GRAPH):
                fixed = FixedInputs(captured.graph, inputs, captured.moving(arguments), device)
        if INDUCTOR not in self._given_up:
            with self._attempt(INDUCTOR):
                read = inputs if fixed is None else fixed.tensors
                fast = compiled(captured.graph.copied_graph(), read)
                self._use(captured, arguments, fast if fixed is None else fixed.read_by(fast))
                captured.ways.append(INDUCTOR)
                program = fast
        if fixed is not None:
            with self._attempt(CUDA_GRAPH):
                recorder = self._recorders.setdefault(device, CudaRecorder(device))
                self._use(captured, arguments, replayed(program, fixed, recorder))
                captured.ways.append(CUDA_GRAPH)

    def check(self, captured: Captured, arguments: list[Tensor]) -> None:
        """Compare a faster program with the graph's own once more, and drop it if it differs."""
        ways = " and ".join(captured.ways)
        if ways and (wrong := _disagreement(captured, captured.run, arguments)):
            self._given_up.update(captured.ways)
            captured.run, captured.ways = captured.program, []
            warnings.warn(
                f"CapturedSVI runs without being {ways}: it differs in {wrong}", stacklevel=5
            )

    def _use(self, captured: Captured, arguments: list[Tensor], run: Run) -> None:
        wrong = _disagreement(captured, run, arguments)
        if wrong is not None:
            raise ValueError(f"it differs in {wrong}")
        captured.run = run

    @contextlib.contextmanager
    def _attempt(self, way: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._given_up.add(way)
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            reason = f"{kind}{str(error).strip()[:300]}"
            warnings.warn(f"CapturedSVI runs without being {way}: {reason}", stacklevel=8)


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def _disagreement(captured: Captured, run: Run, arguments: list[Tensor]) -> str | None:
    """How a program differs from the graph's own; the state is restored."""
    before = State(captured.written(arguments))
    found = []
    try:
        for program in (captured.program, run):
            with torch.no_grad():
                found.append(program(captured.inputs(arguments)))
            before.restore()
    finally:
        before.restore()
    return difference(["loss", *captured.parameters], *found)
