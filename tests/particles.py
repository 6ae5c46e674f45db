"""Particles in one plate, as an ELBO draws them, and each of them by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.poutine as poutine
import torch

COUNT = 4
PLATE = pyro.plate("num_particles_vectorized", COUNT, dim=-2)


def together(model: Callable[..., Any], guide: Any, args: Any) -> tuple[poutine.Trace, Any]:
    """The traces of particles in one plate, of the second call: the first runs one by one."""
    for _ in range(2):
        drawn = poutine.trace(PLATE(guide)).get_trace(*args)
        trace = poutine.trace(poutine.replay(PLATE(model), trace=drawn)).get_trace(*args)
    trace.compute_log_prob()
    return trace, drawn


def alone(model: Callable[..., Any], drawn: poutine.Trace, number: int, args: Any) -> poutine.Trace:
    """The trace of one of the particles by itself."""
    own = drawn.copy()
    for name, site in drawn.nodes.items():
        if site["type"] == "sample":
            start = site["value"].dim() - len(site["fn"].event_shape)
            value = site["value"].expand(COUNT, *site["value"].shape[1:])[number]
            own.nodes[name] = {**site, "value": value.reshape(value.shape[start - 1 :])}
    trace = poutine.trace(poutine.replay(model, trace=own)).get_trace(*args)
    trace.compute_log_prob()
    return trace


def same(model: Callable[..., Any], guide: Any, args: Any, tolerance: float = 1e-4) -> None:
    """Every site has the probabilities, in each particle, that it has alone."""
    trace, drawn = together(model, guide, args)
    for number in range(COUNT):
        for name, site in alone(model, drawn, number, args).nodes.items():
            if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample":
                found = trace.nodes[name]["log_prob"]
                found = found.expand(COUNT, *found.shape[1:])[number]
                expected = site["log_prob"].expand_as(found)
                torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
