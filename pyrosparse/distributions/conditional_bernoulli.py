"""Independent switches given how many of them are on."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from pyrosparse.distributions import gibbs_ops
from pyrosparse.distributions.symmetric_polynomials import draw, tables

Shape = Size | list[int] | tuple[int, ...]


class ConditionalBernoulli(TorchDistribution):
    r"""Independent switches given how many of them are on.

    .. math::
        p(m) = \frac{\prod_i r_i^{m_i}}{e_k(r)}, \quad \sum_i m_i = k, \qquad
        P(m_i = 1) = r_i \, \frac{e_{k-1}(r_{\setminus i})}{e_k(r)}, \qquad r_i = e^{t_i}

    The elementary symmetric polynomial :math:`e_k` is the sum of the weights of all states with k
    on. All is exact, in O(n k) and in log space, and computed in float64. ``mean`` has no gradient.

    logits: t, (..., n), floating: the last dimension is the event, the others the batch.
    count:  k, how many are on, from 0 to n.

    Raises ValueError on logits or a count out of range.

    Source: Chen, Dempster and Liu (1994), section 2.

    >>> import torch
    >>> law = ConditionalBernoulli(torch.tensor([[9.0, 1.0, 1.0, -9.0]]), 2)
    >>> law.mean.round(decimals=2), law.sample().sum(-1)
    (tensor([[1.0000, 0.5000, 0.5000, 0.0000]]), tensor([2.]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits: Tensor, count: int, *, validate_args: bool | None = None) -> None:
        if not logits.is_floating_point() or not logits.dim():
            raise ValueError(
                f"logits must be floating, (..., n), got {logits.dtype} {tuple(logits.shape)}"
            )
        if not 0 <= count <= logits.shape[-1]:
            raise ValueError(f"count must be from 0 to {logits.shape[-1]}, got {count}")
        self.logits = logits
        self.count = count
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    @property
    def log_normalizer(self) -> Tensor:
        """log e_k(r), (...), nats."""
        return self._log_normalizer(self._t).to(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus infinity where another number is on."""
        if self._validate_args:
            self._validate_sample(value)
        t = self._t
        log_weight = (value.to(t) * t.movedim(0, -1)).sum(-1)
        possible = value.sum(-1) == self.count
        log_prob = log_weight - self._log_normalizer(t)
        return torch.where(possible, log_prob, -torch.inf).to(self.logits)

    @property
    def mean(self) -> Tensor:
        """P(m_i = 1), (..., n): the gradient of the log normaliser."""
        with torch.enable_grad():
            t = self._t.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._log_normalizer(t).sum(), t)
        return gradient.movedim(0, -1).to(self.logits)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    @property
    def mode(self) -> Tensor:
        """The most probable state, (..., n): those of the k largest logits; ties by position."""
        on = self.logits.topk(self.count, -1).indices
        return torch.zeros_like(self.logits).scatter(-1, on, 1.0)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            t = self.logits.double().expand(shape)
            uniforms = torch.rand(shape, dtype=torch.float64, device=t.device)
            if t.is_cpu:
                n = shape[-1]
                flat = t.reshape(-1, n), uniforms.view(-1, n)
                return gibbs_ops.fixed_count(*flat, self.count).view(shape).to(self.logits)
            return sample_by_tables(t, self.count, uniforms).to(self.logits)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> ConditionalBernoulli:
        logits = self.logits.expand(Size(batch_shape) + self.event_shape)
        expanded = ConditionalBernoulli(logits, self.count, validate_args=False)
        expanded._validate_args = self._validate_args
        return expanded

    @property
    def _t(self) -> Tensor:
        """The logits, with the event in the first dimension."""
        return self.logits.double().movedim(-1, 0)

    def _log_normalizer(self, t: Tensor) -> Tensor:
        return tables(t)[-1][self.count]


def sample_by_tables(logits: Tensor, count: int, uniforms: Tensor) -> Tensor:
    """Draw states with ``count`` on by uniform numbers in [0, 1); all of shape (..., n).

    >>> sample_by_tables(torch.tensor([9.0, 0.0, 9.0]), 2, torch.full((3,), 0.5))
    tensor([ True, False,  True])
    """
    t = logits.movedim(-1, 0)
    on = torch.full(t.shape[1:], count, dtype=torch.int64, device=t.device)
    return draw(tables(t), t, on, uniforms.movedim(-1, 0)).movedim(0, -1)
