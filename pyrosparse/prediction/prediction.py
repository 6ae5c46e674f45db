"""What a posterior predicts: moments, probabilities, and where the uncertainty comes from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class Prediction(ABC):
    """What a network predicts for n data, from S draws of its posterior; a network without a
    posterior has one."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The mean of the predictive distribution."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """The variance of the predictive distribution."""

    @property
    @abstractmethod
    def total(self) -> Tensor:
        """All uncertainty about a new datum."""

    @property
    @abstractmethod
    def aleatoric(self) -> Tensor:
        """The part of it that would be left if the weights were known."""

    @property
    @abstractmethod
    def epistemic(self) -> Tensor:
        """The part of it that more data would take away: total minus aleatoric."""

    @abstractmethod
    def quantiles(self, levels: Sequence[float] = (0.05, 0.5, 0.95)) -> Tensor:
        """Quantiles, with the levels first."""


@dataclass(frozen=True, repr=False)
class ClassPrediction(Prediction):
    r"""Class probabilities of n data under S draws of the weights.

    Data may have one label, or one at each of several positions, such as the pixels of an image.

    .. math:: p_{ic} = \frac1S \sum_s p_{ic}^{(s)}, \qquad
        \underbrace{H[p_i]}_{\text{total}} =
        \underbrace{\textstyle\frac1S \sum_s H[p_i^{(s)}]}_{\text{aleatoric}} +
        \underbrace{I[y_i; w]}_{\text{epistemic}}, \qquad
        H[p] = -\sum_c p_c \log p_c

    log_probabilities: of every draw, (S, n, ..., classes) float64, nats.

    Sources: Depeweg et al. (2018), "Decomposition of uncertainty in Bayesian deep learning for
    efficient and risk-sensitive learning", eqs. 3 and 4.

    >>> sure = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log()  # two draws that disagree
    >>> found = ClassPrediction(sure)
    >>> found.probabilities, found.aleatoric, found.epistemic.exp()
    (tensor([[0.5000, 0.5000]]), tensor([0.]), tensor([2.]))
    """

    log_probabilities: Tensor

    def __len__(self) -> int:
        return self.log_probabilities.shape[1]

    @property
    def probabilities(self) -> Tensor:
        """The predictive probabilities, (n, ..., classes)."""
        return self.log_probabilities.exp().mean(0)

    @property
    def classes(self) -> Tensor:
        """The most probable classes, (n, ...) int64."""
        return self.probabilities.argmax(-1)

    @property
    def mean(self) -> Tensor:
        """The mean of the class as a vector of zeros and a one, which are the probabilities,
        (n, ..., classes)."""
        return self.probabilities

    @property
    def variance(self) -> Tensor:
        """The variance of each entry of that vector, p (1 - p), (n, ..., classes)."""
        return self.probabilities * (1 - self.probabilities)

    def quantiles(self, levels: Sequence[float] = (0.05, 0.5, 0.95)) -> Tensor:
        """Quantiles of the class probabilities over the draws of the weights,
        (levels, n, ..., classes).

        Raises ValueError on levels outside of [0, 1]."""
        return torch.quantile(self.log_probabilities.exp(), _levels(levels), dim=0)

    @property
    def total(self) -> Tensor:
        """The entropy of the predictive probabilities, (n, ...), nats."""
        return torch.special.entr(self.probabilities).sum(-1)

    @property
    def aleatoric(self) -> Tensor:
        """The mean entropy of the draws' probabilities, (n, ...), nats."""
        return torch.special.entr(self.log_probabilities.exp()).sum(-1).mean(0)

    @property
    def epistemic(self) -> Tensor:
        """The mutual information of class and weights, (n, ...), nats, not negative."""
        return (self.total - self.aleatoric).clamp_min(0.0)

    def __repr__(self) -> str:
        draws, n, *positions, classes = self.log_probabilities.shape
        each = f" of {' x '.join(map(str, positions))} labels" if positions else ""
        return (
            f"ClassPrediction of {n} data{each} in {classes} classes from {_draws(draws)}: "
            f"uncertainty {_mean(self.total)} nats, epistemic {_mean(self.epistemic)} nats"
        )


