"""The isotropic normal against Pyro's own normal."""

import math

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from pyrosparse.distributions import IsotropicNormal
from tests.monte_carlo import assert_mean

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)
SCALES = st.floats(1e-3, 1e3)


def plain(scale: float, shape: tuple[int, ...]) -> dist.TorchDistribution:
    zeros = torch.zeros(shape, dtype=torch.float64)
    return dist.Normal(zeros, scale).to_event(len(shape))


def ours(scale: float, shape: tuple[int, ...]) -> IsotropicNormal:
    return IsotropicNormal(scale, shape, dtype=torch.float64)


@given(SHAPES, SCALES, st.lists(st.integers(1, 3), max_size=2).map(tuple))
def test_log_prob_is_that_of_the_plain_normal(shape, scale, sample_shape):
    value = scale * torch.randn(sample_shape + shape, dtype=torch.float64)
    actual = ours(scale, shape).log_prob(value)
    expected = plain(scale, shape).log_prob(value)
    assert actual.shape == sample_shape
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@given(SHAPES.filter(len), SCALES)
def test_kl_is_that_of_the_plain_normal(shape, scale):
    loc = torch.randn(shape, dtype=torch.float64)
    q = dist.Normal(loc, torch.rand_like(loc) + 0.1).to_event(len(shape))
    actual = kl_divergence(q, ours(scale, shape))
    torch.testing.assert_close(actual, kl_divergence(q, plain(scale, shape)), rtol=1e-9, atol=1e-9)


def test_kl_is_the_mean_of_the_log_ratio():
    q = dist.Normal(torch.randn(2, 3).double(), torch.rand(2, 3).double() + 0.1).to_event(2)
    p = ours(0.7, (2, 3))
    draws = q.sample((2000,))
    assert_mean(q.log_prob(draws) - p.log_prob(draws), kl_divergence(q, p))


def test_kl_takes_a_scale_with_a_gradient():
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    q = dist.Normal(torch.ones(3).double(), torch.ones(3).double()).to_event(1)
    kl_divergence(q, IsotropicNormal(scale, (3,))).backward()
    expected = 3 / 0.7 - 6 / 0.7**3
    assert math.isclose(float(scale.grad), expected, rel_tol=1e-12)


def test_kl_of_other_shapes_is_not_guessed():
    q = dist.Normal(torch.zeros(2, 3), 1.0).to_event(2)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, IsotropicNormal(1.0, (3, 2)))
    laplace = dist.Laplace(torch.zeros(2, 3), 1.0).to_event(2)
    with pytest.raises(NotImplementedError):
        kl_divergence(laplace, IsotropicNormal(1.0, (2, 3)))


def test_sampling_moments():
    prior = ours(0.7, (2, 3))
    draws = prior.sample((4000,))
    assert draws.shape == (4000, 2, 3)
    assert draws.dtype == torch.float64
    assert_mean(draws, 0.0)
    assert_mean(draws.square(), 0.49)
    assert torch.equal(prior.mean, torch.zeros(2, 3).double())
    torch.testing.assert_close(prior.variance, torch.full((2, 3), 0.49).double())


def test_reparameterised_draws_have_a_gradient_for_the_scale():
    scale = torch.tensor(0.7, requires_grad=True)
    IsotropicNormal(scale, (2, 3)).rsample().sum().backward()
    assert scale.grad is not None and scale.grad != 0


@given(SHAPES, st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple))
def test_expanding_gives_independent_copies(shape, batch_shape):
    expanded = ours(0.7, shape).expand(batch_shape)
    assert expanded.batch_shape == batch_shape
    assert expanded.event_shape == shape
    value = torch.randn(batch_shape + shape, dtype=torch.float64)
    assert expanded.sample().shape == value.shape
    expected = plain(0.7, shape).expand(batch_shape).log_prob(value)
    torch.testing.assert_close(expanded.log_prob(value), expected, rtol=1e-10, atol=1e-10)


def test_expanding_to_nothing_changes_nothing():
    prior = ours(0.7, (3,))
    assert prior.expand(()).event_shape == (3,)
    assert prior.expand(()).batch_shape == ()


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_extreme_scales_are_scored_in_float32(scale):
    value = torch.tensor([scale, -2 * scale])
    expected = plain(scale, (2,)).log_prob(value.double())
    actual = IsotropicNormal(scale, (2,)).log_prob(value)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales_are_refused(scale):
    with pytest.raises(ValueError, match="scale"):
        IsotropicNormal(scale, (2,))


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError):
        IsotropicNormal(1.0, (2, 3), validate_args=True).log_prob(torch.zeros(3, 2))
