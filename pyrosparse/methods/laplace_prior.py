"""The Laplace prior, an l1 penalty on the weights, with a point or a normal posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
from torch import Tensor

from pyrosparse.distributions import IsotropicLaplace
from pyrosparse.lifting.method import Posterior
from pyrosparse.lifting.target import Target
from pyrosparse.methods.normal_guide import NormalGuide


@dataclass(frozen=True)
class LaplacePrior(NormalGuide):
    r"""A zero-mean Laplace prior on every weight: the l1 penalty.

    .. math::
        p(w) = \frac{1}{2 b} e^{-|w| / b}, \qquad
        q(w) = \delta(w - \mu) \quad\text{or}\quad q(w) = \mathcal N(\mu, \sigma^2)

    scale:     b. A penalty of lambda times the sum of absolute weights, added to the mean loss of n
               data, corresponds to b = 1 / (lambda n).
    posterior: ``point`` (maximum a posteriori, the lasso) or ``normal`` (mean field).
    estimator: for ``normal``, where the noise is drawn while training: ``weights`` or
               ``activations``, as for ``Gaussian``.
    initial_scale: for ``normal``, the standard deviation sigma at the start.

    Targets: weights, of any shape. The location mu is the network's own parameter. ``score`` is
    |mu| (point) or |mu| / sigma (normal). Adam does not make weights exactly zero: prune small ones
    with ``ps.prune.magnitude``.

    Raises ValueError on scales that are not positive and on unknown options.

    Sources: Tibshirani (1996); Labach and Valaee (2020), section III, as a baseline.

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(3, 2), LaplacePrior(scale=1 / (1e-3 * 50_000)))
    >>> bnn.guide.entries[0].method.scale
    0.02
    """

    @property
    def forgotten_scale(self) -> float:
        # Of all normals this one has the least divergence, 0.0484 nats a weight.
        return self.scale * math.sqrt(math.pi / 2)

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        loc = q["loc"]
        prior = IsotropicLaplace(self.scale, target.shape, dtype=loc.dtype, device=loc.device)
        return pyro.sample(target.site, prior)
