"""Sites of a trace: their log densities without masked elements, and which data they know."""

from __future__ import annotations

from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import MaskedDistribution, Unit
from pyro.distributions.util import broadcast_shape, scale_and_mask
from torch import Tensor


def sample_sites(trace: poutine.Trace, observed: bool) -> list[Any]:
    """The observed or the latent sites of a trace, without the indices of plates and
    ``pyro.deterministic``."""
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample"
        and site["is_observed"] == observed
        and type(site["fn"]).__name__ != "_Subsample"
        and not (site["infer"] or {}).get("_deterministic")
    ]


def observed_sites(trace: poutine.Trace) -> list[Any]:
    """The observed sites of a trace; raises ValueError if there are none."""
    sites = sample_sites(trace, observed=True)
    if not sites:
        raise ValueError(
            "the model observes nothing: pass it the observed data too, such as the labels"
        )
    return sites


def score_observed(trace: poutine.Trace, n: int) -> None:
    """Score the observed sites of a trace on n data. Latent sites are scored by ``log_prob``, once
    and not for every batch.

    Raises ValueError if a plate chooses some of the data: scales are left out here, so that the
    others would not count."""
    trace.compute_log_prob(lambda _, site: bool(site["is_observed"]))
    for site in sample_sites(trace, observed=True):
        frames = site["cond_indep_stack"]
        parts = [one for one in frames if one.size < min(n, one.full_size or one.size)]
        if parts and not any(one.size == n for one in frames):
            raise ValueError(
                f"the model scores {parts[0].size} of the {n} data that it is given, those that "
                f"the plate {parts[0].name!r} chooses: let it score all "
                f'(pyro.plate("{parts[0].name}", n, subsample_size=len(x))), and fit and the '
                "diagnostics choose minibatches by batch_size"
            )


def log_density(site: Any) -> Tensor:
    """The log density of a scored site, of the site's batch shape, nats; 0 at masked elements.

    Scales are left out: a plate that subsamples would scale each batch up to all data, and the
    factor of ``poutine.scale`` is for training and no part of the density.

    Raises ValueError if the mask has another shape.
    """
    found: Tensor = site["unscaled_log_prob"]
    masked = scale_and_mask(found, mask=site["mask"])
    if masked.shape != found.shape:
        raise ValueError(
            f"the mask on {site['name']!r} has the shape {tuple(site['mask'].shape)}, its log "
            f"densities {tuple(found.shape)}: broadcasting them would count every datum several "
            "times. Give the mask the shape of the log densities"
        )
    return masked


def log_prob_sum(trace: poutine.Trace, observed: bool) -> float:
    """The log density of a trace's observed or latent sites, summed in float64, nats, without
    scales and without masked elements."""
    if observed:
        return sum(
            float(log_density(site).sum(dtype=torch.float64)) for site in observed_sites(trace)
        )
    return sum(log_prob(site) for site in sample_sites(trace, observed=False))


def log_prob(site: Any) -> float:
    """The log density of one site, summed in float64, nats, without scales and masked elements."""
    # A weight matrix is one event, so its density is summed inside: over a million weights float32
    # resolves a tenth of a nat, more than a round of pruning may change.
    fn, value, mask = site["fn"], site["value"], site["mask"]
    if value.is_floating_point():
        try:
            return float(scale_and_mask(fn.log_prob(value.double()), mask=mask).sum())
        except RuntimeError:  # distributions that solve with their own float32 matrices
            pass
    return float(scale_and_mask(fn.log_prob(value), mask=mask).sum(dtype=torch.float64))


def known_elements(site: Any) -> Tensor:
    """Which elements of an observed value count, boolean, of the value's shape: those that neither
    ``poutine.mask`` nor a masked distribution leaves out."""
    fn, value = site["fn"], site["value"]
    if isinstance(fn, Unit):  # from pyro.factor: its value is empty
        value, event_dim, shape = site["unscaled_log_prob"], 0, fn.batch_shape
    else:
        event_dim, shape = fn.event_dim, fn.batch_shape + fn.event_shape
    shape = broadcast_shape(value.shape, shape)
    known = torch.ones(shape, dtype=torch.bool, device=value.device)
    known = _without(known, site["mask"], event_dim)
    while hasattr(fn, "base_dist") and not hasattr(fn, "transforms"):
        if isinstance(fn, MaskedDistribution):
            known = _without(known, fn._mask, fn.event_dim)
        fn = fn.base_dist
    return known


def _without(known: Tensor, mask: Tensor | bool | None, event_dim: int) -> Tensor:
    if mask is None or mask is True:
        return known
    if mask is False:
        return torch.zeros_like(known)
    return known & mask.reshape(mask.shape + (1,) * event_dim)


def known_data(site: Any, n: int) -> Tensor:
    """Which of a batch's n data have a known element in an observed site, boolean, (n,).

    Raises ValueError if the site has no dimension of the data.
    """
    known = known_elements(site)
    batch_dim = log_density(site).dim()
    if batch_dim == 0 and known.shape[:1] == (n,):  # a whole batch that is one event
        return known.flatten(1).any(1) if known.dim() > 1 else known
    plates = [
        frame.dim + batch_dim
        for frame in site["cond_indep_stack"]
        if frame.vectorized and frame.size == n
    ]
    dims = [dim for dim in (*plates, 0) if dim < batch_dim and known.shape[dim] == n]
    if not dims:
        raise ValueError(
            f"the site {site['name']!r} has log densities of shape "
            f"{tuple(site['unscaled_log_prob'].shape)} for {n} data: one for each datum is "
            "expected. Put the site in the plate of the data, which must contain all data that "
            "the model is given "
            '(pyro.plate("data", n, subsample=torch.arange(len(x))))'
        )
    known = known.movedim(dims[0], 0)
    return known.flatten(1).any(1) if known.dim() > 1 else known
