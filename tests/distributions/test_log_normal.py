"""Divergences of log-normal guides from the priors of positive scales."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import pyrosparse.distributions  # noqa: F401  registers the divergences
from pyrosparse.distributions import normal_quadrature
from tests.monte_carlo import assert_mean

PRIORS = {
    "gamma": lambda: dist.Gamma(torch.tensor([0.5, 3.0, 1.0]), torch.tensor([1.0, 0.2, 40.0])),
    "inverse gamma": lambda: dist.InverseGamma(
        torch.tensor([0.5, 2.0, 2.0]), torch.tensor([1.0, 8.0, 0.03])
    ),
    "half-Cauchy": lambda: dist.HalfCauchy(torch.tensor([1.0, 0.02, 30.0])),
}
LOC, SCALE = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.2, 0.7])


@pytest.mark.parametrize("name", PRIORS)
def test_divergence_equals_monte_carlo(name: str) -> None:
    torch.manual_seed(0)
    q, p = dist.LogNormal(LOC, SCALE), PRIORS[name]()
    z = q.sample((200_000,))
    assert_mean(q.log_prob(z) - p.log_prob(z), kl_divergence(q, p), rounding=1e-5)
    event = kl_divergence(q.to_event(1), p.to_event(1))
    torch.testing.assert_close(event, kl_divergence(q, p).sum())


@pytest.mark.parametrize("name", PRIORS)
def test_gradient_is_that_of_monte_carlo(name: str) -> None:
    torch.manual_seed(1)
    loc, scale = LOC.clone().requires_grad_(), SCALE.clone().requires_grad_()
    exact = torch.autograd.grad(
        kl_divergence(dist.LogNormal(loc, scale), PRIORS[name]()).sum(), (loc, scale)
    )
    noise = torch.randn(100_000, 3)
    locs, scales = (one.detach().expand(100_000, 3).clone() for one in (loc, scale))
    locs.requires_grad_(), scales.requires_grad_()
    z = (locs + scales * noise).exp()
    q = dist.LogNormal(locs, scales)
    sampled = torch.autograd.grad(
        (q.log_prob(z) - PRIORS[name]().log_prob(z)).sum(), (locs, scales)
    )
    for found, expected in zip(sampled, exact, strict=True):
        assert_mean(found, expected, rounding=1e-4)


@pytest.mark.parametrize(
    ("scale", "allowed"), [(0.1, 1e-12), (1.0, 1e-7), (1.46, 1e-5), (3.0, 2e-3)]
)
def test_half_cauchy_quadrature_is_as_exact_as_it_is_said_to_be(
    scale: float, allowed: float
) -> None:
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = (-0.5 * x.square()).exp() / math.sqrt(2 * math.pi)
    for loc in (-3.0, 0.0, 0.4):
        z = loc + scale * x
        log_cosh = torch.logaddexp(z, -z) - math.log(2)
        exact = torch.trapezoid(density * log_cosh, x) + math.log(math.pi)
        exact -= math.log(scale) + 0.5 * math.log(2 * math.pi * math.e)
        q = dist.LogNormal(x.new_tensor(loc), x.new_tensor(scale))
        found = kl_divergence(q, dist.HalfCauchy(x.new_tensor(1.0)))
        assert abs(float(found - exact)) < allowed


def test_divergences_stay_finite_far_out_in_float32() -> None:
    loc = torch.tensor([-80.0, 80.0])
    kl = kl_divergence(dist.LogNormal(loc, torch.ones(2)), dist.HalfCauchy(torch.ones(2)))
    expected = 80 + math.log(math.pi / 2) - 0.5 * math.log(2 * math.pi * math.e)
    torch.testing.assert_close(kl, torch.full((2,), expected))


def test_quadrature_has_the_moments_of_the_normal() -> None:
    x, weights = normal_quadrature(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]))

    def mean(values: Tensor) -> Tensor:
        return (weights * values).sum(0)

    torch.testing.assert_close(mean(x), torch.tensor([1.0, -2.0]).double())
    torch.testing.assert_close(mean(x.square()), torch.tensor([1.25, 13.0]).double())
    torch.testing.assert_close(mean(x.exp()), torch.tensor([1.125, 2.5]).double().exp())
