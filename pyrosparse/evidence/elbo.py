"""ELBOs by Monte Carlo with a standard error, and their differences on common random numbers."""

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


@dataclass(frozen=True)
class ElboEstimate:
    """A Monte Carlo estimate in nats.

    draws:    one estimate a draw of the guide, (draws,) float64, nats, on all data.
    improper: the names of what has an improper prior, whose constant is arbitrary.

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
    r"""The ELBO of a guide on all data, by Monte Carlo.

    .. math:: E_q[\log p(D \mid w) + \log p(w) - \log q(w)]

    Draw s of every call with one seed uses the same random numbers, whatever the guide's
    parameters: the difference of two estimates is far more precise than either. In evaluation
    mode, one draw of all latent sites serves all data. Masked data do not count, and scales
    (``poutine.scale``) are left out. The caller's random state is left alone.

    model, guide, data, batch_size: as for ``log_posterior``. A loader may shuffle: all draws are
                      scored on the same data.
    draws:            draws of the guide; at least 2 for a standard error.
    subset:           take so many data at random for each draw, without replacement, and scale
                      their likelihood up to all: more draws for the same work, which is more
                      precise where it is the draws that differ. The estimate has no bias, and its
                      standard error counts both. For data that are tensors; all by default.

    Raises ValueError when fewer than 2 draws are asked for, or one is not finite; where data
    that are not tensors are to be subsampled; where guide and model differ in their latent sites;
    where latent sites of single data come in several batches; and where the data are others when
    they are gone through again.

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
    with torch.random.fork_rng(devices=_devices()), torch.no_grad(), evaluation_mode(model, guide):
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
    r"""The difference of two ELBOs, draw by draw: a log Bayes factor's estimate, in nats.

    .. math:: \log \mathrm{BF} \approx \mathrm{ELBO}(\text{after}) - \mathrm{ELBO}(\text{before})

    Both must come from ``elbo`` with the same seed, draws and data: the random numbers then cancel.
    It equals the log Bayes factor as far as both guides are equally close to their posteriors.

    Raises ValueError when the numbers of draws differ, and where a prior is improper.

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
    """Some of the data, drawn by torch's generator, and how many times as many there are."""
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


def _devices() -> list[int]:
    return list(range(torch.cuda.device_count()))
