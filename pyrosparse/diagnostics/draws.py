"""Draws of a posterior, each scored on all data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.evidence.traces import batches, evaluation_mode, log_prob_sum, sample_sites


@dataclass
class Draw:
    """One draw of all latent sites, and what the model says of the data given it.

    sites:          the latent values by site.
    log_q:          log q of the draw, nats.
    log_prior:      log p of the draw, nats.
    log_likelihood: by observed site, log p(y_i | w), (n,), nats.
    observed:       by observed site, the data, (n, ...).
    replicated:     by observed site, new data drawn given w, (n, ...); empty unless asked for.
    """

    sites: dict[str, Tensor]
    log_q: float
    log_prior: float
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)
    replicated: dict[str, Tensor] = field(default_factory=dict)


def draw(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    seed: int,
    batch_size: int = 1000,
    replicate: bool = False,
) -> Draw:
    """Draw once from a guide, and score all data with it, in evaluation mode.

    model, guide, data: as for ``pyrosparse.evidence.elbo``; the model is conditioned on the data.
    seed:      of everything random in it; the caller's generators are left alone.
    replicate: draw new data, too.

    Raises ValueError where there are no data, where the model observes nothing, and where an
    observed site does not score data one by one.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> draw(ps.classifier(bnn, 10), bnn.guide, data, seed=0).log_likelihood["y"].shape
    torch.Size([10])
    """
    result = None
    parts: dict[str, tuple[list[Tensor], list[Tensor], list[Tensor]]] = {}
    devices = list(range(torch.cuda.device_count()))
    with (
        torch.random.fork_rng(devices=devices),
        torch.no_grad(),
        evaluation_mode(model, guide),
        poutine.block(),
    ):
        torch.manual_seed(seed)
        for batch in batches(data, batch_size, model):
            if result is None:
                drawn = poutine.trace(guide).get_trace(*batch)
                drawn.compute_log_prob()
            trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*batch)
            trace.compute_log_prob()
            if result is None:
                sites = {site["name"]: site["value"] for site in sample_sites(drawn, False)}
                log_q, log_prior = (log_prob_sum(one, observed=False) for one in (drawn, trace))
                result = Draw(sites, log_q, log_prior)
            for site in _observed(trace, len(batch[0])):
                scores, values, replicates = parts.setdefault(site["name"], ([], [], []))
                scores.append(site["unscaled_log_prob"])
                values.append(site["value"])
                if replicate:
                    replicates.append(site["fn"].sample())
    if result is None:
        raise ValueError("there are no data to score (an iterator that is spent?)")
    for name, (scores, values, replicates) in parts.items():
        result.log_likelihood[name] = torch.cat(scores)
        result.observed[name] = torch.cat(values)
        if replicate:
            result.replicated[name] = torch.cat(replicates)
    return result


def draw_seed(seed: int, number: int) -> int:
    """The seed of one draw of many, as ``pyrosparse.evidence.elbo`` counts them."""
    return seed * 1_000_003 + number


def log_likelihood(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    draws: int,
    seed: int = 0,
    batch_size: int = 1000,
) -> Tensor:
    """The log likelihood of every datum under draws of a guide, (draws, n) float64, nats.

    model, guide, data, batch_size: as for ``draw``; several observed sites are added up.
    """
    rows = []
    for number in range(draws):
        one = draw(model, guide, data, seed=draw_seed(seed, number), batch_size=batch_size)
        rows.append(sum(part.double().cpu() for part in one.log_likelihood.values()))
    return torch.stack(rows)  # type: ignore[arg-type]


def _observed(trace: poutine.Trace, n: int) -> list[Any]:
    sites = sample_sites(trace, observed=True)
    if not sites:
        raise ValueError("the model observes nothing: pass it the data it conditions on")
    for site in sites:
        shape = tuple(site["unscaled_log_prob"].shape)
        if shape != (n,):
            raise ValueError(
                f"the site {site['name']!r} has log densities of shape {shape} for {n} data; one a "
                f"datum, ({n},), is needed: declare the other dimensions with .to_event()"
            )
    return sites
