"""A training run: its state, and one step."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrosparse.captured import CapturedSVI
from pyrosparse.evidence.traces import calls_of, evaluation_mode, modules, used_modules
from pyrosparse.infer.agreement import check_agreement
from pyrosparse.infer.callback import Callback
from pyrosparse.infer.checks import check_guide
from pyrosparse.infer.minibatches import Minibatches, OneShare
from pyrosparse.infer.modes import frozen_layers, warn_where_trained
from pyrosparse.infer.non_finite import NonFiniteLossError, explain
from pyrosparse.infer.ranks import process_group
from pyrosparse.infer.shrink import Shrink
from pyrosparse.lifting.lift import Lifted
from pyrosparse.util.sharding import refuse_sharded

READ_EVERY = 50
"""Steps between two looks at the loss on a device that the host need not wait for."""


class Fit:
    """A run of ``fit``: callbacks see it during training, and ``fit`` returns it.

    parameters: the trained tensors by name, unconstrained, in the order of their first use.
    optimizer:  the torch optimizer of these parameters.
    shrink:     cuts dead features out; None without ``compact_every``.
    svi:         the captured step, whose ``explain()`` says what was captured; None if steps are
                 taken eagerly.
    epoch, step: the number of epochs and steps done, including those before ``first_step``.
    history:    one dict of metrics for each epoch; ``loss`` is the mean negative ELBO in nats.
    stage:      the caller's name for this training, such as ``pretraining``; "" for none.
    capture, compile, clip_norm, checkpoint: as passed to ``fit``.
    finished:   whether all epochs are done or patience ran out.
    ranks:      the processes that train together.
    drawn:      the lifted networks whose own guides the guide calls.
    """

    optimizer: Optimizer
    elbo: Any
    svi: CapturedSVI | None = None
    shrink: Shrink | None = None
    stage: str = ""
    capture = compile = False
    clip_norm: float | None = None
    checkpoint: str | os.PathLike[str] | None = None

    def __init__(
        self,
        model: Any,
        guide: Any,
        data: Any,
        epochs: int,
        batch_size: int,
        seed: int,
        first_step: int = 0,
    ) -> None:
        self.model = model
        self.guide = guide
        self.data = data
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step
        self.ranks = process_group()
        self.minibatches = Minibatches(
            model, guide, data, epochs, batch_size, seed, first_step, self.ranks.size
        )
        if self.minibatches.sampler is not None:
            self.data = OneShare()
        self.parameters: dict[str, Tensor] = {}
        self.drawn: list[Lifted] = []
        self.epoch = self.minibatches.first_epoch
        self.step = first_step
        self.history: list[dict[str, Any]] = []
        self.finished = False

    def __repr__(self) -> str:
        state = "finished" if self.finished else "not finished"
        loss = f", loss {self.history[-1]['loss']:,.1f} nats" if self.history else ""
        return f"Fit, {state}: epoch {self.epoch} of {self.epochs}, step {self.step:,}{loss}"

    @cached_property
    def lifted(self) -> Lifted:
        """The lifted network under training: the one that the guide uses, or else the model.

        Raises TypeError if there is none, or several."""
        for roots in ((self.guide,), (self.guide, self.model)):
            found = list(dict.fromkeys(_lifted_in(used_modules(*roots))))
            if len(found) > 1:
                raise TypeError(
                    f"this works on one lifted network, but guide and model use {len(found)}: "
                    "train with a guide that uses one of them, or prune each between two "
                    "trainings, as by bnn.freeze(prune.keep_largest(prune.magnitude(bnn), 0.5))"
                )
            if found:
                return found[0]
        raise TypeError("this needs a lifted network: pass fit a guide that pyrosparse.lift made")

    def projected(self) -> list[Lifted]:
        """The lifted networks, each once, that must be projected after a step."""
        found = _lifted_in(used_modules(self.guide, self.model))
        return [part for part in dict.fromkeys(found) if part.projects]

    @property
    def n(self) -> int:
        """The number of data if they are tensors, else 0."""
        return self.minibatches.n

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """This epoch's minibatches, in an order that only the seed and the epoch determine. They
        are whole, also if several ranks train (with a DistributedSampler, this rank's)."""
        return self.minibatches.of(self.epoch)

    def parts(self) -> Iterator[tuple[tuple[Tensor, ...], float]]:
        """This rank's part of each minibatch, and its share of the minibatch."""
        return self.ranks.parts(self.batches(), local=self.minibatches.sampler is not None)

    def batches_an_epoch(self) -> int | None:
        """The number of minibatches in an epoch; None if unknown beforehand."""
        return self.minibatches.an_epoch()

    def collect_parameters(self) -> tuple[poutine.Trace, tuple[Any, ...]]:
        """Find the parameters; returns the trace of the model on a batch, and that batch.

        Raises ValueError if there are none."""
        roots = modules(self.model, self.guide)
        refuse_sharded(
            (pair for root in roots for pair in root.named_parameters()),
            "fit trains networks that every rank has whole",
            "Leave fully_shard out, or take steps by hand, see Sharded networks in docs/scale.md",
        )
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
        """Run guide and model once, as SVI does, without side effects; returns the parameter sites,
        the model's trace and its batch.

        Raises ValueError if there are no data, or the guide lacks a latent variable."""
        batch = next(iter(self.batches()), None)
        if batch is None:
            raise ValueError("there are no data to train on")
        state = torch.get_rng_state()
        with (
            self._noted_guides(),
            torch.no_grad(),
            evaluation_mode(self.model, self.guide),
            poutine.block(),
            poutine.trace(param_only=True) as capture,
        ):
            trace = poutine.trace(self.guide).get_trace(*batch)
            replayed = poutine.trace(poutine.replay(self.model, trace=trace)).get_trace(*batch)
        torch.set_rng_state(state)
        check_guide(replayed, trace, self.elbo)
        return capture.trace, replayed, batch

    @contextmanager
    def _noted_guides(self) -> Iterator[None]:
        """For a block, note which lifted networks have their own guides called."""
        found = dict.fromkeys(_lifted_in(used_modules(self.guide, self.model)))
        with ExitStack() as stack:
            calls = {one: stack.enter_context(calls_of(one.guide)) for one in found}
            yield
        self.drawn = [one for one, called in calls.items() if called]

    def start(self, callbacks: Sequence[Callback], resumed: bool) -> None:
        """Prepare for the next step, be it the first or the first one after resuming."""
        # A function has the networks that it uses in modes of their own, such as a teacher's; but
        # those that the guide draws are trained.
        trained = dict.fromkeys(_lifted_in(used_modules(self.guide)))
        parts = (self.model, self.guide, *modules(self.model, self.guide), *trained)
        whole = [part for part in parts if isinstance(part, torch.nn.Module)]
        frozen = frozen_layers(part.net for part in dict.fromkeys(_lifted_in(whole)))
        for module in whole:
            module.train()
        with self.ranks.together():
            for callback in callbacks:
                callback.on_start(self)
            warn_where_trained(frozen)
            if not resumed:
                for lifted in self.projected():
                    lifted.project()
                if self.shrink is not None:
                    self.shrink.shrink()
            self.make_steps()
        check_agreement(self)

    @contextmanager
    def whole_at_the_end(self) -> Iterator[None]:
        """Restore the original size of the network at the end, also if training is interrupted."""
        try:
            yield
        finally:
            if self.shrink is not None:
                self.shrink.restore()

    def make_steps(self) -> None:
        """From now on take captured steps, if requested; after a cut, capture them anew."""
        if self.capture:
            self.svi = CapturedSVI(
                self.model,
                self.guide,
                self.optimizer,
                self.elbo,
                compile=self.compile,
                same_random_stream=False,
            )

    def take_step(self, batch: tuple[Tensor, ...], share: float = 1.0) -> Tensor | float:
        """One step on a minibatch; returns the negative ELBO in nats.

        share: the share of the minibatch in this batch; other ranks have the rest."""
        loss = self.ranks.exchange(
            lambda: self._backward(batch), self.parameters, share, self.step % READ_EVERY == 0
        )
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss

    def _backward(self, batch: tuple[Tensor, ...]) -> Tensor | float:
        # Pyro's argument checks take a third of a small step: once is enough.
        first = self.step == self.first_step
        with pyro.validation_enabled(pyro.settings.get("validate_infer") and first):
            try:
                loss = self._gradients(batch)
            except ValueError as error:
                if "more than 1 value per channel" in str(error) and len(batch[0]) == 1:
                    raise _single_datum() from error
                raise
        # Reading the loss makes the host wait for a device: there it happens only now and then.
        if not isinstance(loss, Tensor) or loss.is_cpu or self.step % READ_EVERY == 0:
            self._refuse_non_finite(float(loss), batch)
        return loss

    def _gradients(self, batch: tuple[Tensor, ...]) -> Tensor | float:
        if self.svi is None:
            return float(self.elbo.loss_and_grads(self.model, self.guide, *batch))
        if not self.svi.parameters:
            # From the very first step, so that a resumed run takes the same steps.
            self.svi.capture(*batch)
        return self.svi.backward(*batch)

    def _refuse_non_finite(self, loss: float, batch: tuple[Tensor, ...]) -> None:
        if math.isfinite(loss):
            return
        reason = explain(self.model, self.guide, batch, self.parameters)
        raise NonFiniteLossError(
            f"the loss is {loss} at step {self.step + 1} (epoch {self.epoch + 1}): {reason}"
            f"{self._kept()}. A lower learning rate or clip_norm may help"
        )

    def refuse_broken_parameters(self) -> None:
        """Raise NonFiniteLossError if a parameter has become NaN or infinite."""
        broken = [name for name, tensor in self.parameters.items() if not tensor.isfinite().all()]
        if broken:
            raise NonFiniteLossError(
                f"parameters are not finite after step {self.step} (epoch {self.epoch}), though "
                f"the loss is: {', '.join(broken)}{self._kept()}. A gradient overflowed; a lower "
                "learning rate or clip_norm may help"
            )

    def _kept(self) -> str:
        return f"; the last checkpoint, {self.checkpoint}, is kept" if self.checkpoint else ""


def _lifted_in(modules: Iterable[torch.nn.Module]) -> Iterator[Lifted]:
    return (part for one in modules for part in one.modules() if isinstance(part, Lifted))


def _single_datum() -> ValueError:
    return ValueError(
        "batch normalisation cannot be trained on a batch of one datum, which has no "
        "variance: give a batch_size of 2 or more for each rank, or DataLoader(..., "
        "drop_last=True). A last batch that fit makes itself goes into the one before"
    )
