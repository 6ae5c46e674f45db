"""How well a model predicts values: error, likelihood, CRPS, and coverage of its intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.evidence.latents import Latents
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.evidence.sites import known_elements, log_density, observed_sites, sample_sites
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.util.generators import generators_left_alone

LEVELS = (0.5, 0.8, 0.95)
"""The probabilities of the central intervals whose coverage tables show."""


@dataclass(frozen=True)
class RegressionQuality:
    """How well a model predicts some values.

    rmse:        the root mean squared error of the predictive mean, in the targets' unit.
    nll:         the mean negative log predictive density, nats per datum.
    crps:        the mean continuous ranked probability score, in the targets' unit.
    log_density: the log predictive density of every datum, (n,) float64, nats.
    pit:         the probability integral transform of every target, (n,) or (n, d) float64 in
                 [0, 1]: uniform where predictions are calibrated.

    >>> found = RegressionQuality(1.0, 1.4, 0.6, torch.zeros(3), torch.tensor([0.1, 0.5, 0.9]))
    >>> round(found.coverage(0.5), 2)
    0.33
    """

    rmse: float
    nll: float
    crps: float
    log_density: Tensor
    pit: Tensor

    def __repr__(self) -> str:
        return (
            f"RegressionQuality of {len(self.log_density):,} data: RMSE {self.rmse:.4g}, CRPS "
            f"{self.crps:.4g}, elpd {self.elpd:.1f} +- {self.elpd_se:.2g} nats"
        )

    def coverage(self, level: float) -> float:
        """The share of the targets that lie in the central predictive interval of a probability.

        Raises ValueError if the level is not in (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"a level is a probability in (0, 1), got {level}")
        return float(((self.pit - 0.5).abs() <= level / 2).double().mean())

    @property
    def elpd(self) -> float:
        """The summed log predictive density of the data, nats."""
        return float(self.log_density.sum())

    @property
    def elpd_se(self) -> float:
        """Its standard error, nats; NaN for one datum."""
        return math.sqrt(len(self.log_density)) * float(self.log_density.std())

    def rows(self, after: RegressionQuality) -> list[tuple[str, str]]:
        """The rows of a report that compare this network with another."""
        covered = []
        for level in LEVELS:
            before, later = (100 * one.coverage(level) for one in (self, after))
            told = f"cover {before:.1f} % -> {later:.1f} %"
            covered.append((f"{100 * level:g} % intervals", told))
        return [
            ("RMSE", f"{self.rmse:.4f} -> {after.rmse:.4f}"),
            ("NLL", f"{self.nll:.4f} -> {after.nll:.4f} nats per datum"),
            ("CRPS", f"{self.crps:.4f} -> {after.crps:.4f}"),
            *covered,
        ]

    def figures(self) -> dict[str, float]:
        """``rmse``, ``nll``, ``crps``, and ``coverage_50`` and so on for every level of tables."""
        covered = {f"coverage_{100 * level:g}": self.coverage(level) for level in LEVELS}
        return {"rmse": self.rmse, "nll": self.nll, "crps": self.crps} | covered

    def scaled(self, scale: float) -> RegressionQuality:
        """The same in another unit of the targets, of which one is ``scale`` of the new.

        >>> one = RegressionQuality(1.0, 1.4, 0.6, torch.zeros(3), torch.zeros(3))
        >>> one.scaled(2.0).rmse
        2.0
        """
        shift = math.log(scale)
        return RegressionQuality(
            scale * self.rmse,
            self.nll + shift,
            scale * self.crps,
            self.log_density - shift,
            self.pit,
        )


