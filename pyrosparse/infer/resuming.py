"""The files of a run: the checkpoint, from which it continues, and the metrics."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrosparse.evidence.traces import modules
from pyrosparse.infer import checkpoint as checkpoints
from pyrosparse.infer.callback import Callback
from pyrosparse.util.files import write_atomically

if TYPE_CHECKING:
    from pyrosparse.infer.run import Fit


TIMES_AS_LONG = 20
"""Files are written again when training took so many times as long as writing them did."""


class Files:
    """Writes a run's checkpoint and metrics at ends of epochs, and resumes the run from them.

    They are written after the first and the last epoch, and in between whenever training since the
    last time took 20 times as long as writing did: short epochs would else spend most of their
    time here.

    settings:            settings that must be equal in the run and in the one that it continues.
    callbacks:           those with a state in the checkpoint are part of the settings.
    checkpoint, metrics: paths; None to write no such file.
    """

    def __init__(
        self,
        run: Fit,
        settings: Mapping[str, Any],
        callbacks: Sequence[Callback],
        checkpoint: str | os.PathLike[str] | None,
        metrics: str | os.PathLike[str] | None,
    ) -> None:
        self.run = run
        self.callbacks = callbacks
        self.settings = {
            **settings,
            "n": run.n,
            "optimizer": type(run.optimizer).__name__,
            "elbo": type(run.elbo).__name__,
            "stateful callbacks": [type(callback).__name__ for callback in self._stateful()],
        }
        self.checkpoint = checkpoint
        self.metrics = metrics
        self._lines: list[str] = []
        self._due = -math.inf  # by time.perf_counter

    def resume(self) -> bool:
        """Continue from the checkpoint if it exists; returns whether it does."""
        found = self.run.ranks.by_first(self._load)
        if self.checkpoint is not None and found is not None:
            with checkpoints.reading(self.checkpoint):
                self._restore(found, self.checkpoint)
        self.run.ranks.by_first(self._write_metrics)
        return found is not None

    def write(self) -> None:
        """Write both files, if it is time."""
        if self.checkpoint is None and self.metrics is None:
            return
        if not self.run.finished and not self.run.ranks.by_first(self._is_due):
            return
        noise = self.run.ranks.noise() if self.checkpoint is not None else []
        self.run.ranks.by_first(partial(self._write, noise))

    def _load(self) -> dict[str, Any] | None:
        """The contents of the checkpoint; None if there is none."""
        if self.checkpoint is None or not Path(self.checkpoint).exists():
            return None
        with checkpoints.reading(self.checkpoint):
            return checkpoints.load(self.checkpoint)

    def _is_due(self) -> bool:
        return time.perf_counter() >= self._due

    def _write(self, noise: list[list[Tensor]]) -> None:
        started = time.perf_counter()
        if self.checkpoint is not None:
            checkpoints.save(self.checkpoint, self._state() | {"noise": noise})
        self._write_metrics()
        ended = time.perf_counter()
        self._due = ended + TIMES_AS_LONG * (ended - started)

    def _write_metrics(self) -> None:
        """Write the history, one line of JSON for each epoch."""
        if self.metrics is not None:
            # Entries never change once they are written.
            kept = self._lines[: len(self.run.history)]
            kept += [json.dumps(entry) + "\n" for entry in self.run.history[len(kept) :]]
            self._lines = kept
            lines = "".join(kept)
            # A removed folder is not created again: it would lack the other files of the run.
            write_atomically(self.metrics, lines, parents=False)

    def _state(self) -> dict[str, Any]:
        """The contents of a checkpoint, except the noise of ranks."""
        run = self.run
        owned = {id(p) for module in modules(run.model, run.guide) for p in module.parameters()}
        return {
            "settings": self.settings,
            "modules": [dict(module.state_dict()) for module in self._stateful_modules()],
            "parameters": {
                name: tensor for name, tensor in run.parameters.items() if id(tensor) not in owned
            },
            "names": list(run.parameters),
            "optimizer": run.optimizer.state_dict(),
            "callbacks": [callback.state_dict() for callback in self._stateful()],
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
            "epoch": run.epoch,
            "step": run.step,
            "history": run.history,
            "finished": run.finished,
            "alive": run.shrink.alive if run.shrink is not None and not run.finished else None,
        }

    def _restore(self, state: dict[str, Any], path: str | os.PathLike[str]) -> None:
        """Restore what ``_state`` returned; raises CheckpointError if it belongs to another run."""
        run, settings = self.run, self.settings
        # Checkpoints of earlier versions have no first step and no ranks: they come from one
        # process that began at the first step.
        saved = {"first_step": 0, "ranks": 1} | state["settings"]
        other = [key for key, value in settings.items() if saved.get(key) != value]
        if other:
            differences = ", ".join(
                f"{key} was {saved.get(key)!r}, is {settings[key]!r}" for key in other
            )
            raise checkpoints.CheckpointError(
                f"{path} is the checkpoint of a run with other settings ({differences}): use the "
                "same settings, or delete the file"
            )
        if run.shrink is not None and state["alive"] is not None:
            run.shrink.to(state["alive"])
        shapes = [_shapes(module.state_dict()) for module in self._stateful_modules()]
        states = [one for one in state["modules"] if one]
        if state["names"] != list(run.parameters) or shapes != [_shapes(one) for one in states]:
            raise checkpoints.CheckpointError(
                f"{path} is the checkpoint of another network or method: its parameters are "
                f"{', '.join(state['names'])}; this run's are {', '.join(run.parameters)}, or "
                "their shapes differ. Choose another file, or delete it"
            )
        for module, saved_state in zip(self._stateful_modules(), states, strict=True):
            module.load_state_dict(saved_state)
        with torch.no_grad():
            for name, tensor in state["parameters"].items():
                run.parameters[name].copy_(tensor)
        run.optimizer.load_state_dict(state["optimizer"])
        _match_strides(run.optimizer)
        for callback, saved_state in zip(self._stateful(), state["callbacks"], strict=True):
            callback.load_state_dict(saved_state)
        torch.set_rng_state(state["generators"][0])
        if len(state["generators"]) == 1 + torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["generators"][1:])
        run.ranks.restore_noise(state.get("noise", []))
        run.epoch, run.step = state["epoch"], state["step"]
        run.history, run.finished = state["history"], state["finished"]

    def _stateful(self) -> list[Callback]:
        return [callback for callback in self.callbacks if callback.state_dict()]

    def _stateful_modules(self) -> list[torch.nn.Module]:
        roots = modules(self.run.model, self.run.guide)
        return [module for module in roots if module.state_dict()]


def _shapes(tensors: Mapping[str, Tensor]) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors.values()]


def _match_strides(optimizer: Optimizer) -> None:
    # Files hold tensors in row-major order, but a fused kernel reads a parameter and its moments
    # side by side: the moments of a channels-last weight must be channels-last again.
    for parameter, memory in optimizer.state.items():
        for key, value in memory.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                memory[key] = torch.empty_like(parameter).copy_(value)
