"""A linear-Gaussian model with one of its weights a latent variable outside the network."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrosparse as ps
from tests.linear_gaussian import LinearGaussian, set_posterior


class OutsideLatent:
    """y = X w + x b + noise: w is the network's, b the latent variable ``b`` of the model.

    Both have the posterior of ``LinearGaussian``, whose last weight b is.
    """

    def __init__(self, **options) -> None:
        self.truth = truth = LinearGaussian(**options)
        self.data = truth.data
        self.loc = truth.posterior_mean()
        self.scale = truth.precision().diagonal().rsqrt()
        net = torch.nn.Linear(truth.d - 1, 1, bias=False).double()
        self.bnn = ps.lift(net, ps.Gaussian(scale=truth.prior, posterior="normal"))
        set_posterior(self.bnn, self.loc[:-1], self.scale[:-1])

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=torch.float64), self.truth.prior))
        mean = self.bnn(x[:, :-1]) + x[:, -1:] * b
        with pyro.plate("data", self.truth.n, subsample=torch.arange(len(x))):
            return pyro.sample("y", dist.Normal(mean, self.truth.noise).to_event(1), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        self.bnn.guide(x, y)
        loc = pyro.param("b_loc", lambda: self.loc[-1].clone())
        pyro.sample("b", dist.Normal(loc, self.scale[-1]))
