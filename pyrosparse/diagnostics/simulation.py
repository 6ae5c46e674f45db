"""Simulation-based calibration: does inference recover draws of the prior?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.distributions import ImproperPriorWarning
from pyrosparse.evidence.improper import improper_priors, refuse_improper
from pyrosparse.evidence.sites import sample_sites
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.util.generators import generators_left_alone

Infer = Callable[[Tensor, Tensor], Callable[..., Any]]


@dataclass(frozen=True)
class SimulationCalibration:
    """The ranks of simulated weights among draws of the inferred posteriors.

    ranks: by latent site, (simulations, elements) int64, each 0 to ``draws``.
    draws: the number of draws of every posterior.
    bins:  the number of bins of the chi-square test, which divide the draws + 1 ranks evenly.
    """

    ranks: dict[str, Tensor]
    draws: int
    bins: int

    def p_values(self) -> dict[str, Tensor]:
        r"""By site, the p-value of a chi-square test of uniform ranks for each element,
        (elements,) float64.

        .. math:: \chi^2 = \sum_{b=1}^{B} \frac{(c_b - N / B)^2}{N / B}
        """
        return {
            site: _uniformity(ranks, self.draws, self.bins) for site, ranks in self.ranks.items()
        }

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of elements (Bonferroni), at most 1. If it is
        small, inference is wrong for some element."""
        values = torch.cat(list(self.p_values().values()))
        return min(1.0, float(values.min()) * len(values))

    def __repr__(self) -> str:
        simulations = len(next(iter(self.ranks.values())))
        return (
            f"SimulationCalibration: p-value {self.p_value:.3g} of {simulations} simulations with "
            f"{self.draws} draws each, sites {', '.join(self.ranks)}"
        )


def simulation_calibration(
    model: Callable[..., Any],
    infer: Infer,
    x: Tensor,
    *,
    simulations: int = 200,
    draws: int = 63,
    bins: int = 8,
    seed: int = 0,
) -> SimulationCalibration:
    r"""Simulate data from the prior, infer the posterior from each, and rank the truth among draws.

    .. math::
        w^* \sim p(w), \quad y \sim p(y \mid x, w^*), \quad w_1, \dots, w_L \sim q(w \mid y),
        \qquad r = \#\{s : w_s < w^*\}

    If q is the posterior, r is uniform on 0 to L for every element of w. A guide that is too narrow
    gives many ranks near 0 and L, a shifted one many at one end. The check fits ``simulations``
    guides, so use it for small models.

    model: a Pyro model with sites for the weights and one observed site: ``model(x)`` draws it,
           as ``classifier`` and ``regressor`` do.
    infer: ``infer(x, y)`` fits a guide to data, and returns it.
    x:     the inputs, (n, ...).
    bins:  the number of bins of the chi-square test; draws + 1 must be a multiple.
    seed:  seed for all random numbers, also within ``infer``; the caller's generators do not
           change.

    Raises ValueError if bins do not divide the ranks evenly, if fewer than 5 simulations would fall
    into a bin, if guide and model differ in their sites, if the model does not return its data, and
    if a prior is improper, because such a prior has no draws.

    Source: Talts et al. (2018), "Validating Bayesian inference algorithms with simulation-based
    calibration", algorithm 1.

    >>> import pyrosparse as ps
    >>> def lifted():
    ...     return ps.lift(torch.nn.Linear(2, 1), ps.Gaussian(posterior="normal"))
    >>> def infer(x, y):
    ...     return lifted().guide  # that never saw the data
    >>> model = ps.regressor(lifted(), 10, noise=0.1)
    >>> result = simulation_calibration(model, infer, torch.randn(10, 2), simulations=40)
    >>> result.ranks["weight"].shape, result.p_value < 1e-6
    (torch.Size([40, 2]), True)
    """
    if (draws + 1) % bins or bins < 2:
        raise ValueError(
            f"{bins} bins do not divide the {draws + 1} ranks of {draws} draws evenly: choose "
            "numbers such as draws=63 and bins=8"
        )
    if simulations < 5 * bins:
        raise ValueError(f"{bins} bins need {5 * bins} simulations or more; got {simulations}")
    found: dict[str, list[Tensor]] = {}
    with generators_left_alone():
        torch.manual_seed(seed)
        for _ in range(simulations):
            truth, y = _simulate(model, x)
            guide = infer(x, y)
            with torch.no_grad(), evaluation_mode(guide), poutine.block():
                inferred = [_latents(poutine.trace(guide).get_trace(x, y)) for _ in range(draws)]
            if inferred[0].keys() != truth.keys():
                raise ValueError(
                    f"the guide has the sites {', '.join(inferred[0])}; the model has "
                    f"{', '.join(truth)}"
                )
            for site, value in truth.items():
                below = torch.stack([one[site] < value for one in inferred]).sum(0)
                found.setdefault(site, []).append(below.flatten().cpu())
    return SimulationCalibration({s: torch.stack(r) for s, r in found.items()}, draws, bins)


def _simulate(model: Callable[..., Any], x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    with (
        torch.no_grad(),
        evaluation_mode(model),
        poutine.block(),
        warnings.catch_warnings(action="ignore", category=ImproperPriorWarning),
    ):
        trace = poutine.trace(model).get_trace(x)
    refuse_improper("simulation from the prior", improper_priors(trace, model))
    y: Any = trace.nodes["_RETURN"]["value"]
    latents = _latents(trace)
    # The model returns the data, whose site is not observed while it simulates.
    data = [site for site, value in latents.items() if value is y]
    if not data:
        raise ValueError("the model must return the data that it draws, as ps.classifier does")
    return {site: value for site, value in latents.items() if site not in data}, y


def _latents(trace: poutine.Trace) -> dict[str, Tensor]:
    return {
        site["name"]: site["value"]
        for site in sample_sites(trace, observed=False)
        if not site["infer"].get("is_auxiliary")
    }


def _uniformity(ranks: Tensor, draws: int, bins: int) -> Tensor:
    binned = ranks // ((draws + 1) // bins)
    counts = torch.stack([(binned == number).sum(0) for number in range(bins)]).double()
    expected = len(ranks) / bins
    statistic = ((counts - expected).square() / expected).sum(0)
    # The upper tail of the chi-square distribution with bins - 1 degrees of freedom.
    return torch.special.gammaincc(torch.full_like(statistic, (bins - 1) / 2), statistic / 2)
