"""Monte Carlo ELBOs with standard errors, and their differences on common random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.evidence.batches import prepared
from pyrosparse.evidence.improper import improper_priors, refuse_improper
from pyrosparse.evidence.latents import Latents
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.evidence.sites import log_prob_sum
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.util.generators import generators_left_alone


@dataclass(frozen=True)
class ElboEstimate:
    """A Monte Carlo estimate in nats.

    draws:    one estimate for each draw of the guide, (draws,) float64, nats, on all data.
    improper: the names of the improper priors, whose constants are arbitrary.

    >>> ElboEstimate(torch.tensor([-12.0, -10.0]))
    ElboEstimate: -11.0 +- 1 nats from 2 draws
    """

    draws: Tensor
    improper: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """The estimate, nats."""
        return float(self.draws.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, nats; 0 for a point guide."""
        return float(self.draws.std()) / math.sqrt(len(self.draws))

    def __repr__(self) -> str:
        return (
            f"ElboEstimate: {self.mean:,.1f} +- {self.standard_error:.2g} nats from "
            f"{len(self.draws)} draws{_but_for_constants(self.improper)}"
        )


def elbo(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 1000,
    subset: int | None = None,
) -> ElboEstimate:
    r"""The ELBO of a guide on all data, estimated by Monte Carlo.

    .. math:: E_q[\log p(D \mid w) + \log p(w) - \log q(w)]

    Calls with the same seed use the same random numbers for draw s, whatever the guide's
    parameters: the difference of two estimates is far more precise than either. The network is in
    evaluation mode, and one draw of all latent sites serves all data. Masked data do not count, and
    scales (``poutine.scale``) are left out. The caller's random state does not change.

    model, guide, data, batch_size: as for ``log_posterior``. A loader may shuffle: all draws are
                      scored on the same data.
    draws:            draws of the guide; at least 2 for a standard error.
    subset:           number of data for each draw, sampled without replacement, with their
                      likelihood scaled up to all data; by default all. It allows more draws for the
                      same work, which is more precise if most of the variance is between draws. The
                      estimate is unbiased, and its standard error includes both sources of
                      variance. The data must be tensors.

    Raises ValueError if ``draws`` is less than 2, or an estimate is not finite; if ``subset`` is
    given for data that are not tensors; if guide and model differ in their latent sites; if latent
    sites of single data come in several batches; and if the data change when they are read again.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> elbo(ps.classifier(bnn, 10), bnn.guide, data, draws=4).draws.shape
    torch.Size([4])
    """
    if draws < 2:
        raise ValueError(f"a standard error needs at least 2 draws, got {draws}")
    values = torch.zeros(draws, dtype=torch.float64)
    whole = Repeated.of(data)
    with generators_left_alone(), torch.no_grad(), evaluation_mode(model, guide):
        for draw in range(draws):
            torch.manual_seed(seed * 1_000_003 + draw)
            part, scale = (
                (whole, 1.0) if subset is None else _subset(prepared(whole.data, model), subset)
            )
            with poutine.block():
                latents = None
                for batch in part.minibatches(batch_size, model):
                    latents = latents or Latents(model, guide, batch)
                    trace = latents.on(batch)
                    values[draw] += scale * log_prob_sum(trace, observed=True)
                if latents is None:
                    raise ValueError("there are no data to evaluate the ELBO on")
                values[draw] += log_prob_sum(trace, observed=False)
                values[draw] -= log_prob_sum(latents.trace, observed=False)
    if not values.isfinite().all():
        raise ValueError(f"draws of the ELBO are not finite: {values.tolist()}")
    return ElboEstimate(values, improper_priors(trace, model, guide))


def elbo_difference(before: ElboEstimate, after: ElboEstimate) -> ElboEstimate:
    r"""The difference of two ELBOs, draw by draw: an estimate of a log Bayes factor, in nats.

    .. math:: \log \mathrm{BF} \approx \mathrm{ELBO}(\text{after}) - \mathrm{ELBO}(\text{before})

    Both must come from ``elbo`` with the same seed, draws and data: the random numbers then cancel.
    It equals the log Bayes factor if both guides are equally close to their posteriors.

    Raises ValueError if the numbers of draws differ, and if a prior is improper.

    >>> import torch
    >>> first = ElboEstimate(torch.tensor([1.0, 2.0]))
    >>> elbo_difference(first, ElboEstimate(torch.tensor([1.5, 2.5]))).standard_error
    0.0
    """
    if len(before.draws) != len(after.draws):
        raise ValueError(
            f"the estimates have {len(before.draws)} and {len(after.draws)} draws, but common "
            "random numbers need the same number: use the same draws= for both"
        )
    refuse_improper("a difference of ELBOs", (*before.improper, *after.improper))
    return ElboEstimate(after.draws - before.draws)


def _subset(data: Any, size: int) -> tuple[Repeated, float]:
    """A random subset of the data, drawn by torch's generator, and the number of all data over the
    number in the subset."""
    if size < 1:
        raise ValueError(f"subset must be 1 or more, got {size}")
    if isinstance(data, tuple):
        index = torch.randperm(len(data[0]))[:size]
        part: Any = tuple(tensor[index.to(tensor.device)] for tensor in data)
    elif hasattr(data, "subset"):
        index = torch.randperm(len(data))[:size]
        part = data.subset(index)
    else:
        raise ValueError(
            "only tensors can be subsampled: give Examples or a tuple of tensors, or leave subset "
            "out"
        )
    return Repeated(part), (len(data[0]) if isinstance(data, tuple) else len(data)) / len(index)


def _but_for_constants(improper: tuple[str, ...]) -> str:
    return f", but for the constant of improper priors ({', '.join(improper)})" if improper else ""
