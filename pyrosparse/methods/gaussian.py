"""The Gaussian prior, with a point estimate or a mean-field normal posterior."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
from torch import Tensor

from pyrosparse.distributions import IsotropicNormal
from pyrosparse.lifting.method import Posterior
from pyrosparse.lifting.target import Target
from pyrosparse.methods.normal_guide import NormalGuide


@dataclass(frozen=True)
class Gaussian(NormalGuide):
    r"""A zero-mean Gaussian prior on every weight.

    .. math::
        w \sim \mathcal N(0, s^2), \qquad
        q(w) = \delta(w - \mu) \quad\text{or}\quad q(w) = \mathcal N(\mu, \sigma^2)

    scale:     the prior's standard deviation s.
    posterior: ``point`` (maximum a posteriori) or ``normal`` (mean field).
    estimator: for ``normal``, where the noise is drawn while training: ``weights`` (one draw of
               the weight a step) or ``activations`` (local reparameterisation: one draw per
               example and unit, the same expectation with less gradient variance; on dense and
               convolutional layers). In evaluation mode weights are drawn either way.
    initial_scale: for ``normal``, the standard deviation sigma at the start.

    Targets: weights, of any shape. The location mu is the network's own parameter, so the
    network is the posterior mean. ``score`` is |mu| (point) or |mu| / sigma (normal).

    Raises ValueError on scales that are not positive and on unknown options.

    Sources: Mathew and Rowe (2023), section 2 (prior, point estimate); Kingma, Salimans and
    Welling (2015), eq. 6 (local reparameterisation).

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(3, 2), Gaussian(posterior="normal"))
    >>> bnn(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    @property
    def forgotten_scale(self) -> float:
        return self.scale

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        loc = q["loc"]
        prior = IsotropicNormal(self.scale, target.shape, dtype=loc.dtype, device=loc.device)
        return pyro.sample(target.site, prior)

    def normal_posterior(
        self, target: Target, q: Posterior
    ) -> tuple[Tensor, Tensor, Tensor | float] | None:
        return None if self.posterior == "point" else (q["loc"], q["log_scale"].exp(), self.scale)
