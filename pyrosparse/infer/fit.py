"""The training loop: stochastic variational inference as a script would write it."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.optim import Optimizer

from pyrosparse.evidence import evaluate
from pyrosparse.evidence.log_posterior import evaluation_mode, modules
from pyrosparse.files import write_atomically
from pyrosparse.infer import checkpoint as checkpoints
from pyrosparse.infer.callback import Callback
from pyrosparse.infer.denormals import flush_denormals
from pyrosparse.infer.kl_scale import kl_scale as scale_kl
from pyrosparse.infer.non_finite import NonFiniteLossError, explain
from pyrosparse.infer.parameter_groups import Rates, fused_adam, parameter_groups
from pyrosparse.infer.progress import progress_bar
from pyrosparse.infer.schedules import Schedule, constant
from pyrosparse.lift import Lifted


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    epochs: int,
    batch_size: int = 64,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
    learning_rate: Rates = 1e-3,
    schedule: Schedule = constant,
    elbo: Any = None,
    kl_scale: float = 1.0,
    kl_warmup: int = 0,
    clip_norm: float | None = None,
    callbacks: Sequence[Callback] = (),
    validation: Any = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    metrics: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Fit:
    r"""Train a Pyro model and its guide by stochastic variational inference.

    .. math:: \max_q \; E_q[\log p(D \mid w)] - \beta \, \mathrm{KL}(q(w) \Vert p(w))

    What it does is what ``SVI(model, guide, optim, elbo).step(*batch)`` does in a loop; any Pyro
    model and guide will do.

    data:          ``Examples``, a tuple of tensors with one datum a row (both shuffled anew in
                   each epoch), or a re-iterable of batches (a DataLoader); each batch goes in as
                   ``model(*batch)``.
    optimizer:     takes parameter groups and returns a torch optimizer; by default fused Adam.
    learning_rate: one rate, or rates by glob on parameter names (``{"guide.*": 1e-2, "*": 1e-3}``;
                   the first that matches counts). Names are those of ``Fit.parameters``.
    schedule:      a factor on the rates as a function of progress in [0, 1], set at every step.
    elbo:          any Pyro ELBO; by default ``TraceMeanField_ELBO()``.
    kl_scale:      beta, the weight of the KL divergence; reached linearly over the first
                   ``kl_warmup`` epochs.
    clip_norm:     the largest norm of the gradient over all parameters.
    callbacks:     called at the end of every epoch, in order; see ``Callback``.
    validation:    data whose likelihood and accuracy at the guide's mean are recorded.
    patience:      stop after so many epochs without a new best ``validation_nll``.
    checkpoint:    a file written after every epoch. If it is there at the start, the run goes on
                   from it and ends as an uninterrupted one would, bit for bit (data that shuffle
                   themselves, such as a DataLoader, must do so by torch's global generator).
    metrics:       a file of one JSON line an epoch.
    seed:          of everything random; the caller's torch generator is left alone.
    progress:      show a progress bar; by default on a terminal only.

    Raises NonFiniteLossError with step, site and layer when the loss is NaN or infinite (the
    last checkpoint stays), ValueError on bad arguments, and CheckpointError when the
    checkpoint is damaged or of another run.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    >>> run = fit(ps.classifier(bnn, 20), bnn.guide, data, epochs=2, progress=False)
    >>> [entry["epoch"] for entry in run.history]
    [1, 2]
    """
    _check(epochs, batch_size, kl_scale, kl_warmup, clip_norm, patience, validation)
    run = Fit(model, guide, data, epochs, batch_size, seed)
    elbo = TraceMeanField_ELBO() if elbo is None else elbo
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices), flush_denormals(), warnings.catch_warnings():
        # NonFiniteLossError says it, and says where.
        warnings.filterwarnings("ignore", message="Encountered NaN")
        torch.manual_seed(seed)
        run._collect_parameters()
        run.optimizer = (optimizer or fused_adam)(parameter_groups(run.parameters, learning_rate))
        base_rates = [group["lr"] for group in run.optimizer.param_groups]
        settings = {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": base_rates,
            "kl_scale": kl_scale,
            "kl_warmup": kl_warmup,
            "clip_norm": clip_norm,
            "patience": patience,
            "seed": seed,
            "n": run.n,
            "optimizer": type(run.optimizer).__name__,
            "elbo": type(elbo).__name__,
            "stateful callbacks": [type(callback).__name__ for callback in _stateful(callbacks)],
        }
        if checkpoint is not None and Path(checkpoint).exists():
            run._restore(checkpoints.load(checkpoint), settings, callbacks, checkpoint)
        if metrics is not None:
            run._write_metrics(metrics)
        if run.finished:
            return run
        for module in modules(model, guide):
            module.train()
        for callback in callbacks:
            callback.on_start(run)
        scaled = scale_kl(kl_scale)
        n_batches = run._batches_an_epoch()
        with progress_bar(epochs, run.epoch, progress) as advance, scaled:
            while not run.finished:
                started = time.perf_counter()
                total = count = 0.0
                for index, batch in enumerate(run._epoch_batches()):
                    fraction = index / n_batches if n_batches else 0.0
                    position = run.epoch + fraction
                    scaled.scale = (
                        kl_scale * min(1.0, position / kl_warmup) if kl_warmup else kl_scale
                    )
                    for group, rate in zip(run.optimizer.param_groups, base_rates, strict=True):
                        group["lr"] = rate * schedule(min(position / epochs, 1.0))
                    loss = run._step(elbo, batch, clip_norm, checkpoint)
                    total, count = total + loss, count + 1
                if not count:
                    raise ValueError(
                        "the data gave no batch; a generator can be run through once only"
                    )
                run.epoch += 1
                entry: dict[str, Any] = {
                    "epoch": run.epoch,
                    "step": run.step,
                    "loss": total / count,
                    "kl_scale": float(scaled.scale),
                    "learning_rate": run.optimizer.param_groups[0]["lr"],
                }
                run.history.append(entry)
                with _unscaled(scaled):
                    for callback in callbacks:
                        entry.update(callback.on_epoch_end(run) or {})
                    entry.update(_scores(model, guide, validation))
                    run.finished = run.epoch == epochs or _exhausted(run.history, patience)
                    if run.finished and callbacks:
                        for callback in callbacks:
                            entry.update(callback.on_end(run) or {})
                        # Again, as callbacks may have changed the network that is handed over.
                        entry.update(_scores(model, guide, validation))
                entry["seconds"] = round(time.perf_counter() - started, 3)
                run._refuse_broken_parameters(checkpoint)
                if checkpoint is not None:
                    checkpoints.save(checkpoint, run._state(settings, callbacks))
                if metrics is not None:
                    run._write_metrics(metrics)
                advance(entry)
    return run


class Fit:
    """A run of ``fit``: what callbacks see while it goes on, and what it returns.

    parameters: the trained tensors by name, unconstrained, in the order of their first use.
    optimizer:  the torch optimizer over them.
    epoch, step: how many are done.
    history:    one dict of metrics an epoch; ``loss`` is the mean negative ELBO in nats.
    finished:   whether all epochs are done or patience ran out.
    """

    optimizer: Optimizer

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
        for module in modules(self.guide, self.model):
            for part in module.modules():
                if isinstance(part, Lifted):
                    return part
        raise TypeError("this needs a lifted network: pass fit a guide that pyrosparse.lift made")

    @property
    def n(self) -> int:
        """The number of data where they are tensors, else 0."""
        if isinstance(self.data, tuple):
            return len(self.data[0])
        return len(self.data) if hasattr(self.data, "batches") else 0

    def _epoch_batches(self) -> Iterator[tuple[Tensor, ...]]:
        # One generator an epoch, from the seed alone: an epoch's order needs no history.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if hasattr(self.data, "batches"):
            yield from self.data.batches(self.batch_size, generator)
        elif isinstance(self.data, tuple):
            order = torch.randperm(len(self.data[0]), generator=generator)
            for index in order.split(self.batch_size):
                yield tuple(tensor[index.to(tensor.device)] for tensor in self.data)
        else:
            yield from self.data

    def _batches_an_epoch(self) -> int | None:
        if self.n:
            return -(-self.n // self.batch_size)
        return len(self.data) if hasattr(self.data, "__len__") else None

    def _collect_parameters(self) -> None:
        """Run model and guide once, as SVI does, to learn which parameters there are."""
        batch = next(iter(self._epoch_batches()), None)
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
            poutine.replay(self.model, trace=trace)(*batch)
        torch.set_rng_state(state)
        for name, site in capture.trace.nodes.items():
            if site["type"] == "param":
                value: Any = site["value"]
                tensor = value.unconstrained() if hasattr(value, "unconstrained") else value
                if not any(tensor is other for other in self.parameters.values()):
                    self.parameters[name] = tensor
        if not self.parameters:
            raise ValueError("neither model nor guide has a parameter to train")

    def _step(
        self,
        elbo: Any,
        batch: tuple[Tensor, ...],
        clip_norm: float | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> float:
        # Pyro's argument checks cost a third of a small step: once is enough.
        with pyro.validation_enabled(pyro.settings.get("validate_infer") and self.step == 0):
            loss = float(elbo.loss_and_grads(self.model, self.guide, *batch))
        if not math.isfinite(loss):
            kept = f"; the last checkpoint, {checkpoint}, is kept" if checkpoint else ""
            reason = explain(self.model, self.guide, batch, self.parameters)
            raise NonFiniteLossError(
                f"the loss is {loss} at step {self.step + 1} (epoch {self.epoch + 1}): {reason}"
                f"{kept}. A lower learning rate or clip_norm may help"
            )
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss

    def _refuse_broken_parameters(self, checkpoint: str | os.PathLike[str] | None) -> None:
        broken = [name for name, tensor in self.parameters.items() if not tensor.isfinite().all()]
        if broken:
            kept = f"; the last checkpoint, {checkpoint}, is kept" if checkpoint else ""
            raise NonFiniteLossError(
                f"parameters are not finite after step {self.step} (epoch {self.epoch}), though "
                f"the loss is: {', '.join(broken)}{kept}. A gradient overflowed; a lower learning "
                "rate or clip_norm may help"
            )

    def _state(self, settings: dict[str, Any], callbacks: Sequence[Callback]) -> dict[str, Any]:
        owned = {id(p) for module in modules(self.model, self.guide) for p in module.parameters()}
        return {
            "settings": settings,
            "modules": [dict(m.state_dict()) for m in modules(self.model, self.guide)],
            "parameters": {
                name: tensor for name, tensor in self.parameters.items() if id(tensor) not in owned
            },
            "names": list(self.parameters),
            "optimizer": self.optimizer.state_dict(),
            "callbacks": [callback.state_dict() for callback in _stateful(callbacks)],
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "finished": self.finished,
        }

    def _restore(
        self,
        state: dict[str, Any],
        settings: dict[str, Any],
        callbacks: Sequence[Callback],
        path: str | os.PathLike[str],
    ) -> None:
        other = [key for key, value in settings.items() if state["settings"].get(key) != value]
        if other:
            differences = ", ".join(
                f"{key} was {state['settings'].get(key)!r}, is {settings[key]!r}" for key in other
            )
            raise checkpoints.CheckpointError(
                f"{path} is the checkpoint of a run with other settings ({differences}): go on "
                "with those, or delete it"
            )
        shapes = [
            [list(t.shape) for t in m.state_dict().values()]
            for m in modules(self.model, self.guide)
        ]
        saved = [[list(t.shape) for t in m.values()] for m in state["modules"]]
        if state["names"] != list(self.parameters) or shapes != saved:
            raise checkpoints.CheckpointError(
                f"{path} is the checkpoint of another network or method: its parameters are "
                f"{', '.join(state['names'])}; this run's are {', '.join(self.parameters)}, or "
                "their shapes differ. Choose another file, or delete it"
            )
        for module, saved_state in zip(
            modules(self.model, self.guide), state["modules"], strict=True
        ):
            module.load_state_dict(saved_state)
        with torch.no_grad():
            for name, tensor in state["parameters"].items():
                self.parameters[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        for callback, saved_state in zip(_stateful(callbacks), state["callbacks"], strict=True):
            callback.load_state_dict(saved_state)
        torch.set_rng_state(state["generators"][0])
        if len(state["generators"]) == 1 + torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["generators"][1:])
        self.epoch, self.step = state["epoch"], state["step"]
        self.history, self.finished = state["history"], state["finished"]

    def _write_metrics(self, path: str | os.PathLike[str]) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
        write_atomically(path, lines)


class _unscaled:
    """Suspend a weight on the KL divergence while something is evaluated."""

    def __init__(self, scaled: scale_kl) -> None:
        self.scaled = scaled

    def __enter__(self) -> None:
        self.scale, self.scaled.scale = self.scaled.scale, 1.0

    def __exit__(self, *exception: object) -> None:
        self.scaled.scale = self.scale


def _stateful(callbacks: Sequence[Callback]) -> list[Callback]:
    return [callback for callback in callbacks if callback.state_dict()]


def _scores(model: Any, guide: Any, validation: Any) -> dict[str, float]:
    if validation is None:
        return {}
    scores = evaluate(model, guide, validation)
    return {f"validation_{key}": value for key, value in scores.items()}


def _exhausted(history: list[dict[str, Any]], patience: int | None) -> bool:
    if patience is None:
        return False
    losses = [entry["validation_nll"] for entry in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _check(
    epochs: int,
    batch_size: int,
    kl_scale: float,
    kl_warmup: int,
    clip_norm: float | None,
    patience: int | None,
    validation: Any,
) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if int(value) != value or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value}")
    if not kl_scale >= 0 or kl_warmup < 0:
        raise ValueError(
            f"kl_scale and kl_warmup must not be negative, got {kl_scale} and {kl_warmup}"
        )
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be positive, got {clip_norm}")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be a positive number of epochs, got {patience}")
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data to watch")
