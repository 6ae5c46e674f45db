"""Checks of ``fit`` before training begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.infer import (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
)

from pyrosparse.evidence.latents import not_drawn, refuse_network
from pyrosparse.evidence.sites import sample_sites
from pyrosparse.infer.callback import Callback
from pyrosparse.infer.schedules import check_schedule

_JIT = (JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO)


def check_arguments(
    epochs: int,
    batch_size: int,
    kl_scale: float,
    kl_warmup: int,
    clip_norm: float | None,
    patience: int | None,
    validation: Any,
    compact_every: int | None,
    first_step: int,
) -> None:
    """Raise ValueError if a number is out of range, or there is nothing for patience to watch.

    The arguments are those of ``fit``."""
    counts = {"epochs": epochs, "batch_size": batch_size}
    if compact_every is not None:
        counts["compact_every"] = compact_every
    for name, value in counts.items():
        if int(value) != value or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    if not kl_scale >= 0 or kl_warmup < 0:
        raise ValueError(
            f"kl_scale and kl_warmup must not be negative, got {kl_scale} and {kl_warmup}"
        )
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be positive, got {clip_norm}")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be a positive number of epochs, got {patience}")
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data: pass validation=, or leave patience out")
    if int(first_step) != first_step or first_step < 0:
        raise ValueError(f"first_step must be 0 or a positive whole number, got {first_step}")


def check_hooks(callbacks: Any, schedule: Any) -> None:
    """Raise TypeError if callbacks are not a sequence of ``Callback``, or the schedule is not a
    function."""
    if not isinstance(callbacks, Sequence) or not all(
        isinstance(one, Callback) for one in callbacks
    ):
        raise TypeError(
            f"callbacks is a list of objects of subclasses of ps.infer.Callback; got {callbacks!r}"
        )
    check_schedule("schedule", schedule)


def check_gradients() -> None:
    """Raise RuntimeError if gradients are disabled: no step would change anything."""
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "fit has no gradients to train by: call it outside torch.no_grad() and "
            "torch.inference_mode()"
        )


def check_elbo(elbo: Any) -> None:
    """Raise TypeError for an ELBO whose steps cannot be traced."""
    if isinstance(elbo, type):
        raise TypeError(f"elbo is an object, elbo={elbo.__name__}(); got the class")
    if isinstance(elbo, _JIT):
        plain = type(elbo).__name__.removeprefix("Jit")
        raise TypeError(
            f"fit does not support {type(elbo).__name__}, because torch.jit cannot trace a lifted "
            f"network: pass {plain}(), whose steps fit captures with ps.captured.CapturedSVI"
        )


def check_programs(model: Any, guide: Any) -> None:
    """Raise TypeError if model or guide are not Pyro programs, which are called on a batch."""
    refuse_network(model)
    for name, program in (("model", model), ("guide", guide)):
        if not callable(program):
            raise TypeError(
                f"the {name} must be callable, got {type(program).__name__}: fit takes "
                "(model, guide, data), such as ps.fit(model, model.guide, (x, y)) for the models "
                "of pyrosparse"
            )


def check_guide(trace: poutine.Trace, guide_trace: poutine.Trace, elbo: Any) -> None:
    """Raise ValueError if the guide does not draw a latent variable of the model, and the ELBO does
    not sum it out: it would be drawn from its prior, and the loss would be no bound."""
    if not sample_sites(trace, observed=True):
        return  # what should be observed is latent: ``check_observed`` says so
    sums = isinstance(elbo, TraceEnum_ELBO)
    may_sum = not isinstance(elbo, Trace_ELBO | TraceGraph_ELBO | RenyiELBO)
    missing = [
        site
        for site in not_drawn(trace, guide_trace)
        if not (may_sum and site["infer"].get("enumerate"))
        and not (sums and site["fn"].has_enumerate_support)
    ]
    if missing:
        names = ", ".join(repr(site["name"]) for site in missing)
        way = (
            "sum it out with elbo=pyro.infer.TraceEnum_ELBO()"
            if all(site["fn"].has_enumerate_support for site in missing)
            else "give a guide that draws every latent variable: model.guide for the models of "
            "pyrosparse, whose likelihood may have latent variables beside the network's; for your "
            "own a function that calls bnn.guide and draws the others, or an AutoGuideList. "
            "ps.compress takes a model whose attribute `guide` is a ps.models.ModelGuide"
        )
        if any(site["name"].endswith("_unobserved") for site in missing):
            way = "for data that are partly observed use poutine.mask in place of obs_mask"
        raise ValueError(f"the guide does not draw {names}, latent in the model: {way}")


def check_finite(data: Any) -> None:
    """Raise ValueError if data that are tensors have a NaN or an infinity."""
    if not isinstance(data, tuple):
        return
    for position, tensor in enumerate(data):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise ValueError(
                f"tensor {position} of the data has {count} values that are NaN or infinite"
            )
