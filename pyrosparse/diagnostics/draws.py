"""Draws of a posterior, each scored on all data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import Unit
from torch import Tensor

from pyrosparse.evidence.latents import Latents
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.evidence.sites import (
    known_elements,
    log_density,
    log_prob,
    log_prob_sum,
    observed_sites,
    sample_sites,
)
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.util.generators import generators_left_alone


@dataclass
class Draw:
    """One draw of all latent sites, and the scores of the data given it.

    sites:          the latent values by site, without a guide's auxiliary sites.
    log_q:          log q of the draw, nats.
    log_priors:     by site, log p of the latent value given those before it, nats.
    local:          the latent sites that belong to single data.
    parameters:     the guide's parameters by Pyro's names, constrained.
    log_likelihood: by observed site, log p(y_i | w), (n,), nats; 0 for masked data.
    known:          by observed site, which elements are not masked, boolean, (n, ...).
    observed:       by observed site, the data, (n, ...); not for ``pyro.factor``.
    replicated:     by observed site, new data drawn given w, (n, ...); empty unless requested.
    """

    sites: dict[str, Tensor]
    log_q: float
    log_priors: dict[str, float]
    local: list[str]
    parameters: dict[str, Tensor]
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    known: dict[str, Tensor] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)
    replicated: dict[str, Tensor] = field(default_factory=dict)

    @property
    def log_prior(self) -> float:
        """log p of the draw, nats."""
        return sum(self.log_priors.values())

    def __repr__(self) -> str:
        likelihood = sum(float(part.double().sum()) for part in self.log_likelihood.values())
        return (
            f"Draw of {len(self.sites)} sites: log likelihood {likelihood:,.1f}, log prior "
            f"{self.log_prior:,.1f}, log q {self.log_q:,.1f} nats"
        )

    def known_data(self) -> dict[str, Tensor]:
        """By observed site, which data have a known element, boolean, (n,)."""
        return {
            name: known.flatten(1).any(1) if known.dim() > 1 else known
            for name, known in self.known.items()
        }


def draw(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    seed: int,
    batch_size: int = 1000,
    replicate: bool = False,
) -> Draw:
    """Draw once from a guide, and score all data with the draw, in evaluation mode.

    model, guide, data: as for ``pyrosparse.evidence.elbo``; the model is conditioned on the data.
    seed:      seed for all random numbers; the caller's generators do not change.
    replicate: draw new data, too.

    Raises ValueError if there are no data, if the model observes nothing, if an observed site does
    not score data one by one, and if guide and model differ in their latent sites.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> draw(ps.classifier(bnn, 10), bnn.guide, data, seed=0).log_likelihood["y"].shape
    torch.Size([10])
    """
    latents, result = None, None
    parts: dict[str, dict[str, list[Tensor]]] = {}
    data = Repeated.of(data)
    with (
        generators_left_alone(),
        torch.no_grad(),
        evaluation_mode(model, guide),
        poutine.block(),
    ):
        torch.manual_seed(seed)
        for batch in data.minibatches(batch_size, model):
            latents = latents or Latents(model, guide, batch)
            trace = latents.on(batch)
            result = result or _empty(latents, trace)
            for site in _observed(trace, len(batch[0])):
                found = parts.setdefault(site["name"], {})
                found.setdefault("log_likelihood", []).append(log_density(site))
                found.setdefault("known", []).append(known_elements(site))
                if isinstance(site["fn"], Unit):  # from pyro.factor: there are no values
                    continue
                found.setdefault("observed", []).append(site["value"])
                if replicate:
                    found.setdefault("replicated", []).append(site["fn"].sample())
    if result is None:
        raise ValueError(
            "there are no data to score: give data that are not empty (an iterator "
            "can be read only once)"
        )
    for name, found in parts.items():
        for kind, tensors in found.items():
            getattr(result, kind)[name] = torch.cat(tensors)
    return result


def draw_seed(seed: int, number: int) -> int:
    """The seed of one of several draws; ``pyrosparse.evidence.elbo`` uses the same."""
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
    """The log likelihood of every known datum under draws of a guide, (draws, known) float64, nats.

    Arguments and errors as for ``scores``.
    """
    options: dict[str, Any] = {"draws": draws, "seed": seed, "batch_size": batch_size}
    found, masked, _ = scores(model, guide, data, **options)
    return found[:, masked >= 0]


def scores(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    draws: int,
    seed: int = 0,
    batch_size: int = 1000,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of data under draws of a guide, as three tensors: the log likelihood of every datum,
    (draws, n) float64, nats; the number of masked elements in every datum, (n,) int64, -1 if all
    are masked (its log likelihood is 0); and log p - log q of every draw, without the likelihood,
    (draws,) float64, nats.

    model, guide, data, batch_size: as for ``draw``; several observed sites are added up.

    Raises ValueError as ``draw`` does, if ``draws`` is not positive, and if latent sites belong to
    single data: the guide has seen the datum for which it draws them.
    """
    data = Repeated.of(data)
    rows, ratios, first = [], [], None
    for number in range(draws):
        one = draw(model, guide, data, seed=draw_seed(seed, number), batch_size=batch_size)
        if one.local:
            raise ValueError(
                f"{', '.join(one.local)} are latent variables of single data. The guide has seen "
                "the datum for which it draws, so its draws are not predictions. Sum these "
                "variables out in the model"
            )
        first = first or one
        check_same_data(first, one)
        ratios.append(one.log_prior - one.log_q)
        rows.append(torch.stack([part.double().cpu() for part in one.log_likelihood.values()]))
    if first is None:
        raise ValueError(f"draws must be positive, got {draws}")
    known = torch.stack([part.cpu() for part in first.known_data().values()]).any(0)
    counts = [(~part.cpu()).reshape(len(known), -1).sum(1) for part in first.known.values()]
    missing = torch.stack(counts).sum(0).masked_fill(~known, -1)
    return torch.stack(rows).sum(1), missing, torch.tensor(ratios, dtype=torch.float64)


