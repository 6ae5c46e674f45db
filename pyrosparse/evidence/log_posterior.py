"""The log posterior at a point, and the Bayes factor between two points."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pyro.poutine as poutine
import torch
from pyro.distributions import TransformedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

Batches = Iterable[tuple[Tensor, ...]]


@dataclass(frozen=True)
class LogPosterior:
    """The unnormalised log posterior at a point, in nats, in its two parts.

    likelihood: log p(D | w), summed over the data.
    prior:      log p(w), summed over the weights.
    n:          the number of data.
    """

    likelihood: float
    prior: float
    n: int

    @property
    def total(self) -> float:
        """log p(D | w) + log p(w), nats."""
        return self.likelihood + self.prior

    @property
    def likelihood_per_datum(self) -> float:
        """log p(D | w) / n, nats."""
        return self.likelihood / self.n


@dataclass(frozen=True)
class BayesFactor:
    r"""A log Bayes factor in nats, with its two parts.

    .. math:: \log \mathrm{BF} = \Delta \log p(D \mid w) + \Delta \log p(w)

    likelihood: the change of the log likelihood, summed or per datum as asked for.
    prior:      the change of the log prior.
    n:          the number of data.
    """

    likelihood: float
    prior: float
    n: int

    @property
    def total(self) -> float:
        """log BF, nats; positive where the second network is the better one."""
        return self.likelihood + self.prior

    @property
    def per_datum(self) -> float:
        """log BF / n, nats per datum."""
        return self.total / self.n


def log_posterior(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, *, batch_size: int = 1000
) -> LogPosterior:
    r"""The log posterior of a model at the guide's mean.

    .. math:: \log p(w \mid D) = \log p(D \mid w) + \log p(w) - \log p(D), \quad w = E_q[w]

    The constant log p(D) is left out: it cancels in a Bayes factor. For a point guide the mean
    is the point. The network is in evaluation mode for the call where ``model`` or ``guide``
    belongs to a lifted one.

    model, guide: a Pyro program with a data plate, and its guide; any sites.
    data:         ``Examples``, a tuple of tensors with one datum a row, or an iterable of batches
                  (a DataLoader); each batch is passed on as ``model(*batch)``.
    batch_size:   data taken at a time, where data are tensors.

    Raises ValueError when there is no observed site, or a part is not finite.

    Source: Mathew and Rowe (2023), section 2.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> log_posterior(ps.classifier(bnn, 10), bnn.guide, data).n
    10
    """
    likelihood, prior, n = 0.0, None, 0
    with torch.no_grad(), evaluation_mode(model, guide):
        for batch in batches(data, batch_size):
            trace = trace_at_mean(model, guide, batch)
            if prior is None:
                prior = log_prob_sum(trace, observed=False)
            likelihood += log_prob_sum(trace, observed=True)
            n += len(batch[0])
    if prior is None:
        raise ValueError("there are no data to evaluate the log posterior on")
    for part, value in (("log likelihood", likelihood), ("log prior", prior)):
        if not torch.isfinite(torch.tensor(value)):
            raise ValueError(f"the {part} is {value}: the weights or the data are not finite")
    return LogPosterior(likelihood, prior, n)


def log_bayes_factor(
    before: LogPosterior, after: LogPosterior, likelihood: Literal["sum", "mean"] = "sum"
) -> BayesFactor:
    r"""The log Bayes factor of two networks, in nats, from their log posteriors.

    .. math::
        \log \mathrm{BF} = [\log p(D|\phi) + \log p(\phi)] - [\log p(D|\psi) + \log p(\psi)]

    Positive where the network ``after``, phi, is the more probable one. Always in log space: the
    factor itself overflows float32 beyond 88 nats.

    likelihood: ``sum`` over the data (the posterior proper), or ``mean``, which divides the
                likelihood's part by n and so gives the prior n times the weight.

    Raises ValueError when the two were taken on different numbers of data.

    Source: Mathew and Rowe (2023), the Bayes factor of section 2.

    >>> log_bayes_factor(LogPosterior(-20.0, -5.0, 10), LogPosterior(-21.0, -3.0, 10)).total
    1.0
    """
    if likelihood not in ("sum", "mean"):
        raise ValueError(f"likelihood must be 'sum' or 'mean', got {likelihood!r}")
    if before.n != after.n:
        raise ValueError(f"the log posteriors are of different data: {before.n} and {after.n}")
    change = after.likelihood - before.likelihood
    if likelihood == "mean":
        change /= before.n
    return BayesFactor(change, after.prior - before.prior, before.n)


class _AtMean(Messenger):
    """Give latent sites the mean of their distribution instead of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if (
            msg["is_observed"]
            or msg["value"] is not None
            or type(msg["fn"]).__name__ == "_Subsample"
        ):
            return
        msg["value"] = _mean(msg["fn"])
        msg["done"] = True


def _mean(fn: Any) -> Tensor:
    while hasattr(fn, "reinterpreted_batch_ndims"):
        fn = fn.base_dist
    if isinstance(fn, TransformedDistribution):
        # The image of the base's mean: the median, for a monotone transform of a normal.
        value = fn.base_dist.mean
        for transform in fn.transforms:
            value = transform(value)
        return value
    return fn.mean


def trace_at_mean(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Tensor, ...]
) -> poutine.Trace:
    # Blocked, so that a handler around this call (or a training step) sees none of it.
    with poutine.block(), _AtMean():
        guide_trace = poutine.trace(guide).get_trace(*batch)
    with poutine.block():
        trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    trace.compute_log_prob()
    return trace


def sample_sites(trace: poutine.Trace, observed: bool) -> list[Any]:
    """The observed or the latent sites of a trace; a plate's indices are neither."""
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample"
        and site["is_observed"] == observed
        and type(site["fn"]).__name__ != "_Subsample"
    ]


def log_prob_sum(trace: poutine.Trace, observed: bool) -> float:
    """The unscaled log density of a trace's observed or latent sites, summed in float64, nats."""
    sites = sample_sites(trace, observed)
    if observed and not sites:
        raise ValueError("the model observes nothing: pass it the data it conditions on")
    # Unscaled: a plate that subsamples would multiply each batch up to the whole data set.
    return sum(float(site["unscaled_log_prob"].sum(dtype=torch.float64)) for site in sites)


def batches(data: Any, size: int) -> Batches:
    """Minibatches in order from ``Examples``, a tuple of tensors, or an iterable of batches."""
    if hasattr(data, "batches"):
        yield from data.batches(size)
    elif isinstance(data, tuple):
        for start in range(0, len(data[0]), size):
            yield tuple(tensor[start : start + size] for tensor in data)
    else:
        yield from data


class evaluation_mode:
    """Put the modules among the given callables in evaluation mode for a block."""

    def __init__(self, *callables: Any) -> None:
        self.modules = modules(*callables)

    def __enter__(self) -> None:
        self._training = [
            [(module, module.training) for module in root.modules()] for root in self.modules
        ]
        for module in self.modules:
            module.eval()

    def __exit__(self, *exception: object) -> None:
        for states in self._training:
            for module, training in states:
                module.training = training


def modules(*callables: Any) -> list[torch.nn.Module]:
    """The torch modules among the given callables, each once.

    A ready model (``classifier``, ``regressor``) counts through its ``network``, the guide of a
    lifted network through that network.
    """
    found: list[torch.nn.Module] = []
    for one in callables:
        module = getattr(one, "lifted", getattr(one, "network", one))
        if isinstance(module, torch.nn.Module) and not any(module is other for other in found):
            found.append(module)
    return found
