"""The training loop: stochastic variational inference."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pyro.infer import TraceMeanField_ELBO
from torch.optim import Optimizer

from pyrosparse.evidence import evaluate
from pyrosparse.evidence.batches import prepared
from pyrosparse.infer.agreement import average_statistics, check_agreement, check_settings
from pyrosparse.infer.callback import Callback, after_steps
from pyrosparse.infer.checks import (
    check_arguments,
    check_elbo,
    check_finite,
    check_gradients,
    check_hooks,
    check_programs,
)
from pyrosparse.infer.denormals import flush_denormals
from pyrosparse.infer.observed import check_observed
from pyrosparse.infer.pace import Pace
from pyrosparse.infer.parameter_groups import Rates, made, parameter_groups
from pyrosparse.infer.progress import progress_bar
from pyrosparse.infer.resuming import Files
from pyrosparse.infer.run import Fit
from pyrosparse.infer.schedules import Schedule, constant
from pyrosparse.infer.shrink import Shrink
from pyrosparse.infer.work import Work, worthwhile_threads
from pyrosparse.lifting.attention import no_fast_path
from pyrosparse.util.files import check_writable
from pyrosparse.util.generators import generators_left_alone


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
    first_step: int = 0,
    compact_every: int | None = None,
    capture: bool = True,
    compile: bool = False,
    progress: bool | None = None,
    stage: str = "",
) -> Fit:
    r"""Train a Pyro model and its guide by stochastic variational inference.

    .. math:: \max_q \; E_q[\log p(D \mid w)] - \beta \, \mathrm{KL}(q(w) \Vert p(w))

    It does what ``SVI(model, guide, optim, elbo).step(*batch)`` does in a loop, and accepts any
    Pyro model and guide. If ``torch.distributed`` has a process group, call ``fit`` with the same
    arguments on all ranks: they train together. Small steps run on one thread (``infer.work``); at
    the end ``fit`` restores the caller's number of threads.

    data:          ``Examples``, a tuple of tensors or arrays with one datum a row, a dict of them
                   by the names of the model's arguments, or a torch Dataset (all shuffled anew in
                   each epoch); or a re-iterable of batches (a DataLoader). The model is called as
                   ``model(*batch)``.
    batch_size:    data in a step, over all ranks, if data are not already batches.
    optimizer:     a function from parameter groups to a torch optimizer, such as
                   ``torch.optim.SGD``; by default fused Adam.
    learning_rate: one rate, or rates by glob on parameter names (``{"guide.*": 1e-2, "*": 1e-3}``;
                   the first that matches counts). The names are those in ``Fit.parameters``.
    schedule:      a factor on the rates as a function of progress in [0, 1], set at every step.
    elbo:          any Pyro ELBO; by default ``TraceMeanField_ELBO()``.
    kl_scale:      beta, the weight of the KL divergence; it increases linearly from 0 over the
                   first ``kl_warmup`` epochs.
    clip_norm:     the largest norm of the gradient over all parameters.
    callbacks:     called before and after every step and at the end of every epoch, in order; see
                   ``Callback``.
    validation:    data whose likelihood and accuracy at the guide's mean are recorded.
    patience:      stop after this number of epochs without a new best ``validation_nll``.
    checkpoint:    a file written at the end of epochs: after the first, the last, and whenever
                   training since then took 20 times as long as writing it (so never more than 5 %
                   of the time). If it exists at the start, the run continues from it and ends bit
                   for bit as an uninterrupted one (data that shuffle themselves, such as a
                   DataLoader, must use torch's global generator).
    metrics:       a file with one line of JSON for each epoch, written together with the
                   checkpoint.
    seed:          seed for all random numbers; the caller's torch generator does not change.
    first_step:    the number of steps of this training that another run took before. The run
                   continues with the following minibatches, schedules, warm-ups and epochs, but
                   with a new optimizer and new draws.
    compact_every: an interval in epochs: each time, cut dead elements (gates below their method's
                   threshold, and elements frozen at zero) out of network, guide and optimizer, so
                   that the next epochs cost less. It is exact, because ``fit`` freezes what it
                   cuts. When training ends the network has its original size, to which masks
                   refer.
    capture:       take the Python out of the steps where possible; see ``CapturedSVI``.
    compile:       compile the captured steps too.
    progress:      show a progress bar; by default on a terminal only. Without a terminal, the log
                   ``pyrosparse`` has a line at the start and at most one a minute.
    stage:         name of this training in the bar and the log; ``Fit.stage``.

    Raises NonFiniteLossError with step, site and layer if the loss is NaN or infinite (the last
    checkpoint stays), ValueError for bad arguments and data, TypeError for data, optimizers and
    ELBOs of another kind, CheckpointError if the checkpoint is damaged or belongs to another run,
    and OSError if checkpoint or metrics cannot be written (found out before the first step) or
    their folder is removed. With several ranks, RankError if they differ in what must be equal, or
    one no longer answers; an error on one rank is raised on all. RuntimeError within
    torch.no_grad().
    Warns if the model's plate has another number of data than there are.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    >>> run = fit(ps.classifier(bnn, 20), bnn.guide, data, epochs=2, progress=False)
    >>> [entry["epoch"] for entry in run.history]
    [1, 2]
    """
    check_arguments(
        epochs, batch_size, kl_scale, kl_warmup, clip_norm, patience, validation, compact_every,
        first_step,
    )  # fmt: skip
    check_programs(model, guide)
    check_elbo(elbo)
    check_hooks(callbacks, schedule)
    check_gradients()
    data = prepared(data, model)
    validation = None if validation is None else prepared(validation, model)
    check_finite(data)
    run = Fit(model, guide, data, epochs, batch_size, seed, int(first_step))
    for file in (checkpoint, metrics):
        if file is not None:
            run.ranks.by_first(partial(check_writable, file))  # now, not after an epoch
    run.stage, run.clip_norm, run.checkpoint = stage, clip_norm, checkpoint
    run.capture, run.compile = capture, compile
    run.elbo = TraceMeanField_ELBO() if elbo is None else elbo
    with (
        generators_left_alone(),
        flush_denormals(),
        warnings.catch_warnings(),
        run.whole_at_the_end(),
    ):
        # NonFiniteLossError reports it, with its place.
        warnings.filterwarnings("ignore", message="Encountered NaN")
        torch.manual_seed(seed)
        run.ranks.seed(seed)
        with no_fast_path(), Work() as work:  # the fast path uses nested tensors: no count
            seen = run.collect_parameters()
        run.optimizer = made(optimizer, parameter_groups(run.parameters, learning_rate))
        if compact_every is not None:
            run.shrink = Shrink(run, compact_every)
        check_observed(*seen, data)
        del seen  # frees the memory of a batch's trace
        batches = run.batches_an_epoch()
        pace = Pace(run.optimizer, epochs, batches, schedule, weight=kl_scale, warmup=kl_warmup)
        settings = {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": pace.rates,
            "kl_scale": kl_scale,
            "kl_warmup": kl_warmup,
            "clip_norm": clip_norm,
            "patience": patience,
            "compact_every": compact_every,
            "seed": seed,
            "first_step": run.first_step,
            "ranks": run.ranks.size,
        }
        check_settings(run, settings, callbacks, validation)
        files = Files(run, settings, callbacks, checkpoint, metrics)
        resumed = files.resume()
        if not run.finished:
            with worthwhile_threads(work):
                run.start(callbacks, resumed)
                _train(run, callbacks, pace, files, validation, patience, progress)
    return run


def _train(
    run: Fit,
    callbacks: Sequence[Callback],
    pace: Pace,
    files: Files,
    validation: Any,
    patience: int | None,
    progress: bool | None,
) -> None:
    """Train epoch after epoch, until all are done or patience runs out."""
    projected, after = run.projected(), after_steps(callbacks)
    shown = progress if run.ranks.first else False
    with progress_bar(run.epochs, run.epoch, shown, run.stage) as advance, pace.kl_scale:
        while not run.finished:
            started = time.perf_counter()
            total: Any = 0.0
            count, skipped = 0, run.minibatches.skipped(run.epoch)
            for batch, share in run.parts():
                done = pace.set(run.epoch, skipped + count)
                for callback in callbacks:
                    callback.on_step(run, done)
                loss = run.take_step(batch, share)
                for lifted in projected:
                    lifted.project()
                for after_step in after:
                    after_step(run)
                total, count = total + loss, count + 1
            if not count:
                raise ValueError(
                    "the data gave no batch: give data that are not empty. A "
                    "generator can be read only once: give a list or a DataLoader"
                )
            run.epoch += 1
            entry: dict[str, Any] = {
                "epoch": run.epoch,
                "step": run.step,
                "loss": float(total) / count,
                "kl_scale": float(pace.kl_scale.scale),
                "learning_rate": run.optimizer.param_groups[0]["lr"],
            }
            run.history.append(entry)
            average_statistics(run)
            with run.ranks.together(), pace.kl_scale.suspended():
                for callback in callbacks:
                    entry.update(callback.on_epoch_end(run) or {})
                entry.update(_scores(run, validation))
            # If the last digits of scores differ between ranks, those of the first count.
            run.finished = run.epoch == run.epochs or run.ranks.by_first(
                partial(_exhausted, run.history, patience)
            )
            with run.ranks.together(), pace.kl_scale.suspended():
                if run.shrink is not None:
                    entry.update(run.shrink.after_epoch())
                if run.finished and (callbacks or run.shrink is not None):
                    for callback in callbacks:
                        entry.update(callback.on_end(run) or {})
                    # Again, as callbacks and the last cut may have changed the results.
                    entry.update(_scores(run, validation))
            entry["seconds"] = round(time.perf_counter() - started, 3)
            check_agreement(run)
            run.refuse_broken_parameters()
            files.write()
            advance(entry)


def _scores(run: Fit, validation: Any) -> dict[str, float]:
    if validation is None:
        return {}
    scores = evaluate(run.model, run.guide, validation)
    return {f"validation_{key}": value for key, value in scores.items()}


def _exhausted(history: list[dict[str, Any]], patience: int | None) -> bool:
    if patience is None:
        return False
    losses = [entry["validation_nll"] for entry in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience
