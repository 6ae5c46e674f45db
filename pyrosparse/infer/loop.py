"""The training loop: stochastic variational inference as a script would write it."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pyro.infer import (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    TraceMeanField_ELBO,
)
from torch.optim import Optimizer

from pyrosparse.captured import CapturedSVI
from pyrosparse.evidence import evaluate
from pyrosparse.evidence.batches import prepared
from pyrosparse.evidence.traces import modules
from pyrosparse.infer import checkpoint as checkpoints
from pyrosparse.infer.callback import Callback, after_steps
from pyrosparse.infer.denormals import flush_denormals
from pyrosparse.infer.observed import check_observed
from pyrosparse.infer.parameter_groups import Rates, made, parameter_groups
from pyrosparse.infer.progress import progress_bar
from pyrosparse.infer.run import Fit, stateful
from pyrosparse.infer.scaling import kl_scale as scale_kl
from pyrosparse.infer.schedules import Schedule, constant
from pyrosparse.infer.shrink import Shrink
from pyrosparse.util.files import check_writable

_JIT = (JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO)


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
    compact_every: int | None = None,
    capture: bool = True,
    compile: bool = False,
    progress: bool | None = None,
    stage: str = "",
) -> Fit:
    r"""Train a Pyro model and its guide by stochastic variational inference.

    .. math:: \max_q \; E_q[\log p(D \mid w)] - \beta \, \mathrm{KL}(q(w) \Vert p(w))

    What it does is what ``SVI(model, guide, optim, elbo).step(*batch)`` does in a loop; any Pyro
    model and guide will do.

    data:          ``Examples``, a tuple of tensors or arrays with one datum a row, a dict of them
                   by the names of the model's arguments, or a torch Dataset (all shuffled anew in
                   each epoch); or a re-iterable of batches (a DataLoader). Each batch goes in as
                   ``model(*batch)``.
    batch_size:    data a step, where it is we who make the batches.
    optimizer:     takes parameter groups and returns a torch optimizer, such as
                   ``torch.optim.SGD``; by default fused Adam.
    learning_rate: one rate, or rates by glob on parameter names (``{"guide.*": 1e-2, "*": 1e-3}``;
                   the first that matches counts). Names are those of ``Fit.parameters``.
    schedule:      a factor on the rates as a function of progress in [0, 1], set at every step.
    elbo:          any Pyro ELBO; by default ``TraceMeanField_ELBO()``.
    kl_scale:      beta, the weight of the KL divergence; reached linearly over the first
                   ``kl_warmup`` epochs.
    clip_norm:     the largest norm of the gradient over all parameters.
    callbacks:     called before and after every step and at the end of every epoch, in order; see
                   ``Callback``.
    validation:    data whose likelihood and accuracy at the guide's mean are recorded.
    patience:      stop after so many epochs without a new best ``validation_nll``.
    checkpoint:    a file written after every epoch. If it is there at the start, the run goes on
                   from it and ends as an uninterrupted one would, bit for bit (data that shuffle
                   themselves, such as a DataLoader, must do so by torch's global generator).
    metrics:       a file of one JSON line an epoch.
    seed:          of everything random; the caller's torch generator is left alone.
    compact_every: after every so many epochs, cut what is dead (gates below their method's
                   threshold, and what is frozen at zero) out of network, guide and optimizer, so
                   that the next epochs cost less. It is exact: what is cut is frozen. When training
                   ends all is put back, and masks refer to the original network.
    capture:       take the Python out of the steps where possible; see ``CapturedSVI``.
    compile:       compile the captured steps too.
    progress:      show a progress bar; by default on a terminal only. Without a terminal, the log
                   ``pyrosparse`` has a line at the start and at most one a minute.
    stage:         what the bar and the log call this training; ``Fit.stage``.

    Raises NonFiniteLossError with step, site and layer when the loss is NaN or infinite (the
    last checkpoint stays), ValueError on bad arguments and data, TypeError on data, optimizers
    and ELBOs of another kind, CheckpointError when the checkpoint is damaged or of another run, and
    OSError when checkpoint or metrics cannot be written (found out before the first step) or their
    folder is removed. Warns where the model's plate says another number of data than there are.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    >>> run = fit(ps.classifier(bnn, 20), bnn.guide, data, epochs=2, progress=False)
    >>> [entry["epoch"] for entry in run.history]
    [1, 2]
    """
    _check(epochs, batch_size, kl_scale, kl_warmup, clip_norm, patience, validation, compact_every)
    _check_elbo(elbo)
    data = prepared(data, model)
    validation = None if validation is None else prepared(validation, model)
    _check_finite(data)
    for file in (checkpoint, metrics):
        if file is not None:
            check_writable(file)  # now, and not after an epoch
    run = Fit(model, guide, data, epochs, batch_size, seed)
    run.stage = stage
    run.elbo = elbo = TraceMeanField_ELBO() if elbo is None else elbo
    devices = list(range(torch.cuda.device_count()))
    with (
        torch.random.fork_rng(devices=devices),
        flush_denormals(),
        warnings.catch_warnings(),
        run.whole_at_the_end(),
    ):
        # NonFiniteLossError says it, and says where.
        warnings.filterwarnings("ignore", message="Encountered NaN")
        torch.manual_seed(seed)
        seen = run.collect_parameters()
        run.optimizer = made(optimizer, parameter_groups(run.parameters, learning_rate))
        if compact_every is not None:
            run.shrink = Shrink(run)
        check_observed(*seen, data)
        del seen  # the memory of a batch's trace

        def captured() -> CapturedSVI | None:
            if not capture:
                return None
            return CapturedSVI(
                model, guide, run.optimizer, elbo, compile=compile, same_random_stream=False
            )

        base_rates = [group["lr"] for group in run.optimizer.param_groups]
        settings = {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": base_rates,
            "kl_scale": kl_scale,
            "kl_warmup": kl_warmup,
            "clip_norm": clip_norm,
            "patience": patience,
            "compact_every": compact_every,
            "seed": seed,
            "n": run.n,
            "optimizer": type(run.optimizer).__name__,
            "elbo": type(elbo).__name__,
            "stateful callbacks": [type(callback).__name__ for callback in stateful(callbacks)],
        }
        if checkpoint is not None and Path(checkpoint).exists():
            with checkpoints.reading(checkpoint):
                run.restore(checkpoints.load(checkpoint), settings, callbacks, checkpoint)
        if metrics is not None:
            run.write_metrics(metrics)
        if run.finished:
            return run
        for module in modules(model, guide):
            module.train()
        for callback in callbacks:
            callback.on_start(run)
        projected, after = run.projected(), after_steps(callbacks)
        if not run.epoch:
            for lifted in projected:
                lifted.project()
        if run.shrink is not None and not run.epoch:
            run.shrink.shrink()
        run.svi = captured()
        # A captured step reads a weight that changes from a tensor.
        weight = torch.tensor(kl_scale, dtype=torch.float64)
        scaled = scale_kl(weight if kl_warmup else kl_scale)
        n_batches = run.batches_an_epoch()
        with progress_bar(epochs, run.epoch, progress, stage) as advance, scaled:
            while not run.finished:
                started = time.perf_counter()
                total: Any = 0.0
                count = 0
                for index, batch in enumerate(run.batches()):
                    fraction = index / n_batches if n_batches else 0.0
                    position = run.epoch + fraction
                    if kl_warmup:
                        weight.fill_(kl_scale * min(1.0, position / kl_warmup))
                    for group, rate in zip(run.optimizer.param_groups, base_rates, strict=True):
                        group["lr"] = rate * schedule(min(position / epochs, 1.0))
                    for callback in callbacks:
                        callback.on_step(run, min(position / epochs, 1.0))
                    loss = run.take_step(batch, clip_norm, checkpoint)
                    for lifted in projected:
                        lifted.project()
                    for function in after:
                        function(run)
                    total, count = total + loss, count + 1
                if not count:
                    raise ValueError(
                        "the data gave no batch; a generator can be run through once only"
                    )
                run.epoch += 1
                entry: dict[str, Any] = {
                    "epoch": run.epoch,
                    "step": run.step,
                    "loss": float(total) / count,
                    "kl_scale": float(scaled.scale),
                    "learning_rate": run.optimizer.param_groups[0]["lr"],
                }
                run.history.append(entry)
                with _unscaled(scaled):
                    for callback in callbacks:
                        entry.update(callback.on_epoch_end(run) or {})
                    entry.update(_scores(model, guide, validation))
                    run.finished = run.epoch == epochs or _exhausted(run.history, patience)
                    if run.shrink is not None and compact_every is not None:
                        due = run.finished or run.epoch % compact_every == 0
                        if due and run.shrink.shrink():
                            run.svi = captured()
                        if run.finished:
                            run.shrink.restore()
                        entry["kept"] = run.shrink.kept()
                    if run.finished and (callbacks or run.shrink is not None):
                        for callback in callbacks:
                            entry.update(callback.on_end(run) or {})
                        # Again, as callbacks and the last cut may have changed what is handed over.
                        entry.update(_scores(model, guide, validation))
                entry["seconds"] = round(time.perf_counter() - started, 3)
                run.refuse_broken_parameters(checkpoint)
                if checkpoint is not None:
                    checkpoints.save(checkpoint, run.state(settings, callbacks))
                if metrics is not None:
                    run.write_metrics(metrics)
                advance(entry)
    return run


class _unscaled:
    """Suspend a weight on the KL divergence while something is evaluated."""

    def __init__(self, scaled: scale_kl) -> None:
        self.scaled = scaled

    def __enter__(self) -> None:
        self.scale, self.scaled.scale = self.scaled.scale, 1.0

    def __exit__(self, *exception: object) -> None:
        self.scaled.scale = self.scale


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


def _check_elbo(elbo: Any) -> None:
    if isinstance(elbo, _JIT):
        plain = type(elbo).__name__.removeprefix("Jit")
        raise TypeError(
            f"fit takes no {type(elbo).__name__}, as torch.jit cannot trace a lifted network: give "
            f"{plain}(), whose steps fit captures with ps.captured.CapturedSVI"
        )


def _check_finite(data: Any) -> None:
    if not isinstance(data, tuple):
        return
    for position, tensor in enumerate(data):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise ValueError(f"tensor {position} of the data has {count} values not finite")


def _check(
    epochs: int,
    batch_size: int,
    kl_scale: float,
    kl_warmup: int,
    clip_norm: float | None,
    patience: int | None,
    validation: Any,
    compact_every: int | None,
) -> None:
    counts = {"epochs": epochs, "batch_size": batch_size}
    if compact_every is not None:
        counts["compact_every"] = compact_every
    for name, value in counts.items():
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
