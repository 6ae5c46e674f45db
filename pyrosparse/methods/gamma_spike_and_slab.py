"""The three-layer prior: a weight, its precision, and a support with structure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrosparse.distributions import Point
from pyrosparse.distributions.precision_normal import PrecisionNormal, log_normalizer_of
from pyrosparse.distributions.quantile import quantile
from pyrosparse.lifting.method import Method, Posterior, draws_of, normal_moments
from pyrosparse.lifting.target import Target
from pyrosparse.supports import Grid, SupportPrior
from pyrosparse.supports.gamma import Gamma, evidence, mean_field, structured

LARGEST = 30.0
"""Log-odds beyond which nothing is told apart, in nats."""

_ROUNDS = 10


@dataclass(frozen=True)
class GammaSpikeAndSlab(Method):
    r"""A prior on weights in three layers: a support with structure, a precision given the support,
    and a normal weight given the precision.

    .. math::
        s \sim p(s), \qquad
        \rho_n \mid s_n \sim \begin{cases} \mathrm{Gamma}(a, b) & s_n = 1 \\
                                           \mathrm{Gamma}(\bar a, \bar b) & s_n = 0 \end{cases},
        \qquad w_n \mid \rho_n \sim \mathcal N(0, 1 / \rho_n)

    support:   p(s), such as ``Grid()``, a Markov random field over rows and columns.
    slab_shape, spike_shape: a and :math:`\bar a`.
    slab_rate, spike_rate:   b and :math:`\bar b`, in squared weights. By default they follow from
                             the weights: their ratio is ``contrast``, and the evidence is 0 at the
                             quantile ``inactive`` of the absolute weights of the target.
    contrast:  b / :math:`\bar b`, if the rates are not given.
    inactive:  the share of weights whose evidence is below 0 at the start, in (0, 1).
    posterior: of precision and support given q(w): ``structured``, q(s) q(rho | s), or the paper's
               ``mean-field``, q(s) q(rho), in which weights near zero keep the state in which they
               started.
    likelihood: the expected log-likelihood in training. ``point``, the paper's first-order Taylor
               expansion: that of the weight's location, with q(w) a point. ``curvature``, the
               second-order one: trained likewise, and then q(w) is normal with the variance 1 / (h
               + E[rho]), where h is the diagonal of the Fisher information that ``TurboVBI``
               estimates. ``activations``: q(w) is normal with a trained scale, and noise is drawn
               at the activations (local reparameterisation).
    rates:     ``common`` to all weights of a target, or by ``information``: those of a weight are
               multiplied by :math:`\sqrt{\bar h / h}`, from 0.01 to 100, where h is its Fisher
               information, which ``TurboPruner`` estimates, and :math:`\bar h` the geometric mean
               of all. This keeps small weights that the data need.
    initial_scale: of q(w) at the start, for ``activations``.
    magnitude: a weight below it is never kept.

    SVI trains q(w) under :math:`\mathcal N(0, 1/E[\rho])`, which is the same up to a constant; the
    other factors have a closed form. ``TurboVBI`` (or its callback ``TurboPruner``) alternates the
    two with sum-product over the support prior. Without them, the precisions do not change.

    Within ``generative()`` the network is drawn from the three layers themselves, at the sites
    ``<weight>_support``, ``<weight>_precision`` and ``<weight>``.

    Targets: weights. ``score`` is the log-odds of the support; a weight stays if they are positive.

    Raises ValueError if an option is out of range, and for weights in bfloat16 or float16.

    Sources: Xia, Tsang and Lau (2023), eqs. 1 to 6 and 30 to 35; rates at the weights' scale, the
    structured posterior and the curvature are ours.

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> bnn = ps.lift(net, GammaSpikeAndSlab(inactive=0.5))
    >>> int(bnn.masks()["0.weight"].sum())
    6
    """

    support: SupportPrior = field(default_factory=Grid)
    slab_shape: float = 1.0
    spike_shape: float = 1.0
    slab_rate: float | None = None
    spike_rate: float | None = None
    contrast: float = 100.0
    inactive: float = 0.8
    posterior: Literal["structured", "mean-field"] = "structured"
    likelihood: Literal["point", "curvature", "activations"] = "point"
    rates: Literal["common", "information"] = "common"
    initial_scale: float = 0.01
    magnitude: float = 0.0

    kinds: ClassVar = ("weight",)
    threshold: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        for name in ("slab_shape", "spike_shape", "slab_rate", "spike_rate", "initial_scale"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if (self.slab_rate is None) != (self.spike_rate is None):
            raise ValueError("give both slab_rate and spike_rate, or neither")
        if self.slab_rate is not None and self.spike_rate is not None:
            if not self.slab_rate / self.slab_shape > self.spike_rate / self.spike_shape:
                raise ValueError(
                    "the slab must be wider than the spike: slab_rate / slab_shape must exceed "
                    f"spike_rate / spike_shape, got {self.slab_rate} / {self.slab_shape} and "
                    f"{self.spike_rate} / {self.spike_shape}"
                )
        elif not self.contrast * self.spike_shape > self.slab_shape:
            raise ValueError(
                "the slab must be wider than the spike: contrast must exceed slab_shape / "
                f"spike_shape = {self.slab_shape / self.spike_shape:g}, got {self.contrast}"
            )
        if not 0 < self.inactive < 1:
            raise ValueError(f"inactive is a share of the weights, in (0, 1), got {self.inactive}")
        if self.posterior not in ("structured", "mean-field"):
            raise ValueError(
                f"posterior must be 'structured' or 'mean-field', got {self.posterior!r}"
            )
        if self.likelihood not in ("point", "curvature", "activations"):
            raise ValueError(
                f"likelihood must be 'point', 'curvature' or 'activations', got {self.likelihood!r}"
            )
        if self.rates not in ("common", "information"):
            raise ValueError(f"rates must be 'common' or 'information', got {self.rates!r}")
        if not self.magnitude >= 0:
            raise ValueError(f"magnitude must not be negative, got {self.magnitude}")

    @classmethod
    def paper(cls, **options: object) -> GammaSpikeAndSlab:
        """The numbers of the paper's public code: a = b = a-bar = 1, b-bar = 0.01, and the
        probabilities of its convolutions, 0.288 and 0.51; mean field.

        Source: Xia, Tsang and Lau (2023).

        >>> GammaSpikeAndSlab.paper().spike_rate
        0.01
        """
        own = {
            "support": Grid((0.288, 0.51), (0.288, 0.51)),
            "slab_rate": 1.0,
            "spike_rate": 0.01,
            "posterior": "mean-field",
        }
        return cls(**{**own, **options})  # type: ignore[arg-type]

    def init(self, target: Target) -> dict[str, Tensor]:
        weight = target.value
        assert weight is not None
        loc = weight.detach()
        if loc.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"{target.key} is {str(loc.dtype).removeprefix('torch.')}, which is not precise "
                "enough for messages: give net.float(), and convert the compact network with "
                ".half() afterwards"
            )
        q = {"loc": weight}
        if self.likelihood == "activations":
            q["log_scale"] = torch.full_like(loc, math.log(self.initial_scale))
        if self.likelihood == "curvature":
            q["_curvature"] = torch.zeros_like(loc)
        if self.rates == "information":
            q["_rate_factors"] = torch.ones_like(loc)
        slab_rate, spike_rate = self._start(target.key, loc)
        q |= {
            "_slab_rate": loc.new_tensor(slab_rate),
            "_spike_rate": loc.new_tensor(spike_rate),
            # What the other weights, and the units, say for each weight's being active.
            "_weight_messages": torch.zeros_like(loc),
            "_unit_messages": torch.zeros_like(loc),
            "_log_odds": torch.zeros_like(loc),
            "_precision": torch.ones_like(loc),
            "_log_normalizer": loc.new_zeros(()),
        }
        self.update(Posterior(q))
        return q

    def _start(self, key: str, loc: Tensor) -> tuple[float, float]:
        if self.slab_rate is not None and self.spike_rate is not None:
            return self.slab_rate, self.spike_rate
        neutral = float(quantile(loc.double().square(), self.inactive))
        if neutral == 0:
            raise ValueError(
                f"{self.inactive:.0%} or more of {key!r} are zero, so the rates of slab and spike "
                "cannot be derived from it: train the network first, or give slab_rate and "
                "spike_rate"
            )
        # Evidence depends on weights in units of the square root of the rate alone.
        slab, spike = Gamma(self.slab_shape, 1.0), Gamma(self.spike_shape, 1 / self.contrast)
        low, high = -40.0, 40.0
        for _ in range(60):
            middle = (low + high) / 2
            moment = torch.tensor(math.exp(middle), dtype=torch.float64)
            low, high = (middle, high) if evidence(moment, slab, spike) < 0 else (low, middle)
        rate = neutral / math.exp(high)
        return rate, rate / self.contrast

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        if any(isinstance(one, generative) for one in poutine.runtime._PYRO_STACK):
            return self.generate(target, q)
        return pyro.sample(target.site, PrecisionNormal(q["_precision"], q["_log_normalizer"]))

    def generate(self, target: Target, q: Posterior) -> Tensor:
        """Sample support, precision and weight from the three-layer prior, as Pyro sites; returns
        the weight."""
        like = q["loc"].detach()
        s = self.support.sample(target.part("support"), like)
        slab, spike = self.gammas(q)
        shape = torch.where(s > 0, slab.shape, spike.shape).to(like)
        rate = torch.where(s > 0, slab.rate, spike.rate).to(like)
        precision = pyro.sample(
            target.part("precision"), dist.Gamma(shape, rate).to_event(like.dim())
        )
        # A spike of small shape has draws that overflow when they are inverted.
        tiny = torch.finfo(like.dtype).tiny
        return pyro.sample(target.site, PrecisionNormal(precision.clamp_min(tiny)))

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor | None:
        if self.likelihood == "point" or (self.likelihood == "curvature" and q.training):
            return pyro.sample(target.site, Point(q["loc"]))
        normal = dist.Normal(q["loc"], self._scale(q))
        return pyro.sample(target.site, normal.to_event(len(target.shape)))

    def score(self, target: Target, q: Posterior) -> Tensor:
        score = self.prior_log_odds(q) + self.evidence(q)
        return score.masked_fill(q["loc"].abs() < self.magnitude, -LARGEST)

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["loc"]

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        if self.likelihood == "activations":
            prior_scale = -0.5 * q["_precision"].log()
            q["log_scale"].copy_(torch.where(removed, prior_scale, q["log_scale"]))

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        weights = draws_of(draws, target.site, target.shape)
        normal_moments(weights, q["loc"], q.get("log_scale"))
        if self.likelihood == "curvature":
            q["_curvature"].copy_((1 / weights.var(0) - q["_precision"]).clamp_min(0))
        self.update(q)

    def activation_moments(self, target: Target, q: Posterior) -> tuple[Tensor, Tensor] | None:
        return (q["loc"], self._scale(q)) if self.likelihood == "activations" else None

    def _scale(self, q: Posterior) -> Tensor:
        """The standard deviation of q(w), the shape of the weight."""
        if self.likelihood == "activations":
            return q["log_scale"].exp()
        return (q["_curvature"] + q["_precision"]).rsqrt()

    def gammas(self, q: Posterior) -> tuple[Gamma, Gamma]:
        """The slab and the spike."""
        factors = q.get("_rate_factors", 1.0)
        return (
            Gamma(self.slab_shape, q["_slab_rate"] * factors),
            Gamma(self.spike_shape, q["_spike_rate"] * factors),
        )

    def prior_log_odds(self, q: Posterior) -> Tensor:
        """The message of the support prior to each weight: log-odds of being active, in nats."""
        return q["_weight_messages"] + q["_unit_messages"]

    def second_moment(self, q: Posterior) -> Tensor:
        """E[w^2] under q(w), the shape of the weight."""
        square = q["loc"].detach().square()
        if self.likelihood == "point":
            return square
        return square + self._scale(q).detach().square()

    def evidence(self, q: Posterior) -> Tensor:
        """The evidence of each weight for being active, in nats, clipped to +-30."""
        if self.posterior == "mean-field":
            said = q["_log_odds"] - self.prior_log_odds(q)
        else:
            said = evidence(self.second_moment(q), *self.gammas(q))
        return said.clamp(-LARGEST, LARGEST)

    @torch.no_grad()
    def update(self, q: Posterior) -> None:
        """Set q(precision, support) to the best given q(w) and the messages, in place."""
        slab, spike = self.gammas(q)
        prior, moment = self.prior_log_odds(q), self.second_moment(q)
        if self.posterior == "structured":
            log_odds, precision = structured(prior, moment, slab, spike)
        else:
            log_odds = q["_log_odds"]
            for _ in range(_ROUNDS):
                log_odds, precision = mean_field(prior, log_odds, moment, slab, spike)
        q["_log_odds"].copy_(log_odds)
        q["_precision"].copy_(precision)
        q["_log_normalizer"].copy_(log_normalizer_of(precision))


class generative(Messenger):
    """A Pyro handler under which networks lifted with ``GammaSpikeAndSlab`` draw support,
    precision and weight from their prior, in three sites a weight.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 2), GammaSpikeAndSlab())
    >>> with generative():
    ...     sites = poutine.trace(bnn).get_trace(torch.ones(1, 4)).stochastic_nodes
    >>> sites
    ['weight_support', 'weight_precision', 'weight']
    """
