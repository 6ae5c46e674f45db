"""The variational information bottleneck: gates that pass no more than the data need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist

from pyrosparse.lifting.method import Posterior
from pyrosparse.lifting.target import Kind
from pyrosparse.methods.normal_noise import NormalNoise, own_second_moment


@dataclass(frozen=True)
class InformationBottleneck(NormalNoise):
    r"""The variational information bottleneck: each feature is multiplied by a noisy gate, with a
    cost for the information that passes.

    .. math::
        z_{nk} = \mu_k + \sigma_k \epsilon_{nk}, \qquad
        \mathrm{KL} = \tfrac12 \sum_k \log(1 + \mu_k^2 / \sigma_k^2)

    That is the divergence of :math:`q(z) = \mathcal N(\mu, \sigma^2)` from the prior
    :math:`\mathcal N(0, \mu^2 + \sigma^2)`, whose variance maximises the evidence.

    kl_scale: the paper's :math:`\gamma` times the number of data; for a gate on a channel also
              times height and width of the feature map. One number or numbers by glob.
    initial_scale, gate_noise: as for every ``NormalNoise``.

    Targets: inputs and outputs; by default ``gates(net)``. ``score`` is :math:`|\mu| / \sigma`; a
    feature stays if it is at least 1. Its gain is :math:`\mu`.

    Raises ValueError if an option is out of range or no glob matches a target.

    Source: Dai, Zhu, Guo and Wipf (2018), eqs. 9 to 12.

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> ps.lift(net, InformationBottleneck(kl_scale=6.0)).masks()["2.input"]
    tensor([1., 1., 1.])
    """

    initial_scale: float = 0.011

    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = 1.0

    def density(self, q: Posterior) -> dist.TorchDistribution:
        return own_second_moment(q)