@dataclass(frozen=True, repr=False)
class RealPrediction(Prediction):
    r"""Predictive distributions of real targets: a mixture over S draws of the weights.

    .. math:: E[y] = \frac1S \sum_s m_s, \qquad
        \underbrace{\mathrm{Var}[y]}_{\text{total}} =
        \underbrace{\textstyle\frac1S \sum_s v_s}_{\text{aleatoric}} +
        \underbrace{\textstyle\frac1S \sum_s (m_s - E[y])^2}_{\text{epistemic}}

    with :math:`m_s` and :math:`v_s` the mean and variance of draw s. All uncertainties are
    variances, in squared units of the targets.

    means, variances: of every draw, (S, n, ...) float64.
    laws: the distributions behind them, one list of S for each batch of data, in order.

    >>> import pyro.distributions as dist
    >>> means = torch.tensor([[-1.0], [1.0]])
    >>> two = RealPrediction(means, torch.ones(2, 1), [[dist.Normal(m, 1.0) for m in means]])
    >>> two.mean, two.variance, two.epistemic
    (tensor([0.]), tensor([2.]), tensor([1.]))
    """

    means: Tensor
    variances: Tensor
    laws: list[list[Any]]

    def __len__(self) -> int:
        return self.means.shape[1]

    @property
    def mean(self) -> Tensor:
        """The predictive mean, (n, ...)."""
        return self.means.mean(0)

    @property
    def variance(self) -> Tensor:
        """The predictive variance, (n, ...)."""
        return self.aleatoric + self.epistemic

    @property
    def total(self) -> Tensor:
        """The predictive variance, (n, ...)."""
        return self.variance

    @property
    def aleatoric(self) -> Tensor:
        """The mean variance of the draws, (n, ...): that of the noise."""
        return self.variances.mean(0)

    @property
    def epistemic(self) -> Tensor:
        """The variance of the draws' means, (n, ...)."""
        return self.means.var(0, correction=0)

    def cdf(self, y: Tensor) -> Tensor:
        """The predictive distribution function at y, (..., n, ...), elementwise.

        Raises ValueError if the likelihood has none."""
        return self._cdf([_mixture_cdf(laws) for laws in self.laws], y)

    def _cdf(self, functions: list[Callable[[Tensor], Tensor]], y: Tensor) -> Tensor:
        axis = y.dim() - self.means.dim() + 1
        parts = y.split([len(laws[0].mean) for laws in self.laws], axis)
        found = [function(part) for function, part in zip(functions, parts, strict=True)]
        return torch.cat(found, axis)

    def quantiles(self, levels: Sequence[float] = (0.05, 0.5, 0.95)) -> Tensor:
        """Quantiles of the predictive distribution, elementwise, (levels, n, ...), by bisection.

        Raises ValueError on levels outside of (0, 1), and if the likelihood has no
        distribution function."""
        wanted = _levels(levels)
        if not ((wanted > 0) & (wanted < 1)).all():
            raise ValueError(f"levels are probabilities in (0, 1), got {list(levels)}")
        wanted = wanted.view(-1, *[1] * (self.means.dim() - 1))
        # Chebyshev: beyond so many deviations there is less than the level.
        widest = (1 / torch.minimum(wanted, 1 - wanted)).sqrt() + 1
        reach = widest * self.variance.sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        low, high = self.mean - reach, self.mean + reach
        functions = [_mixture_cdf(laws) for laws in self.laws]
        for _ in range(50):
            middle = (low + high) / 2
            below = self._cdf(functions, middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def __repr__(self) -> str:
        draws, n = self.means.shape[:2]
        return (
            f"RealPrediction of {n} data from {_draws(draws)}: standard deviation "
            f"{_mean(self.variance.sqrt())}, epistemic {_mean(self.epistemic.sqrt())}"
        )


def mixed(parts: Sequence[Prediction]) -> Prediction:
    """The equal mixture of several predictions of the same data, from equally many draws each.

    Raises ValueError if they are not such.

    >>> parts = [ClassPrediction(torch.tensor([[[p, 1 - p]]]).log()) for p in (0.25, 0.75)]
    >>> mixed(parts).probabilities
    tensor([[0.5000, 0.5000]])
    """
    if all(isinstance(part, ClassPrediction) for part in parts):
        logs = [part.log_probabilities for part in parts]  # type: ignore[attr-defined]
        if len({one.shape for one in logs}) == 1:
            return ClassPrediction(torch.cat(logs))
    elif all(isinstance(part, RealPrediction) for part in parts):
        reals: list[Any] = list(parts)
        if len({part.means.shape for part in reals}) == 1:
            laws = [
                [law for batch in batches for law in batch]
                for batches in zip(*(part.laws for part in reals), strict=True)
            ]
            means, variances = (
                torch.cat([getattr(part, key) for part in reals]) for key in ("means", "variances")
            )
            return RealPrediction(means, variances, laws)
    raise ValueError("predictions to be mixed must have the same kind, shape and number of draws")


def _mixture_cdf(laws: list[Any]) -> Callable[[Tensor], Tensor]:
    """The mean of the distribution functions of laws, (n, ...) each, at y, (..., n, ...)."""
    bases = []
    for law in laws:
        while hasattr(law, "reinterpreted_batch_ndims"):
            law = law.base_dist
        bases.append(law)
    kind, shape = type(bases[0]), bases[0].mean.shape
    parameters = {
        name: [getattr(one, name) for one in bases]
        for name in kind.arg_constraints
        if all(type(one) is kind and name in vars(one) for one in bases)
    }

    def one_by_one(y: Tensor) -> Tensor:
        return torch.stack([_cdf(one, y) for one in bases]).mean(0)

    def together(y: Tensor) -> Tensor:
        between = [1] * (y.dim() - len(shape))
        law = kind(
            **{k: torch.stack(v).view(-1, *between, *shape) for k, v in parameters.items()},
            validate_args=False,
        )
        return _cdf(law, y).mean(0)

    same = parameters and all(t.shape == shape for v in parameters.values() for t in v)
    return together if same else one_by_one


def _cdf(law: Any, y: Tensor) -> Tensor:
    try:
        found: Tensor = law.cdf(y.to(law.mean)).double().cpu()
    except NotImplementedError as error:
        raise ValueError(
            f"{type(law).__name__} has no cumulative distribution function, so quantiles are not "
            "known: use mean and variance, or a likelihood that has one, such as Normal"
        ) from error
    return found


def _levels(levels: Sequence[float]) -> Tensor:
    wanted = torch.tensor(list(levels), dtype=torch.float64)
    if wanted.dim() != 1 or not len(wanted) or not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError(f"levels are probabilities in [0, 1], got {list(levels)}")
    return wanted


def _draws(count: int) -> str:
    return f"{count} draws" if count > 1 else "one network"


def _mean(values: Tensor) -> str:
    """The mean over data with its standard error."""
    count = values.numel()
    error = float(values.double().std()) / math.sqrt(count) if count > 1 else math.nan
    spread = f" +- {error:.2g}" if math.isfinite(error) else ""
    return f"{float(values.double().mean()):.3g}{spread}"
