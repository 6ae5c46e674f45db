"""A training run: its state, one step of it, and how it is saved and resumed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.optim import Optimizer

from pyrosparse.captured import CapturedSVI
from pyrosparse.evidence.batches import as_batch
from pyrosparse.evidence.traces import evaluation_mode, modules, used_modules
from pyrosparse.infer import checkpoint as checkpoints
from pyrosparse.infer.callback import Callback
from pyrosparse.infer.non_finite import NonFiniteLossError, explain
from pyrosparse.infer.shrink import Shrink
from pyrosparse.lifting.lift import Lifted
from pyrosparse.util.files import write_atomically

READ_EVERY = 50
"""Steps between two looks at the loss on a device that the host need not wait for."""


class Fit:
    """A run of ``fit``: what callbacks see while it goes on, and what it returns.

    parameters: the trained tensors by name, unconstrained, in the order of their first use.
    optimizer:  the torch optimizer over them.
    shrink:     what cuts dead features out; None where nothing does.
    svi:         the captured step, whose ``explain()`` says what was captured; None where steps are
                 taken eagerly.
    epoch, step: how many are done.
    history:    one dict of metrics an epoch; ``loss`` is the mean negative ELBO in nats.
    stage:      what the caller calls this training, ``pretraining``; "" for nothing.
    finished:   whether all epochs are done or patience ran out.
    """

    optimizer: Optimizer
    elbo: Any
    svi: CapturedSVI | None = None
    shrink: Shrink | None = None
    stage: str = ""

    def __init__(
        self, model: Any, guide: Any, data: Any, epochs: int, batch_size: int, seed: int
    ) -> None:
        self.model = model
        self.guide = guide
        self.data = data
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.parameters: dict[str, Tensor] = {}
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.finished = False

    @property
    def lifted(self) -> Lifted:
        """The lifted network under training.

        Raises TypeError when there is none."""
        for part in _lifted_in(modules(self.guide, self.model)):
            return part
        raise TypeError("this needs a lifted network: pass fit a guide that pyrosparse.lift made")

    def projected(self) -> list[Lifted]:
        """The lifted networks, each once, that must be projected after a step."""
        found = _lifted_in(used_modules(self.guide, self.model))
        return [part for part in dict.fromkeys(found) if part.projects]

    @property
    def n(self) -> int:
        """The number of data where they are tensors, else 0."""
        if isinstance(self.data, tuple):
            return len(self.data[0])
        return len(self.data) if hasattr(self.data, "batches") else 0

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """This epoch's minibatches, in an order that the seed and the epoch alone determine."""
        # One generator an epoch, from the seed alone: an epoch's order needs no history.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if hasattr(self.data, "batches"):
            made = self.data.batches(self.batch_size, generator)
            yield from _with_last_merged(made) if self._merges_last else made
        elif isinstance(self.data, tuple):
            order = torch.randperm(len(self.data[0]), generator=generator)
            parts = order.split(self.batch_size)
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
        return self.n > self.batch_size and self.n % self.batch_size == 1 and self._normalises()

    def _normalises(self) -> bool:
        roots = modules(self.model, self.guide)
        return any(isinstance(module, BatchNorm) for root in roots for module in root.modules())

    def batches_an_epoch(self) -> int | None:
        """How many minibatches an epoch has, where that is known beforehand."""
        if self.n:
            return -(-self.n // self.batch_size) - self._merges_last
        return len(self.data) if hasattr(self.data, "__len__") else None

    def collect_parameters(self) -> tuple[poutine.Trace, tuple[Any, ...]]:
        """Learn which parameters there are; returns the trace of the model on a batch, and it."""
        parameters, trace, batch = self.try_once()
        for name, site in parameters.nodes.items():
            if site["type"] == "param":
                value: Any = site["value"]
                tensor = value.unconstrained() if hasattr(value, "unconstrained") else value
                if not any(tensor is other for other in self.parameters.values()):
                    self.parameters[name] = tensor
        if not self.parameters:
            raise ValueError("neither model nor guide has a parameter to train")
        return trace, batch

    def try_once(self) -> tuple[poutine.Trace, poutine.Trace, tuple[Tensor, ...]]:
        """Run guide and model once, as SVI does, leaving no trace behind; returns the parameter
        sites, the model's trace and its batch."""
        batch = next(iter(self.batches()), None)
        if batch is None:
            raise ValueError("there are no data to train on")
        state = torch.get_rng_state()
        with (
            torch.no_grad(),
            evaluation_mode(self.model, self.guide),
            poutine.block(),
            poutine.trace(param_only=True) as capture,
        ):
            trace = poutine.trace(self.guide).get_trace(*batch)
            replayed = poutine.trace(poutine.replay(self.model, trace=trace)).get_trace(*batch)
        torch.set_rng_state(state)
        return capture.trace, replayed, batch

    @contextmanager
    def whole_at_the_end(self) -> Iterator[None]:
        """Put back what was cut out of the network, also where training is interrupted."""
        try:
            yield
        finally:
            if self.shrink is not None:
                self.shrink.restore()

    def take_step(
        self,
        batch: tuple[Tensor, ...],
        clip_norm: float | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> Tensor | float:
        """One step on a minibatch; returns the negative ELBO in nats."""
        # Pyro's argument checks cost a third of a small step: once is enough.
        with pyro.validation_enabled(pyro.settings.get("validate_infer") and self.step == 0):
            try:
                loss = self._backward(batch)
            except ValueError as error:
                if "more than 1 value per channel" in str(error):
                    raise _single_datum(batch) from error
                raise
        # Reading the loss makes the host wait for a device: there, only now and then.
        if not isinstance(loss, Tensor) or loss.is_cpu or self.step % READ_EVERY == 0:
            self._refuse_non_finite(float(loss), batch, checkpoint)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss

    def _backward(self, batch: tuple[Tensor, ...]) -> Tensor | float:
        if self.svi is None:
            return float(self.elbo.loss_and_grads(self.model, self.guide, *batch))
        if not self.svi.parameters:
            # From the very first step, so that a resumed run takes the same steps as a whole one.
            self.svi.capture(*batch)
        return self.svi.backward(*batch)

    def _refuse_non_finite(
        self,
        loss: float,
        batch: tuple[Tensor, ...],
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        if math.isfinite(loss):
            return
        kept = f"; the last checkpoint, {checkpoint}, is kept" if checkpoint else ""
        reason = explain(self.model, self.guide, batch, self.parameters)
        raise NonFiniteLossError(
            f"the loss is {loss} at step {self.step + 1} (epoch {self.epoch + 1}): {reason}"
            f"{kept}. A lower learning rate or clip_norm may help"
        )

    def refuse_broken_parameters(self, checkpoint: str | os.PathLike[str] | None) -> None:
        """Raise NonFiniteLossError where a parameter has become NaN or infinite."""
        broken = [name for name, tensor in self.parameters.items() if not tensor.isfinite().all()]
        if broken:
            kept = f"; the last checkpoint, {checkpoint}, is kept" if checkpoint else ""
            raise NonFiniteLossError(
                f"parameters are not finite after step {self.step} (epoch {self.epoch}), though "
                f"the loss is: {', '.join(broken)}{kept}. A gradient overflowed; a lower learning "
                "rate or clip_norm may help"
            )

    def state(self, settings: dict[str, Any], callbacks: Sequence[Callback]) -> dict[str, Any]:
        """All that a checkpoint must hold."""
        owned = {id(p) for module in modules(self.model, self.guide) for p in module.parameters()}
        return {
            "settings": settings,
            "modules": [dict(module.state_dict()) for module in self._stateful_modules()],
            "parameters": {
                name: tensor for name, tensor in self.parameters.items() if id(tensor) not in owned
            },
            "names": list(self.parameters),
            "optimizer": self.optimizer.state_dict(),
            "callbacks": [callback.state_dict() for callback in stateful(callbacks)],
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "finished": self.finished,
            "alive": self.shrink.alive if self.shrink is not None and not self.finished else None,
        }

    def restore(
        self,
        state: dict[str, Any],
        settings: dict[str, Any],
        callbacks: Sequence[Callback],
        path: str | os.PathLike[str],
    ) -> None:
        """Take over what ``state`` returned; raises CheckpointError where it is of another run."""
        other = [key for key, value in settings.items() if state["settings"].get(key) != value]
        if other:
            differences = ", ".join(
                f"{key} was {state['settings'].get(key)!r}, is {settings[key]!r}" for key in other
            )
            raise checkpoints.CheckpointError(
                f"{path} is the checkpoint of a run with other settings ({differences}): go on "
                "with those, or delete it"
            )
        if self.shrink is not None and state["alive"] is not None:
            self.shrink.to(state["alive"])
        shapes = [_shapes(module.state_dict()) for module in self._stateful_modules()]
        states = [one for one in state["modules"] if one]
        saved = [_shapes(one) for one in states]
        if state["names"] != list(self.parameters) or shapes != saved:
            raise checkpoints.CheckpointError(
                f"{path} is the checkpoint of another network or method: its parameters are "
                f"{', '.join(state['names'])}; this run's are {', '.join(self.parameters)}, or "
                "their shapes differ. Choose another file, or delete it"
            )
        for module, saved_state in zip(self._stateful_modules(), states, strict=True):
            module.load_state_dict(saved_state)
        with torch.no_grad():
            for name, tensor in state["parameters"].items():
                self.parameters[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        _match_strides(self.optimizer)
        for callback, saved_state in zip(stateful(callbacks), state["callbacks"], strict=True):
            callback.load_state_dict(saved_state)
        torch.set_rng_state(state["generators"][0])
        if len(state["generators"]) == 1 + torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["generators"][1:])
        self.epoch, self.step = state["epoch"], state["step"]
        self.history, self.finished = state["history"], state["finished"]

    def _stateful_modules(self) -> list[torch.nn.Module]:
        return [module for module in modules(self.model, self.guide) if module.state_dict()]

    def write_metrics(self, path: str | os.PathLike[str]) -> None:
        """Write the history, a JSON line an epoch."""
        lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
        # A folder that was removed is not made again: it would have nothing else of the run.
        write_atomically(path, lines, parents=False)


def _lifted_in(modules: Iterable[torch.nn.Module]) -> Iterator[Lifted]:
    return (part for one in modules for part in one.modules() if isinstance(part, Lifted))


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


def _single_datum(batch: tuple[Any, ...]) -> ValueError:
    return ValueError(
        f"batch normalisation cannot be trained on a batch of {len(batch[0])} datum, which has no "
        "variance: give a batch_size of 2 or more, or DataLoader(..., drop_last=True). A last "
        "batch that fit makes itself goes into the one before"
    )


def _shapes(tensors: Mapping[str, Tensor]) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors.values()]


def _match_strides(optimizer: Optimizer) -> None:
    # Files hold tensors in row-major order; a fused kernel walks a parameter and its moments
    # side by side, so that those of a channels-last weight must be channels-last again.
    for parameter, memory in optimizer.state.items():
        for key, value in memory.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                memory[key] = torch.empty_like(parameter).copy_(value)


def stateful(callbacks: Sequence[Callback]) -> list[Callback]:
    return [callback for callback in callbacks if callback.state_dict()]
