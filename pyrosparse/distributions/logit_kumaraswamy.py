"""The Kumaraswamy distribution on the scale of log odds, for Pyro sites."""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, kl_divergence
from torch.distributions.kl import register_kl
from torch.nn import functional

from pyrosparse.distributions.kumaraswamy import Kumaraswamy, Shape, _inside
from pyrosparse.distributions.surprisal import (
    log_surprisal_of_logit,
    logit_of_log_surprisal,
    surprisal_of_opposite,
)


class LogitKumaraswamy(TorchDistribution):
    r"""The law of the log odds of a Kumaraswamy probability.

    .. math::
        \ell = \log \frac{\pi}{1 - \pi}, \quad \pi \sim \mathrm{Kumaraswamy}(a, b): \qquad
        q(\ell) = a b\, \pi^a (1 - \pi^a)^{b - 1} (1 - \pi)

    A Pyro site keeps its value, and pi itself is mostly 0 in float32 where sparsity is learned.
    Its log odds are an ordinary number there (about -1 / a), with a gradient and a finite log
    density, and they are what a relaxed Bernoulli takes. KL divergences do not change with the
    scale: that to ``LogitKumaraswamy(alpha, 1)``, the prior Beta(alpha, 1), is in closed form.

    a, b, log_a, log_b, and what is raised: as of ``Kumaraswamy``, which is the attribute
    ``base``. Values are real, of the parameters' dtype.

    >>> import pyro, torch
    >>> prior = LogitKumaraswamy(1e-4, 1).expand([500]).to_event(1)
    >>> guide = LogitKumaraswamy(log_a=torch.zeros(500), log_b=torch.zeros(500)).to_event(1)
    >>> torch.distributions.kl_divergence(guide, prior) / 500
    tensor(8.2104)
    >>> prior.log_prob(prior.sample()).isfinite()
    tensor(True)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real
    has_rsample = True

    def __init__(
        self,
        a: float | Tensor | None = None,
        b: float | Tensor | None = None,
        *,
        log_a: float | Tensor | None = None,
        log_b: float | Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.base = Kumaraswamy(a, b, log_a=log_a, log_b=log_b, validate_args=validate_args)
        super().__init__(self.base.batch_shape, validate_args=validate_args)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws with gradients, (*sample_shape, *batch_shape)."""
        return self.base.logit_rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density at the log odds in nats, the shapes of value and batch broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        log_a, log_b = self.base._log_a, self.base._log_b
        wide = value.to(log_a.dtype)
        log_surprisal = log_surprisal_of_logit(wide)
        result = (
            log_a
            + log_b
            - (log_a + log_surprisal).exp()
            + (1 - log_b.exp()) * surprisal_of_opposite(log_a + log_surprisal)
            + functional.logsigmoid(-wide)
        )
        return result.to(self.base._dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a draw below the value; broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        log_a, log_b = self.base._log_a, self.base._log_b
        opposite = surprisal_of_opposite(log_a + log_surprisal_of_logit(value.to(log_a.dtype)))
        return -torch.expm1(-log_b.exp() * opposite).to(self.base._dtype)

    def icdf(self, value: Tensor) -> Tensor:
        """The log odds at a quantile, a probability in [0, 1]; broadcast."""
        wide = value.to(self.base._log_a.dtype)
        result = logit_of_log_surprisal(self.base._quantile(_inside(wide)))
        result = result.masked_fill(wide <= 0, -torch.inf).masked_fill(wide >= 1, torch.inf)
        return result.to(self.base._dtype)

    @property
    def mean(self) -> Tensor:
        """E[logit pi], the batch shape; the log odds of E[pi] are ``base.logit_mean``."""
        return (self.base._mean_log() - self.base._mean_log_opposite()).to(self.base._dtype)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        new = self._get_checked_instance(LogitKumaraswamy, _instance)
        new.base = self.base.expand(batch_shape)
        super(LogitKumaraswamy, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new


@register_kl(LogitKumaraswamy, LogitKumaraswamy)
def _kl_logit_kumaraswamy(q: LogitKumaraswamy, p: LogitKumaraswamy) -> Tensor:
    return kl_divergence(q.base, p.base)
