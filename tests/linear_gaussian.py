"""A linear-Gaussian model whose posterior and evidence are known exactly.

y = X w + noise, w ~ N(0, prior^2 I), noise ~ N(0, noise^2 I); all float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import pyrosparse as ps


@dataclass
class LinearGaussian:
    """orthogonal: columns of X orthogonal, so that the exact posterior is mean field."""

    n: int = 12
    d: int = 3
    noise: float = 0.5
    prior: float = 0.8
    orthogonal: bool = True

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(self.n, self.d, generator=generator, dtype=torch.float64)
        if self.orthogonal:
            x = torch.linalg.qr(x).Q * torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)[: self.d]
        self.x = x
        weight = torch.linspace(1, -0.5, self.d, dtype=torch.float64)
        noise = torch.randn(self.n, generator=generator, dtype=torch.float64)
        self.y = (x @ weight + self.noise * noise).unsqueeze(-1)

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        return self.x, self.y

    def precision(self) -> Tensor:
        identity = torch.eye(self.d, dtype=torch.float64)
        return self.x.T @ self.x / self.noise**2 + identity / self.prior**2

    def posterior_mean(self) -> Tensor:
        return torch.linalg.solve(self.precision(), self.x.T @ self.y[:, 0] / self.noise**2)

    def log_evidence(self, columns: Tensor | None = None) -> float:
        """log p(y), of the model with some columns of X only where they are given."""
        x = self.x if columns is None else self.x[:, columns]
        identity = torch.eye(self.n, dtype=torch.float64)
        covariance = self.noise**2 * identity + self.prior**2 * x @ x.T
        zero = torch.zeros(self.n, dtype=torch.float64)
        return float(MultivariateNormal(zero, covariance).log_prob(self.y[:, 0]))

    def elbo(self, loc: Tensor, scale: Tensor) -> float:
        """The ELBO of N(loc, diag(scale^2)), in closed form."""
        residual = self.y[:, 0] - self.x @ loc
        spread = (self.x.square() @ scale.square()).sum()
        constant = self.n * torch.log(torch.tensor(2 * torch.pi * self.noise**2))
        likelihood = -0.5 * ((residual.square().sum() + spread) / self.noise**2 + constant)
        ratio = scale / self.prior
        divergence = 0.5 * (ratio.square() + (loc / self.prior).square() - 1) - ratio.log()
        return float(likelihood - divergence.sum())

    def net(self) -> nn.Linear:
        return nn.Linear(self.d, 1, bias=False).double()

    def lifted(self, **options) -> ps.Lifted:
        """The network under the model's prior with a mean-field normal posterior."""
        method = ps.Gaussian(scale=self.prior, posterior="normal", **options)
        return ps.lift(self.net(), method)

    def at_mean_field_optimum(self, **options) -> ps.Lifted:
        """The posterior set to the best mean-field normal, exact where X is orthogonal."""
        bnn = self.lifted(**options)
        set_posterior(bnn, self.posterior_mean(), self.precision().diagonal().rsqrt())
        return bnn

    def model(self, bnn: ps.Lifted) -> ps.regressor:
        return ps.regressor(bnn, self.n, noise=self.noise)


def set_posterior(bnn: ps.Lifted, loc: Tensor, scale: Tensor) -> None:
    q = bnn.guide.entries[0].posterior()
    with torch.no_grad():
        q["loc"].copy_(loc)
        q["log_scale"].copy_(scale.log())