def check_same_data(first: Draw, other: Draw) -> None:
    """Raise ValueError if two draws were scored on different data."""
    for name in first.known:
        pairs = [(first.known[name], other.known.get(name))]
        if name in first.observed:
            pairs.append((first.observed[name], other.observed.get(name)))
        for one, two in pairs:
            if two is None or one.shape != two.shape or not _equal(one, two):
                raise ValueError(
                    f"the model observes different data at {name!r} in different draws, which "
                    "cannot be compared. It must observe the data that it is given, in their "
                    "order"
                )


def _equal(one: Tensor, two: Tensor) -> bool:
    same = one == two
    if one.is_floating_point():
        same |= one.isnan() & two.isnan()  # placeholders of masked elements
    return bool(same.all())


def _empty(latents: Latents, trace: poutine.Trace) -> Draw:
    log_q = log_prob_sum(latents.trace, observed=False)
    priors = {site["name"]: log_prob(site) for site in sample_sites(trace, observed=False)}
    sites = {site["name"]: site["value"] for site in sample_sites(trace, observed=False)}
    parameters: dict[str, Any] = {
        name: site["value"] for name, site in latents.trace.nodes.items() if site["type"] == "param"
    }
    return Draw(sites, log_q, priors, latents.local, parameters)


def _observed(trace: poutine.Trace, n: int) -> list[Any]:
    sites = observed_sites(trace)
    for site in sites:
        shape = tuple(site["unscaled_log_prob"].shape)
        if shape != (n,):
            raise ValueError(
                f"the site {site['name']!r} has log densities of shape {shape} for {n} data; one "
                f"for each datum, ({n},), is expected: declare the other dimensions with "
                ".to_event(). If single elements are masked, call .mask(known) before it"
            )
    return sites
