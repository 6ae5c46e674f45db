"""Latent variables of a model, drawn once from a guide and held over all data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.poutine as poutine

from pyrosparse.evidence.sites import known_data, observed_sites, sample_sites, score_observed
from pyrosparse.lifting.lift import Lifted


class Latents:
    """One draw of a guide, with which a model is run on batch after batch.

    model, guide: Pyro programs; the guide draws all latent variables of the model.
    batch:        the first batch, with which the guide is called.

    trace: the guide's trace.
    local: the names of the latent variables that belong to single data.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...]
    ) -> None:
        refuse_network(model)
        self.model = model
        self.trace = poutine.trace(guide).get_trace(*batch)
        # The model's plates subsample anew: they do not use the indices that the guide drew.
        for name, site in list(self.trace.nodes.items()):
            if type(site.get("fn")).__name__ == "_Subsample":
                self.trace.remove_node(name)
        self._batches = 0
        self.local: list[str] = []

    def on(self, batch: tuple[Any, ...]) -> poutine.Trace:
        """The trace of the model on a batch, given the draw; its observed sites are scored.

        Raises ValueError if guide and model differ in their latent variables, and if a latent
        variable belongs to single data and a batch does not have all data.
        """
        trace = poutine.trace(poutine.replay(self.model, trace=self.trace)).get_trace(*batch)
        score_observed(trace, len(batch[0]))
        observed_sites(trace)  # first, as an observed site without its data becomes latent
        check_covered(trace, self.trace)
        self._refuse_strangers(trace)
        self.local = refuse_local(trace, len(batch[0]), first=not self._batches)
        self._batches += 1
        return trace

    def _refuse_strangers(self, trace: poutine.Trace) -> None:
        own = {site["name"] for site in sample_sites(trace, observed=False)}
        strangers = [
            site["name"]
            for site in sample_sites(self.trace, observed=False)
            if site["name"] not in own and not site["infer"].get("is_auxiliary")
        ]
        if strangers:
            raise ValueError(
                f"the guide draws {', '.join(strangers)}, which are not latent variables of the "
                "model. Give the guide of this model; mark auxiliary variables with "
                "infer={'is_auxiliary': True}"
            )


def refuse_local(trace: poutine.Trace, n: int, *, first: bool) -> list[str]:
    """Refuse the trace of a model on a batch of n data, with latents from one draw for all batches,
    if a latent variable belongs to single data and the batch does not have all data.

    first: whether it is the first batch; further ones must be scored datum by datum.

    Returns the names of the latent variables of single data. Raises ValueError.
    """
    observed = observed_sites(trace)
    plates = {
        frame.name for site in observed for frame in site["cond_indep_stack"] if frame.size == n
    }
    local = []
    for site in sample_sites(trace, observed=False):
        for frame in site["cond_indep_stack"]:
            if frame.name not in plates:
                continue
            local.append(site["name"])
            if not first or frame.size != (frame.full_size or frame.size):
                raise ValueError(
                    f"{site['name']!r} is a latent variable of each datum (in the plate "
                    f"{frame.name!r}): one draw cannot be used for several batches, or for a part "
                    "of the plate's data. Give all data of the plate in one batch (batch_size), "
                    "or sum "
                    "the variable out in the model"
                )
    if not first:
        for site in observed:
            known_data(site, n)  # without a dimension of the data it would count once a batch
    return local


def refuse_network(model: Any) -> None:
    """Raise TypeError if a model is a lifted network, which has no likelihood."""
    if isinstance(model, Lifted):
        raise TypeError(
            "a lifted network has no likelihood: give a model of it and the number of data, such "
            "as ps.classifier(bnn, n) or ps.regressor(bnn, n)"
        )


def not_drawn(trace: poutine.Trace, guide_trace: poutine.Trace) -> list[Any]:
    """The latent sites of a model's trace that the guide did not draw."""
    drawn = {site["name"] for site in sample_sites(guide_trace, observed=False)}
    return [site for site in sample_sites(trace, observed=False) if site["name"] not in drawn]


def check_covered(trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    """Refuse, by name, latent variables of a model's trace that the guide did not draw: they come
    from the prior, not from the posterior. Raises ValueError."""
    sites = not_drawn(trace, guide_trace)
    if not sites:
        return
    names = ", ".join(repr(site["name"]) for site in sites)
    reasons = [
        f"the guide does not draw {names}, latent in the model: the draws would come from the "
        "prior, not from the posterior. Give the guide that the model was trained with "
        "(guide=...); it must draw all latent variables"
    ]
    if any("enumerate" in site["infer"] or site["fn"].has_enumerate_support for site in sites):
        reasons.append(
            "Training sums out discrete variables by enumeration; the diagnostics do not. Sum them "
            "out in the model (pyro.distributions.MixtureSameFamily), or draw them in the guide"
        )
    if any(site["name"].endswith("_unobserved") for site in sites):
        reasons.append("For data that are partly observed use poutine.mask in place of obs_mask")
    raise ValueError(". ".join(reasons))
