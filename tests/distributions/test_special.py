"""Gamma functions of real arguments against sums and products of whole numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.distributions.special import harmonic_number, log_binomial

REALS = st.floats(1e-8, 1e12)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def log_product(n: float, k: int) -> float:
    """log of (n + 1) / 1 times (n + 2) / 2 times ... (n + k) / k."""
    return math.fsum(math.log1p(n / i) for i in range(1, k + 1))


@pytest.mark.parametrize("k", [1, 2, 7, 15, 16, 17, 50, 200])
@pytest.mark.parametrize("n", [1e-9, 1e-4, 0.05, 0.5, 3.2, 14.9, 15.1, 100.0, 1e4, 1e5, 1e9, 1e300])
def test_log_binomial_is_a_product(n, k):
    expected = log_product(n, k)
    for pair in ((n, k), (k, n)):
        actual = float(log_binomial(*(f64(x).squeeze() for x in pair)))
        # Below 16 it is a difference of log gammas of size up to 70.
        assert math.isclose(actual, expected, rel_tol=1e-12, abs_tol=1e-13)


@given(REALS, REALS)
def test_pascals_rule(n, k):
    # (n + k over k) = (n + k - 1 over k - 1) + (n + k - 1 over k), here by its two ratios.
    whole = log_binomial(f64(n + 1), f64(k + 1))
    left, right = log_binomial(f64(n + 1), f64(k)), log_binomial(f64(n), f64(k + 1))
    torch.testing.assert_close(torch.logaddexp(left, right), whole, rtol=1e-11, atol=1e-11)


@given(REALS, REALS)
def test_the_gradient_is_a_difference_of_harmonic_numbers(n, k):
    pair = f64(n, k).requires_grad_()
    (gradient,) = torch.autograd.grad(log_binomial(pair[0], pair[1]), pair)
    n, k = f64(n).squeeze(), f64(k).squeeze()
    whole = harmonic_number(n + k)
    expected = torch.stack([whole - harmonic_number(n), whole - harmonic_number(k)])
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 40, 1000])
def test_harmonic_numbers_are_sums(n):
    expected = math.fsum(1 / i for i in range(1, n + 1))
    assert math.isclose(float(harmonic_number(f64(n))), expected, rel_tol=1e-14)


@given(st.floats(1e-6, 1e-3))
def test_small_harmonic_numbers_follow_their_slope(n):
    zeta_2, zeta_3, zeta_4 = math.pi**2 / 6, 1.2020569031595942, math.pi**4 / 90
    expected = n * (zeta_2 - n * (zeta_3 - n * zeta_4))
    assert math.isclose(float(harmonic_number(f64(n))), expected, rel_tol=2e-9)
