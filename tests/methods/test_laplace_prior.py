"""The Laplace prior: the suite of every method, and its known answers."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import Laplace, Normal, kl_divergence

import pyrosparse as ps
from pyrosparse.distributions import IsotropicLaplace
from tests.method_case import MethodCase

BAD = [{"scale": value} for value in (0.0, -1.0, float("nan"), float("inf"))]


class TestPoint(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [*BAD, {"posterior": "laplace"}]
    recovery_threshold = 0.5

    def make(self, **options: Any) -> ps.Method:
        return ps.LaplacePrior(**options)


class TestNormal(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [*BAD, {"initial_scale": 0.0}]

    def make(self, **options: Any) -> ps.Method:
        return ps.LaplacePrior(posterior="normal", **options)


class TestNormalAtActivations(MethodCase):
    bad = BAD

    def make(self, **options: Any) -> ps.Method:
        return ps.LaplacePrior(posterior="normal", estimator="activations", **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_density_and_moments_are_those_of_torch(dtype: torch.dtype) -> None:
    prior, law = IsotropicLaplace(0.3, (3, 2), dtype=dtype), Laplace(torch.zeros(3, 2), 0.3)
    value = torch.randn(5, 3, 2, dtype=dtype)
    torch.testing.assert_close(prior.log_prob(value), law.log_prob(value).sum((1, 2)))
    torch.testing.assert_close(prior.expand((5,)).log_prob(value), prior.log_prob(value))
    assert prior.sample((4,)).shape == (4, 3, 2) and prior.sample().dtype == dtype
    draws = prior.sample((20_000,))
    assert torch.allclose(draws.abs().mean(0), torch.full((3, 2), 0.3, dtype=dtype), atol=0.02)
    assert torch.allclose(prior.variance, torch.full((3, 2), 0.18, dtype=dtype))


def test_divergence_is_that_of_torch_and_finite_far_out() -> None:
    loc = torch.tensor([0.0, 0.1, -2.0, 1e4], dtype=torch.float64)
    scale = torch.tensor([1.0, 1e-3, 0.5, 1e-9], dtype=torch.float64)
    q = dist.Normal(loc, scale).to_event(1)
    expected = kl_divergence(Normal(loc, scale), Laplace(0 * loc, 0.7)).sum()
    found = kl_divergence(q, IsotropicLaplace(0.7, (4,)))
    torch.testing.assert_close(found, expected)


def test_b_is_one_by_lambda_n() -> None:
    net, n, strength = nn.Linear(4, 3), 50, 0.02
    x, y = torch.randn(n, 4), torch.randint(3, (n,))
    bnn = ps.lift(net, ps.LaplacePrior(1 / (strength * n)))
    loss = TraceMeanField_ELBO().loss(ps.classifier(bnn, n), bnn.guide, x, y)
    with torch.no_grad():
        lasso = nn.functional.cross_entropy(net(x), y) + strength * net.weight.abs().sum()
    assert loss == pytest.approx(n * float(lasso) + 12 * math.log(2), rel=1e-5)


def test_what_is_frozen_costs_next_to_nothing() -> None:
    net = nn.Linear(3, 2)
    bnn = ps.lift(net, ps.LaplacePrior(0.7, posterior="normal"))
    bnn.freeze({"weight": torch.zeros(2, 3)})
    # Of all normals the nearest to a Laplace law: log 2 + 1 / 2 - log(pi).
    nearest = 6 * (math.log(2) + 0.5 - math.log(math.pi))
    loss = TraceMeanField_ELBO().loss(bnn, bnn.guide, torch.ones(1, 3))
    assert loss == pytest.approx(nearest, rel=1e-5)
    for factor in (0.9, 1.1):
        with torch.no_grad():
            bnn.guide.posterior.weight.log_scale.fill_(
                math.log(factor * 0.7 * (math.pi / 2) ** 0.5)
            )
        assert TraceMeanField_ELBO().loss(bnn, bnn.guide, torch.ones(1, 3)) > nearest


def test_small_weights_go_to_zero_where_gaussian_ones_do_not() -> None:
    # The lasso's mode is exactly zero where |x'y| is small; the ridge's is not.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator)
    y = x[:, :1] + 0.03 * x[:, 1:2]
    sizes = {}
    for method in (ps.LaplacePrior(1 / 40), ps.Gaussian(1 / 40)):
        net = nn.Linear(4, 1, bias=False)
        bnn = ps.lift(net, method)
        ps.fit(
            ps.regressor(bnn, 200, noise=1.0),
            bnn.guide,
            (x, y),
            epochs=300,
            batch_size=200,
            learning_rate=0.02,
            schedule=ps.infer.schedules.cosine(),
            elbo=Trace_ELBO(),
            progress=False,
        )
        sizes[type(method).__name__] = net.weight.detach().abs().flatten()
    assert sizes["LaplacePrior"][1:].max() < 1e-3 < sizes["Gaussian"][1:].max()
    soft = (x[:, 0] @ y[:, 0] - 40) / x[:, 0].square().sum()
    assert sizes["LaplacePrior"][0] == pytest.approx(float(soft), abs=1e-3)
