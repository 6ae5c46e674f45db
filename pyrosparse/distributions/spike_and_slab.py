"""The exact spike and slab: a tensor whose elements are zero or normal, and which of them are."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from typing import NoReturn, Self

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.score_parts import ScoreParts
from torch import Size, Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.kl import register_kl


class _ZeroOrReal(constraints.Constraint):
    """Real numbers of which zero has a probability of its own."""

    def check(self, value: Tensor) -> Tensor:
        return value.isfinite()


zero_or_real = _ZeroOrReal()


@transform_to.register(zero_or_real)
@biject_to.register(zero_or_real)
def _refuse(constraint: constraints.Constraint) -> NoReturn:
    raise ValueError(
        "a spike and slab has a point mass at zero, which HMC, NUTS and normal AutoGuides cannot "
        "draw. Train the lifted network's own guide, bnn.guide, by SVI"
    )


class _Included(dist.TorchDistribution):
    """A law of one tensor, one event, each element of which is included with a probability.

    logits: of the probabilities, broadcast to ``shape``.
    prior: for a guide, the law that it is compared with: ``Trace_ELBO`` then has an unbiased
           gradient by the probabilities, of the divergence.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(zero_or_real, 1)

    def __init__(self, logits: Tensor, shape: tuple[int, ...], prior: Self | None) -> None:
        self.logits = logits
        self.prior = prior
        self.support = constraints.independent(zero_or_real, len(shape))
        super().__init__(Size(), Size(shape), validate_args=False)

    def included(self, value: Tensor) -> Tensor:
        """Log probability that each element of a draw is as it is, zero or not."""
        return torch.where(value != 0, F.logsigmoid(self.logits), F.logsigmoid(-self.logits))

    @abstractmethod
    def element_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each element, the shape of ``value``."""

    def log_prob(self, value: Tensor) -> Tensor:
        return self._sum(self.element_log_prob(value))

    def _sum(self, each: Tensor) -> Tensor:
        """The sum over the event's dimensions."""
        start = each.dim() - len(self.event_shape)
        return each.reshape(*each.shape[:start], -1).sum(-1)

    def score_parts(self, x: Tensor, *args: object, **kwargs: object) -> ScoreParts:
        log_prob = self.log_prob(x)
        entropy_term = log_prob
        if self.prior is not None:
            # No gradient goes through the draw of what is included: a score function each.
            excess = (self.element_log_prob(x) - self.prior.element_log_prob(x)).detach()
            learned = self._sum(excess * self.included(x))
            entropy_term = log_prob + learned - learned.detach()
        return ScoreParts(log_prob, 0, entropy_term)  # type: ignore[arg-type]

    def draw_included(self, sample_shape: Size | list[int] | tuple[int, ...]) -> Tensor:
        """Which elements are included: boolean, (*sample_shape, *batch_shape, *event_shape)."""
        shape = self._extended_shape(Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        return uniform < self.logits.detach().sigmoid()

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        expanded = copy.copy(self)
        expanded._batch_shape = Size(batch_shape)
        return expanded


class SpikeAndSlabNormal(_Included):
    r"""Elements that are exactly zero, or normal; the whole tensor one event.

    .. math:: w = 0 \text{ with probability } 1 - a, \quad w \sim \mathcal N(m, s^2) \text{ with } a

    Its density is taken against a point mass at zero and the Lebesgue measure elsewhere, so that
    two such laws have a divergence, in closed form.

    logits:     log odds of a.
    loc, scale: m and s; all three are tensors that broadcast to ``shape``.
    shape:      the event's shape.
    prior:      as a guide's, the law that it is compared with; ``Trace_ELBO`` needs it for the
                gradient by the log odds. Draws carry gradients by m and s alone.

    >>> import torch
    >>> a, one = torch.zeros(2), torch.ones(2)
    >>> SpikeAndSlabNormal(a, 0 * one, one, (2,)).log_prob(torch.tensor([0.0, 1.0]))
    tensor(-2.8052)
    """

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        shape: tuple[int, ...],
        *,
        prior: SpikeAndSlabNormal | None = None,
    ) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(logits, shape, prior)

    @property
    def mean(self) -> Tensor:
        return (self.logits.sigmoid() * self.loc).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        a = self.logits.sigmoid()
        spread = a * (self.scale.square() + (1 - a) * self.loc.square())
        return spread.expand(self._extended_shape())

    def rsample(self, sample_shape: Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        included = self.draw_included(sample_shape)
        return included * (self.loc + self.scale * torch.randn_like(included, dtype=self.loc.dtype))

    def element_log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        slab = -0.5 * z.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return self.included(value) + (value != 0) * slab


class Inclusions(_Included):
    r"""Elements that are 1 with probability a, and 0 otherwise; the whole tensor one event.

    .. math:: z \sim \mathrm{Bernoulli}(a)

    logits: log odds of a, a tensor that broadcasts to ``shape``.
    shape:  the event's shape.
    prior:  as of ``SpikeAndSlabNormal``.

    >>> import torch
    >>> Inclusions(torch.zeros(2), (2,)).log_prob(torch.tensor([0.0, 1.0]))
    tensor(-1.3863)
    """

    def __init__(
        self, logits: Tensor, shape: tuple[int, ...], *, prior: Inclusions | None = None
    ) -> None:
        super().__init__(logits, shape, prior)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid().expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def rsample(self, sample_shape: Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        return self.draw_included(sample_shape).to(self.logits)

    def element_log_prob(self, value: Tensor) -> Tensor:
        return self.included(value)


@register_kl(SpikeAndSlabNormal, SpikeAndSlabNormal)
def _kl_spike_and_slab(q: SpikeAndSlabNormal, p: SpikeAndSlabNormal) -> Tensor:
    """Of the log odds l: sum of a (l - l_p + KL of the slabs) + log(1 - a) - log(1 - a_p)."""
    squares = q.scale.square() + (q.loc - p.loc).square()
    constant = p.scale.log() - 0.5 - p.logits
    slab = squares * (0.5 / p.scale.square()) - q.scale.log() + constant
    return _kl_included(q, p, q.logits + slab)


@register_kl(Inclusions, Inclusions)
def _kl_inclusions(q: Inclusions, p: Inclusions) -> Tensor:
    return _kl_included(q, p, q.logits - p.logits)


def _kl_included(q: _Included, p: _Included, cost: Tensor) -> Tensor:
    kl = q.logits.sigmoid() * cost + F.logsigmoid(-q.logits) - F.logsigmoid(-p.logits)
    return kl.expand(q.event_shape).sum().expand(q.batch_shape)