def regression_quality(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    draws: int = 100,
    seed: int = 0,
    batch_size: int = 1000,
) -> RegressionQuality:
    r"""RMSE, negative log likelihood, CRPS and PIT of the posterior predictive distribution.

    .. math:: p(y \mid x) = \frac{1}{S} \sum_{s=1}^{S} p(y \mid x, w_s), \; w_s \sim q, \qquad
              \mathrm{CRPS} = E|Y - y| - \tfrac{1}{2} E|Y - Y'|, \; Y, Y' \sim p(\cdot \mid x)

    RMSE is of the mean over the draws of the likelihood's mean. The CRPS (without bias) and the PIT
    (the rank of the target among new data, ties at random) are from one new datum a draw. RMSE and
    CRPS are means over all targets, the likelihood is of a datum with all its targets.

    model: a Pyro model that observes values at one site, such as ``regressor``.
    guide: what draws its latent variables. Where it draws none, one run of the network serves all S
           new data.
    data:  as for ``pyrosparse.evidence.elbo``.
    draws: S; with few, the negative log likelihood is too high.
    seed:  of everything random; the caller's generators are left alone.

    Raises ValueError if the model observes several sites, labels, or data of which some are
    masked; if there are no data, and as ``pyrosparse.evidence.elbo`` does.

    Source: Gneiting and Raftery (2007), "Strictly proper scoring rules, prediction, and
    estimation", eq. 21, by ``scoringrules``.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 1), ps.Gaussian(posterior="normal"))
    >>> data = (torch.randn(10, 4), torch.randn(10, 1))
    >>> regression_quality(ps.regressor(bnn, 10, noise=1.0), bnn.guide, data).pit.shape
    torch.Size([10, 1])
    """
    if draws < 2:
        raise ValueError(f"draws must be 2 or more, got {draws}")
    data = Repeated.of(data)
    means, densities, replicated = [], [], []
    with (
        generators_left_alone(),
        torch.no_grad(),
        evaluation_mode(model, guide),
        poutine.block(),
    ):
        for number in range(draws):
            torch.manual_seed(seed * 1_000_003 + number)
            latents, parts = None, []
            for batch in data.minibatches(batch_size, model):
                latents = latents or Latents(model, guide, batch)
                site = _values(latents.on(batch), latents.local)
                random = bool(sample_sites(latents.trace, observed=False))
                new = site["fn"].sample(torch.Size([1 if random else draws])).movedim(0, 1)
                found = (site["fn"].mean, log_density(site), new, site["value"])
                parts.append(tuple(tensor.double().cpu() for tensor in found))
            if not parts:
                raise ValueError("there are no data to predict")
            mean, density, new, y = (torch.cat(column) for column in zip(*parts, strict=True))
            means.append(mean)
            densities.append(density)
            replicated.append(new.movedim(1, 0))
            if not random:
                break
        mean = torch.stack(means).mean(0)
        density = torch.stack(densities).logsumexp(0) - math.log(len(densities))
        new = torch.cat(replicated)
        pit = _pit(new, y)
    rmse = float((mean - y).square().mean().sqrt())
    return RegressionQuality(rmse, -float(density.mean()), float(_crps(new, y)), density, pit)


def predicts_values(fn: Any) -> bool:
    """Whether a distribution is over values that can be above or below one another: not over
    labels.

    >>> import pyro.distributions as dist
    >>> predicts_values(dist.Poisson(torch.ones(3, 1)).to_event(1))
    True
    >>> predicts_values(dist.Categorical(torch.ones(3, 2)))
    False
    >>> predicts_values(dist.Unit(torch.zeros(3)))
    False
    """
    while hasattr(fn, "reinterpreted_batch_ndims"):
        fn = fn.base_dist
    if fn.has_enumerate_support:
        return False
    try:
        return isinstance(fn.mean, Tensor)
    except (NotImplementedError, AttributeError):  # of pyro.factor, of a flow: only a density
        return False


def _values(trace: poutine.Trace, local: list[str]) -> Any:
    sites = observed_sites(trace)
    if len(sites) > 1:
        names = ", ".join(site["name"] for site in sites)
        raise ValueError(
            f"the model observes several sites, {names}, but only one is supported: "
            "use a model with one observed site"
        )
    (site,) = sites
    if not predicts_values(site["fn"]):
        raise ValueError(
            f"{site['name']!r} is of {type(site['fn']).__name__}: regression needs numbers, not "
            "labels. For classes use predictive_quality"
        )
    if not known_elements(site).all():
        raise ValueError(f"some data of {site['name']!r} are masked: leave them out")
    if local:
        raise ValueError(
            f"{', '.join(local)} are latent variables of single data. The guide has seen the "
            "datum for which it draws, so its draws are not predictions. Sum these variables out "
            "in the model"
        )
    return site


def _pit(new: Tensor, y: Tensor) -> Tensor:
    """The ranks of the targets among new data, as probabilities, ties broken at random."""
    below = (new < y).double().sum(0)
    ties = (new == y).double().sum(0)
    rank = below + torch.rand(y.shape, dtype=torch.float64) * (ties + 1)
    return rank / (len(new) + 1)


def _crps(new: Tensor, y: Tensor) -> float:
    # Late: only regression needs it. By probability-weighted moments: without bias, and S log S.
    import scoringrules

    values = scoringrules.crps_ensemble(
        y.numpy(), new.movedim(0, -1).numpy(), estimator="pwm", backend="numpy"
    )
    return float(values.mean())
