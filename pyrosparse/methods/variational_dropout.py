"""Variational dropout: weights, or gates, go where their noise drowns them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyro.distributions as dist
from torch import Tensor

from pyrosparse.distributions import LogUniform
from pyrosparse.lifting.method import Posterior
from pyrosparse.lifting.target import Kind, Target
from pyrosparse.methods.normal_noise import NormalNoise, own_second_moment


@dataclass(frozen=True)
class VariationalDropout(NormalNoise):
    r"""Sparse variational dropout: a log-uniform prior, under which the noise of a weight grows
    until the weight is lost in it.

    .. math::
        p(|w|) \propto 1 / |w|, \qquad q(w) = \mathcal N(\mu, \sigma^2), \qquad
        \alpha = \sigma^2 / \mu^2

    On gates, which multiply features, it is the prior of group variational dropout: with a second
    pair ``(Gaussian(scale=1, posterior="normal", estimator="activations"), weights(net))`` the
    weight between units j and i is :math:`w_{ij} \mid z_i \sim \mathcal N(0, z_i^2)`.

    kl_scale, initial_scale, gate_noise: as for every ``NormalNoise``.
    empirical_bayes: replace the prior by :math:`\mathcal N(0, \mu^2 + \sigma^2)`, the normal of
                     the largest evidence. The divergence is then
                     :math:`\tfrac12 \log(1 + \mu^2 / \sigma^2)`, and the prior is proper.
    estimator:       of weights, where the noise is drawn in training, as for ``Gaussian``:
                     ``activations`` or ``weights``.

    Targets: weights of any shape (by default), inputs and outputs. ``score`` is
    :math:`|\mu| / \sigma = \alpha^{-1/2}`. An element stays where that reaches
    :math:`e^{-3/2}`, which is :math:`\log \alpha \le 3`. The mean is :math:`\mu`.

    The log-uniform prior has no integral, and neither has the posterior under it: an ELBO under it
    must not be compared with one under another prior.

    Raises ValueError on options out of range, and if no glob matches a target.

    Sources: Molchanov, Ashukha and Vetrov (2017); Louizos, Ullrich and Welling (2017), section
    3.1, of gates; Kharitonov, Molchanov and Vetrov (2018) of empirical Bayes.

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> bnn = ps.lift(nn.Linear(3, 2), VariationalDropout())
    >>> bnn.masks()["weight"].shape
    torch.Size([2, 3])
    >>> VariationalDropout().proper, VariationalDropout(empirical_bayes=True).proper
    (False, True)
    """

    empirical_bayes: bool = False
    estimator: Literal["activations", "weights"] = "activations"

    kinds: ClassVar[tuple[Kind, ...]] = ("weight", "input", "output")
    threshold: ClassVar[float] = math.exp(-1.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator not in ("weights", "activations"):
            raise ValueError(
                f"estimator must be 'weights' or 'activations', got {self.estimator!r}"
            )

    @property
    def proper(self) -> bool:  # type: ignore[override]
        return self.empirical_bayes

    def density(self, q: Posterior) -> dist.TorchDistribution:
        return own_second_moment(q) if self.empirical_bayes else LogUniform(q["loc"])

    def activation_moments(self, target: Target, q: Posterior) -> tuple[Tensor, Tensor] | None:
        if target.kind != "weight" or self.estimator == "weights":
            return None
        return q["loc"], q["log_scale"].exp()
