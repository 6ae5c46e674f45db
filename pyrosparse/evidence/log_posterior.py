"""The log posterior at a point, and the Bayes factor between two points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pyrosparse.evidence.improper import improper_priors, refuse_improper
from pyrosparse.evidence.latents import refuse_local
from pyrosparse.evidence.repeated import minibatches
from pyrosparse.evidence.sites import known_data, log_prob_sum, observed_sites
from pyrosparse.evidence.traces import evaluation_mode, trace_at_mean
from pyrosparse.util.generators import generators_left_alone


@dataclass(frozen=True)
class LogPosterior:
    """The unnormalised log posterior at a point, in nats, in its two parts.

    likelihood: log p(D | w), summed over the data.
    prior:      log p(w), summed over the weights.
    n:          the number of data with at least one observed value.
    improper:   the names of the improper priors, whose constants are arbitrary.
    """

    likelihood: float
    prior: float
    n: int
    improper: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """log p(D | w) + log p(w), nats."""
        return self.likelihood + self.prior

    @property
    def likelihood_per_datum(self) -> float:
        """log p(D | w) / n, nats."""
        return self.likelihood / self.n

    def __repr__(self) -> str:
        constant = f", but for the constant of {', '.join(self.improper)}" if self.improper else ""
        return (
            f"LogPosterior: {self.total:,.1f} nats, of which likelihood {self.likelihood:,.1f} "
            f"({self.likelihood_per_datum:.4f} a datum of {self.n:,}) and prior "
            f"{self.prior:,.1f}{constant}"
        )


@dataclass(frozen=True)
class BayesFactor:
    r"""A log Bayes factor in nats, with its two parts.

    .. math:: \log \mathrm{BF} = \Delta \log p(D \mid w) + \Delta \log p(w)

    likelihood: the change of the log likelihood, summed or per datum as requested.
    prior:      the change of the log prior.
    n:          the number of data.
    """

    likelihood: float
    prior: float
    n: int

    @property
    def total(self) -> float:
        """log BF, nats; positive if the second network is the better one."""
        return self.likelihood + self.prior

    @property
    def per_datum(self) -> float:
        """log BF / n, nats per datum."""
        return self.total / self.n

    def __repr__(self) -> str:
        return (
            f"BayesFactor: log BF {self.total:+.2f} nats, of which likelihood "
            f"{self.likelihood:+.2f} and prior {self.prior:+.2f}; {self.n:,} data"
        )


def log_posterior(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, *, batch_size: int = 256
) -> LogPosterior:
    r"""The log posterior of a model at the guide's mean.

    .. math:: \log p(w \mid D) = \log p(D \mid w) + \log p(w) - \log p(D), \quad w = E_q[w]

    The constant log p(D) is left out: it cancels in a Bayes factor. For a point guide the mean
    is the point. If ``model`` or ``guide`` belongs to a lifted network, that network is in
    evaluation mode for the call.

    model, guide: a Pyro program with a data plate, and its guide; any sites.
    data:         ``Examples``, a tuple of tensors or arrays with one datum a row, a dict of them, a
                  torch Dataset, or an iterable of batches (a DataLoader), as for ``fit``; the model
                  is called as ``model(*batch)``.
    batch_size:   the batch size, if data are not already batches.

    Masked data count neither in the two parts nor in n; scales (``poutine.scale``) are left out.
    The caller's random state does not change.

    Raises ValueError if there is no observed site, or a part is not finite; if the guide does not
    draw a latent site of the model; and if latent sites of single data come in several batches.

    Source: Mathew and Rowe (2023), section 2.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> log_posterior(ps.classifier(bnn, 10), bnn.guide, data).n
    10
    """
    likelihood, prior, n = 0.0, None, 0
    improper: tuple[str, ...] = ()
    with generators_left_alone(), torch.no_grad(), evaluation_mode(model, guide):
        for batch in minibatches(data, batch_size, model):
            trace = trace_at_mean(model, guide, batch)
            refuse_local(trace, len(batch[0]), first=prior is None)
            if prior is None:
                prior = log_prob_sum(trace, observed=False)
                improper = improper_priors(trace, model, guide)
            likelihood += log_prob_sum(trace, observed=True)
            known = [known_data(site, len(batch[0])) for site in observed_sites(trace)]
            n += int(torch.stack(known).any(0).sum())
    if prior is None:
        raise ValueError("there are no data to evaluate the log posterior on")
    for part, value in (("log likelihood", likelihood), ("log prior", prior)):
        if not torch.isfinite(torch.tensor(value)):
            raise ValueError(
                f"the {part} is {value}: check the weights and the data for NaN and infinity"
            )
    return LogPosterior(likelihood, prior, n, improper)


def log_bayes_factor(
    before: LogPosterior, after: LogPosterior, likelihood: Literal["sum", "mean"] = "sum"
) -> BayesFactor:
    r"""The log Bayes factor of two networks, in nats, from their log posteriors.

    .. math::
        \log \mathrm{BF} = [\log p(D|\phi) + \log p(\phi)] - [\log p(D|\psi) + \log p(\psi)]

    Positive if the network ``after``, phi, is the more probable one. The result stays in log space:
    the factor itself overflows float32 beyond 88 nats.

    likelihood: ``sum`` over the data (the log posterior), or ``mean``, which divides the
                likelihood's part by n and so gives the prior n times the weight.

    Raises ValueError if the two come from different numbers of data, if a prior is improper, and
    if ``likelihood`` is neither ``sum`` nor ``mean``.

    Source: Mathew and Rowe (2023), the Bayes factor of section 2.

    >>> log_bayes_factor(LogPosterior(-20.0, -5.0, 10), LogPosterior(-21.0, -3.0, 10)).total
    1.0
    """
    if likelihood not in ("sum", "mean"):
        raise ValueError(f"likelihood must be 'sum' or 'mean', got {likelihood!r}")
    if before.n != after.n:
        raise ValueError(f"the log posteriors are of different data: {before.n} and {after.n}")
    refuse_improper("a Bayes factor", (*before.improper, *after.improper))
    change = after.likelihood - before.likelihood
    if likelihood == "mean":
        change /= before.n
    return BayesFactor(change, after.prior - before.prior, before.n)
