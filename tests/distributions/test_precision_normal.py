"""The normal prior with a precision for each element, against Pyro's own normal."""

import math

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from pyrosparse.distributions.precision_normal import PrecisionNormal, log_normalizer_of
from tests.monte_carlo import assert_mean

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


def precisions(shape: tuple[int, ...]) -> torch.Tensor:
    return (4 * torch.randn(shape, dtype=torch.float64)).exp()


def plain(precision: torch.Tensor) -> dist.TorchDistribution:
    return dist.Normal(0.0, precision.rsqrt()).to_event(precision.dim())


@given(SHAPES, st.lists(st.integers(1, 3), max_size=2).map(tuple), st.booleans())
def test_log_prob_is_that_of_the_plain_normal(shape, sample_shape, known):
    precision = precisions(shape)
    value = torch.randn(sample_shape + shape, dtype=torch.float64)
    ours = PrecisionNormal(precision, log_normalizer_of(precision) if known else None)
    actual = ours.log_prob(value)
    assert actual.shape == sample_shape
    torch.testing.assert_close(actual, plain(precision).log_prob(value), rtol=1e-10, atol=1e-10)


def normal(shape: tuple[int, ...]) -> dist.TorchDistribution:
    loc = torch.randn(shape, dtype=torch.float64)
    return dist.Normal(loc, torch.rand_like(loc) + 0.1).to_event(len(shape))


@given(SHAPES.filter(len))
def test_kl_is_that_of_the_plain_normal(shape):
    q, precision = normal(shape), precisions(shape)
    actual = kl_divergence(q, PrecisionNormal(precision))
    torch.testing.assert_close(actual, kl_divergence(q, plain(precision)), rtol=1e-10, atol=1e-9)


def test_kl_is_the_mean_of_the_log_ratio():
    q, p = normal((2, 3)), PrecisionNormal(torch.rand(2, 3).double() + 0.1)
    draws = q.sample((4000,))
    assert_mean(q.log_prob(draws) - p.log_prob(draws), kl_divergence(q, p))


@pytest.mark.parametrize(
    "q",
    [
        dist.Normal(torch.zeros(3, 2), 1.0).to_event(2),
        dist.Laplace(torch.zeros(2, 3), 1.0).to_event(2),
    ],
)
def test_kl_of_others_is_not_guessed(q):
    with pytest.raises(NotImplementedError):
        kl_divergence(q, PrecisionNormal(torch.ones(2, 3)))


def test_kl_of_a_batch_is_that_of_each():
    prior = PrecisionNormal(precisions((2, 3)))
    loc, scale = torch.randn(4, 2, 3).double(), torch.rand(4, 2, 3).double()
    together = kl_divergence(dist.Normal(loc, scale).to_event(2), prior.expand((4,)))
    each = [
        kl_divergence(dist.Normal(*one).to_event(2), prior) for one in zip(loc, scale, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(each), rtol=1e-12, atol=1e-12)


def test_sampling_moments():
    precision = torch.tensor([[0.25, 1.0, 100.0]], dtype=torch.float64)
    prior = PrecisionNormal(precision)
    draws = prior.sample((4000,))
    assert draws.shape == (4000, 1, 3) and draws.dtype == torch.float64
    assert_mean(draws, 0.0)
    assert_mean(draws.square() * precision, 1.0)
    torch.testing.assert_close(prior.variance, 1 / precision)
    assert torch.equal(prior.mean, torch.zeros_like(precision))


def test_reparameterised_draws_have_a_gradient():
    precision = torch.ones(2, 3, requires_grad=True)
    PrecisionNormal(precision).rsample((5,)).sum().backward()
    assert precision.grad is not None and precision.grad.count_nonzero() == 6


@given(SHAPES, st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple))
def test_expanding_gives_independent_copies(shape, batch_shape):
    precision = precisions(shape)
    expanded = PrecisionNormal(precision).expand(batch_shape)
    assert (expanded.batch_shape, expanded.event_shape) == (batch_shape, shape)
    value = torch.randn(batch_shape + shape, dtype=torch.float64)
    expected = plain(precision).expand(batch_shape).log_prob(value)
    torch.testing.assert_close(expanded.log_prob(value), expected, rtol=1e-10, atol=1e-10)
    assert expanded.sample().shape == value.shape


def test_the_normaliser_of_many_weights_is_summed_in_double():
    precision = (10 * torch.rand(1_000_000)).exp()
    expected = 0.5 * (precision.double().log() - math.log(2 * math.pi)).sum()
    torch.testing.assert_close(log_normalizer_of(precision).double(), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("precision", [1e-30, 1e30])
def test_extreme_precisions_are_scored_in_float32(precision):
    rho = torch.tensor([precision, precision])
    value = torch.tensor([1.0, -2.0]) / math.sqrt(precision)
    expected = plain(rho.double()).log_prob(value.double())
    actual = PrecisionNormal(rho).log_prob(value)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=0)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError):
        PrecisionNormal(torch.ones(2, 3), validate_args=True).log_prob(torch.zeros(3, 2))
