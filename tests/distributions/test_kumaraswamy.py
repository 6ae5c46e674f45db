"""The Kumaraswamy distribution against high precision, quadrature and Monte Carlo.

The grids reach from where gates end (a = 1e-5; b = 4.5e-5, the floor of the paper's code) to
where they start (a = 19, b = 1: E[pi] = 0.95) and beyond (b = 50).
"""

import itertools
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from unittest import mock

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

from pyrosparse.captured import CapturedSVI
from pyrosparse.distributions import Kumaraswamy, LogitKumaraswamy, kumaraswamy
from tests.distributions.high_precision import (
    kumaraswamy_log_density,
    kumaraswamy_logit_gradient,
    kumaraswamy_quantile,
    logit,
    precise,
)
from tests.monte_carlo import assert_mean

A = [1e-5, 1e-4, 0.01, 0.3133, 1.0, 2.13, 19.0, 1000.0]
B = [4.5e-5, 1e-3, 0.1, 0.5, 1.0, 3.0, 50.0]
GRID = list(itertools.product(A, B))
FLOAT32 = torch.float32
FLOAT64 = torch.float64
DTYPES = [FLOAT32, FLOAT64]
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
PARAMETERS = st.floats(0.05, 20)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=FLOAT64)


def grid(dtype: torch.dtype, requires_grad: bool = False) -> tuple[Tensor, Tensor]:
    a, b = torch.tensor(GRID, dtype=dtype).unbind(-1)
    return a.clone().requires_grad_(requires_grad), b.clone().requires_grad_(requires_grad)


def log_grid(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The logs of the grid, the same numbers in both dtypes, with gradients."""
    a, b = (x.log().to(dtype) for x in grid(FLOAT32))
    return a.requires_grad_(), b.requires_grad_()


def mean_under(q: LogitKumaraswamy, function: Callable[[Tensor], Tensor]) -> Tensor:
    """E[f(logit pi)] of one q by the trapezoid rule, over log odds that grow exponentially."""
    reach = math.asinh(50 / min(float(q.base.a), 1) + 50 / min(float(q.base.b), 1))
    steps = torch.linspace(-reach, reach, 8_001, dtype=FLOAT64)
    logits, speed = steps.sinh(), steps.cosh()
    density = q.log_prob(logits).exp() * speed
    # Where nothing of q is left a function may be infinite, which does not count.
    values = torch.where(density > 0, function(logits), 0.0)
    return torch.trapezoid(density * values, steps)


# Draws.


def test_draws_follow_equation_14_to_the_last_digits():
    compared = 0
    for (a, b), probability in itertools.product(GRID, [1e-12, 0.01, 0.5, 0.9, 1 - 1e-12]):
        digits = -math.log10(1 - probability) / b
        if digits > 100:
            continue
        q = LogitKumaraswamy(f64(a).squeeze(), f64(b).squeeze())
        actual = q.icdf(f64(probability).squeeze()).item()
        with precise(digits + 40):
            numbers = Decimal(probability), Decimal(a), Decimal(b)
            expected = float(logit(kumaraswamy_quantile(*numbers)))
        # A relative error of 1e-16 in -log pi, which the logit subtracts.
        assert math.isclose(actual, expected, rel_tol=1e-13, abs_tol=1e-15 * max(1, 1 / a))
        compared += 1
    assert compared > 200


@pytest.mark.parametrize("b", [4.5e-5, 1e-3, 0.01])
@pytest.mark.parametrize("a", A)
def test_draws_next_to_one_keep_their_log_odds(a, b):
    # u^(1/b) is below 1e-30 here, where 1 - pi = u^(1/b) / a to as many digits: log odds up to
    # 15,000, of a pi that is 1 in any floating dtype.
    probability = torch.tensor(0.5 if b < 0.01 else 0.9, dtype=FLOAT32)
    q = LogitKumaraswamy(torch.tensor(a), torch.tensor(b))
    log_u = math.log1p(-probability.item())
    expected = -log_u / q.base.b.item() + math.log(q.base.a.item())
    assert math.isclose(q.icdf(probability).item(), expected, rel_tol=1e-6)


def test_gradients_of_draws_are_those_of_equation_14():
    for (a, b), probability in itertools.product(GRID, [1e-12, 0.01, 0.5, 0.9]):
        digits = -math.log10(1 - probability) / b
        if digits > 100:
            continue
        logs = torch.log(f64(a, b)).requires_grad_()
        q = LogitKumaraswamy(log_a=logs[0], log_b=logs[1])
        (gradient,) = torch.autograd.grad(q.icdf(f64(probability).squeeze()), logs)
        with precise(digits + 80):
            expected = f64(*kumaraswamy_logit_gradient(probability, *logs.tolist()))
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("draw", ["log_rsample", "logit_rsample"])
def test_float32_draws_and_their_gradients_are_those_of_float64(draw):
    results = []
    for dtype in DTYPES:
        log_a, log_b = log_grid(dtype)
        torch.manual_seed(1)
        draws = getattr(Kumaraswamy(log_a=log_a, log_b=log_b), draw)((50,))
        assert draws.dtype == dtype and draws.shape == (50, len(GRID))
        gradients = torch.autograd.grad(draws.sum(), (log_a, log_b))
        results.append([draws.detach().double(), *(x.double() for x in gradients)])
    for single, double in zip(*results, strict=True):
        assert single.isfinite().all()
        # log pi underflows to 0 next to pi = 1; nothing else is 0.
        allowed = torch.finfo(FLOAT32).smallest_normal if draw == "log_rsample" else 0
        torch.testing.assert_close(single, double, rtol=2e-6, atol=allowed)
        if draw == "logit_rsample":
            assert single.count_nonzero() == single.numel()


def test_all_draws_and_gradients_of_the_papers_prior_are_numbers_in_float32():
    log_a = torch.full((200,), math.log(1e-4), requires_grad=True)
    log_b = torch.zeros(200, requires_grad=True)
    q = Kumaraswamy(log_a=log_a, log_b=log_b)
    for draw in (q.log_rsample, q.logit_rsample):
        value = draw((500,))
        # Of a log pi of -1e4, one in 1e4 is above -1; the draws in pi itself are 0.
        assert value.isfinite().all() and (value != 0).all()
        for gradient in torch.autograd.grad(value.sum(0).sum(), (log_a, log_b)):
            assert gradient.isfinite().all() and (gradient != 0).all()
    assert (q.rsample((500,)) == torch.finfo(FLOAT32).tiny).float().mean() > 0.98
    assert_mean(q.log_rsample((4000,)).double(), -1e4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_three_kinds_of_draws_are_one_draw(dtype):
    q = Kumaraswamy(*grid(dtype))

    def seeded(draw: Callable[..., Tensor]) -> Tensor:
        torch.manual_seed(3)
        return draw((20,))

    pi, log_pi, log_odds = (seeded(x) for x in (q.rsample, q.log_rsample, q.logit_rsample))
    rounding = torch.finfo(dtype).eps
    numbers = {"rtol": 4 * rounding, "atol": 4 * rounding}
    torch.testing.assert_close(pi, log_pi.exp(), **numbers)
    torch.testing.assert_close(pi, log_odds.sigmoid(), **numbers)
    # Next to pi = 1, log pi is -exp(-log odds), and the rounding of the exponent counts.
    exponent = (1 + log_odds.abs()).double()
    off = (torch.nn.functional.logsigmoid(log_odds) - log_pi).abs()
    assert (off <= 2 * rounding * exponent * log_pi.abs() + torch.finfo(dtype).tiny).all()
    assert torch.equal(seeded(LogitKumaraswamy(q.a, q.b).rsample), log_odds)
    assert torch.equal(seeded(q.sample), pi)
    assert (pi > 0).all() and (pi < 1).all()


@pytest.mark.parametrize(("a", "b"), GRID)
def test_draws_have_the_law_of_their_cdf(a, b):
    q = LogitKumaraswamy(f64(a).squeeze(), f64(b).squeeze())
    n = 5000
    uniform = q.cdf(q.sample((n,))).sort().values
    steps = torch.arange(n + 1, dtype=FLOAT64) / n
    gap = torch.maximum((steps[1:] - uniform).max(), (uniform - steps[:-1]).max())
    # Kolmogorov's distribution: 2.6 / sqrt(n) is passed once in 370,000.
    assert gap < 2.6 / math.sqrt(n)


@given(PARAMETERS, PARAMETERS, st.floats(0.1, 10))
def test_a_power_of_pi_has_another_a(a, b, power):
    q, of_power = Kumaraswamy(f64(a), f64(b)), Kumaraswamy(f64(a / power), f64(b))
    draws = []
    for one in (q, of_power):
        torch.manual_seed(0)
        draws.append(one.log_rsample((10,)))
    torch.testing.assert_close(power * draws[0], draws[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_the_generator_give_numbers(dtype):
    # torch.rand draws whole multiples of eps / 2 in [0, 1). Zero must not become an infinity, nor
    # as much as the next number.
    step = torch.finfo(FLOAT64).eps / 2
    draws = []
    for number in (0.0, step, 1 - step):
        logs = log_grid(dtype)
        q = Kumaraswamy(log_a=logs[0], log_b=logs[1])

        def constant(shape: torch.Size, number: float = number, **options: Any) -> Tensor:
            return torch.full(shape, number, **options)

        with mock.patch.object(torch, "rand", constant):
            values = q.logit_rsample(), q.log_rsample(), q.rsample()
        for value in values:
            gradients = torch.autograd.grad(value.sum(), logs, retain_graph=True)
            assert all(x.isfinite().all() for x in (value, *gradients))
        draws.append(values[0])
    assert (draws[0] < draws[1]).all() and (draws[1] < draws[2]).all()


# Densities.


def test_log_density_is_equation_13():
    for (a, b), x in itertools.product(GRID, [1e-30, 1e-5, 0.2, 0.5, 0.99, 1 - 1e-7]):
        for dtype in DTYPES:
            value = torch.tensor(x, dtype=dtype)
            parameters = torch.tensor([a, b], dtype=dtype)
            actual = Kumaraswamy(*parameters).log_prob(value)
            assert actual.dtype == dtype
            with precise(60):
                numbers = [Decimal(y) for y in (value.item(), *parameters.tolist())]
                expected = float(kumaraswamy_log_density(*numbers))
                pi = numbers[0]
                at_logit, jacobian = float(logit(pi)), float((pi * (1 - pi)).ln())
            rounding = 2 * torch.finfo(dtype).eps
            assert math.isclose(actual.item(), expected, rel_tol=rounding, abs_tol=1e-12)
            log_odds = torch.tensor(at_logit, dtype=FLOAT64)
            actual = LogitKumaraswamy(*parameters.double()).log_prob(log_odds)
            # The log odds are rounded too; a density that falls like x^a turns that into a x 1e-16.
            allowed = 1e-13 * (1 + a)
            assert math.isclose(actual.item(), expected + jacobian, rel_tol=1e-12, abs_tol=allowed)


@pytest.mark.parametrize(("a", "b"), GRID)
def test_densities_are_normalised_and_give_the_moments(a, b):
    q = LogitKumaraswamy(f64(a).squeeze(), f64(b).squeeze())
    base = q.base
    for actual, expected in [
        (mean_under(q, torch.ones_like), f64(1.0).squeeze()),
        (mean_under(q, torch.sigmoid), base.mean),
        (mean_under(q, lambda x: (x.sigmoid() - base.mean).square()), base.variance),
        (mean_under(q, lambda x: x), q.mean),
        (mean_under(q, lambda x: -base_log_prob(base, x)), base.entropy()),
    ]:
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


def base_log_prob(base: Kumaraswamy, log_odds: Tensor) -> Tensor:
    """Log density of pi at log odds, from that of the log odds and the change of variables."""
    softplus = -torch.nn.functional.logsigmoid(torch.stack([log_odds, -log_odds])).sum(0)
    return LogitKumaraswamy(log_a=base.log_a, log_b=base.log_b).log_prob(log_odds) + softplus


@pytest.mark.parametrize(("a", "b"), GRID)
def test_cdf_is_the_integral_of_the_density(a, b):
    q = LogitKumaraswamy(f64(a).squeeze(), f64(b).squeeze())
    for at in q.icdf(f64(0.1, 0.5, 0.9)).tolist():
        below = mean_under(q, lambda x, at=at: ((at - x) * 1e3 / max(1, abs(at))).sigmoid())
        assert abs(below - q.cdf(f64(at))) < 2e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_cdf_and_icdf_invert_each_other(dtype):
    probability = torch.tensor([[0.0], [1e-6], [0.3], [0.9], [1.0]], dtype=dtype)
    rounding = torch.finfo(dtype).eps
    q = Kumaraswamy(*(torch.tensor(x, dtype=dtype) for x in ([0.5, 3.0, 19.0], [0.5, 2.0, 1.0])))
    # A probability next to 1 is known to its rounding only, as is pi.
    torch.testing.assert_close(
        q.cdf(q.icdf(probability)), probability.expand(5, 3), rtol=200 * rounding, atol=0
    )
    assert torch.equal(q.icdf(probability)[[0, -1]], probability[[0, -1]].expand(2, 3))
    log_odds = LogitKumaraswamy(*grid(dtype))
    inner = probability[1:-1]
    torch.testing.assert_close(
        log_odds.cdf(log_odds.icdf(inner)),
        inner.expand(3, len(GRID)),
        rtol=200 * rounding,
        atol=0,
    )
    ends = log_odds.icdf(probability[[0, -1]])
    assert (ends[0] == -math.inf).all() and (ends[1] == math.inf).all()
    assert (Kumaraswamy(*grid(dtype)).cdf(torch.tensor(0.0, dtype=dtype)) == 0).all()


# Closed forms.


@pytest.mark.parametrize("b", [1, 2, 50])
@pytest.mark.parametrize("a", A)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_is_a_product_where_b_is_whole(a, b, dtype):
    a = torch.tensor(a, dtype=dtype)
    q = Kumaraswamy(a, b)
    # b B(1 + n / a, b) = (1 / (1 + s)) (2 / (2 + s)) ... (b / (b + s)) with s = n / a.
    first, second = (
        -math.fsum(math.log1p(n / a.item() / k) for k in range(1, b + 1)) for n in (1, 2)
    )
    rounding = 2 * torch.finfo(dtype).eps
    assert math.isclose(q.log_mean.item(), first, rel_tol=rounding + 1e-12)
    expected = f64(math.exp(first), math.exp(second) - math.exp(2 * first)).to(dtype)
    actual = torch.stack([q.mean, q.variance])
    torch.testing.assert_close(actual, expected, rtol=rounding + 1e-9, atol=1e-15)
    log_odds = first - math.log(-math.expm1(first))
    assert math.isclose(q.logit_mean.item(), log_odds, rel_tol=rounding + 1e-11, abs_tol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.floats(1e-6, 1e4))
def test_log_odds_of_the_mean_are_exact_where_a_or_b_is_one(dtype, value):
    x = torch.tensor(value, dtype=dtype)
    expected = x.double().log().to(dtype)
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-10 if dtype is FLOAT64 else 1e-7}
    torch.testing.assert_close(Kumaraswamy(x, 1).logit_mean, expected, **close)
    torch.testing.assert_close(Kumaraswamy(1, x).logit_mean, -expected, **close)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("a", "b"), [(1e20, 1.0), (1.0, 1e-20), (1e12, 1e-12), (1e-20, 1.0)])
def test_moments_are_numbers_where_pi_is_certain(a, b, dtype):
    q = Kumaraswamy(torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype))
    assert q.logit_mean.isfinite() and q.stddev.isfinite() and 0 <= q.variance < 1e-6
    assert (q.logit_mean > 20) == (a >= 1)


def test_moments_agree_with_draws():
    a, b = f64(0.3133, 0.3133, 5.0, 2.13, 0.05), f64(1.0, 20.0, 0.3, 1.0, 0.05)
    q, logit_q = Kumaraswamy(a, b), LogitKumaraswamy(a, b)
    draws = q.sample((20_000,))
    assert_mean(draws, q.mean)
    assert_mean((draws - q.mean).square(), q.variance)
    logits = logit_q.sample((20_000,))
    assert_mean(logits, logit_q.mean)
    # On the scale of log odds, where draws next to 1 are not rounded to it.
    assert_mean(-base_log_prob(q, logits), q.entropy())


def test_a_uniform_probability():
    for one in (torch.tensor(1.0), f64(1.0).squeeze()):
        q = Kumaraswamy(one, one)
        values = torch.tensor([0.0, 1e-30, 0.3, 1.0], dtype=one.dtype)
        assert torch.equal(q.log_prob(values), torch.zeros_like(values))
        torch.testing.assert_close(q.cdf(values), values)
        torch.testing.assert_close(q.mean, one / 2)
        torch.testing.assert_close(q.variance, one / 12)
        torch.testing.assert_close(q.entropy(), 0 * one, rtol=0, atol=1e-15)
        torch.testing.assert_close(q.logit_mean, 0 * one, rtol=0, atol=1e-15)
        for p in (dist.Beta(one, one), Kumaraswamy(one, one), Kumaraswamy(1, 1)):
            torch.testing.assert_close(kl_divergence(q, p), 0 * one, rtol=0, atol=1e-15)


# KL divergences.


def test_kl_gives_the_figures_of_an_independent_monte_carlo_run():
    # A million draws of the textbook formulas in float64, and their standard errors.
    q = Kumaraswamy(f64(0.3133, 5.0, 1e-4), f64(1.0, 0.3, 1.0))
    for prior in (Kumaraswamy(1e-4, 1), dist.Beta(f64(1e-4), f64(1.0))):
        kl = kl_divergence(q, prior)
        torch.testing.assert_close(kl, f64(7.0501, 11.5411, 0.0), rtol=0, atol=5e-5)
        assert abs(kl[0] - 7.0489) < 4 * 0.0010
    torch.testing.assert_close(q.mean, f64(0.23856, 0.92982, 1e-4), rtol=0, atol=5e-6)
    assert abs(q.mean[0] - 0.23851) < 4 * 0.0003


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [1e-4, 0.5, 3.0])
def test_kl_to_beta_alpha_1_is_the_same_however_the_prior_is_written(alpha, dtype):
    a, b = grid(dtype)
    q, logit_q = Kumaraswamy(a, b), LogitKumaraswamy(a, b)
    alpha = torch.tensor(alpha, dtype=dtype)
    expected = kl_divergence(q, Kumaraswamy(alpha, 1))
    wide_a, wide_b = a.double(), b.double()
    # Equation 16 as it stands.
    ratio = alpha.double() / wide_a
    mean_log = -0.57721566490153286 - torch.digamma(wide_b) - 1 / wide_b
    written = (1 - ratio) * mean_log - ratio.log() + wide_b.log() - (wide_b - 1) / wide_b
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-15}
    torch.testing.assert_close(expected.double(), written, rtol=1e-6, atol=1e-6)
    one = torch.ones((), dtype=dtype)
    for prior in (Kumaraswamy(alpha, one), dist.Beta(alpha, one), Kumaraswamy(alpha, log_b=0)):
        torch.testing.assert_close(kl_divergence(q, prior), expected, **close)
    for prior in (LogitKumaraswamy(alpha, 1), LogitKumaraswamy(alpha, one)):
        torch.testing.assert_close(kl_divergence(logit_q, prior), expected, **close)


def test_the_closed_form_needs_no_quadrature():
    q = LogitKumaraswamy(*grid(FLOAT32))
    prior = LogitKumaraswamy(1e-4, 1)
    expected = kl_divergence(q, prior)
    with mock.patch.object(Kumaraswamy, "_mean_log_opposite", side_effect=AssertionError):
        assert torch.equal(kl_divergence(q, prior.expand(q.batch_shape)), expected)
        assert torch.equal(kl_divergence(q.base, Kumaraswamy(1e-4, log_b=0.0)), expected)
        with pytest.raises(AssertionError):
            kl_divergence(q, LogitKumaraswamy(1e-4, 2))
        # Tensors are not looked at.
        with pytest.raises(AssertionError):
            kl_divergence(q, LogitKumaraswamy(1e-4, torch.ones(())))


PRIORS = [(1e-4, 1.0), (0.5, 2.0), (2.0, 0.3), (1e-4, 30.0), (7.0, 1e-3)]


@pytest.mark.parametrize(("alpha", "beta"), PRIORS)
@pytest.mark.parametrize(("a", "b"), GRID)
def test_kl_is_the_integral_of_the_log_ratio(a, b, alpha, beta):
    q = LogitKumaraswamy(f64(a).squeeze(), f64(b).squeeze())
    p = LogitKumaraswamy(f64(alpha).squeeze(), f64(beta).squeeze())
    expected = mean_under(q, lambda x: q.log_prob(x) - p.log_prob(x))
    # What the docstring says of the quadrature.
    allowed = {"rtol": 1e-10, "atol": abs(beta - 1) * (4e-7 if b < 0.01 else 3e-9) + 1e-9}
    torch.testing.assert_close(kl_divergence(q, p), expected, **allowed)

    def beta_log_prob(x: Tensor) -> Tensor:
        log_pi, log_rest = torch.nn.functional.logsigmoid(torch.stack([x, -x]))
        log_norm = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
        return alpha * log_pi + beta * log_rest - log_norm

    expected = mean_under(q, lambda x: q.log_prob(x) - beta_log_prob(x))
    prior = dist.Beta(f64(alpha).squeeze(), f64(beta).squeeze())
    torch.testing.assert_close(kl_divergence(q.base, prior), expected, **allowed)


@pytest.mark.parametrize(("a", "b"), [(0.3, 1.0), (1.0, 0.5), (5.0, 2.0), (1e-3, 1.5), (19.0, 1.0)])
def test_kl_to_beta_is_the_series_of_nalisnick_and_smyth(a, b):
    terms = torch.arange(1, 1_000_001, dtype=FLOAT64)
    log_beta = torch.lgamma(terms / a + 1) + math.lgamma(b) - torch.lgamma(terms / a + 1 + b)
    series = b * log_beta.exp() / terms
    # The terms fall like a power, so that what is left out is close to an integral of the power.
    rest = series[-1] * (terms[-1] + 0.5) / b
    alpha, beta = 0.7, 2.5
    q = Kumaraswamy(f64(a).squeeze(), f64(b).squeeze())
    to_one, to_beta = (
        kl_divergence(q, dist.Beta(f64(alpha).squeeze(), f64(second).squeeze()))
        for second in (1.0, beta)
    )
    norm = math.lgamma(beta) + math.lgamma(alpha) - math.lgamma(alpha + beta) + math.log(alpha)
    expected = to_one + norm + (beta - 1) * (series.sum() + rest)
    torch.testing.assert_close(to_beta, expected, rtol=1e-7, atol=0)


def test_kl_equals_monte_carlo_where_the_prior_lives_in_float32():
    a = torch.tensor([1e-5, 1e-4, 3e-4, 0.01, 0.3133, 19.0, 1e-4, 1e-4, 0.3])
    b = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 50.0, 0.1, 4.5e-5])
    q = LogitKumaraswamy(a, b)
    for p in (LogitKumaraswamy(1e-4, 1), LogitKumaraswamy(0.5, 3.0)):
        draws = q.sample((20_000,))
        ratio = q.log_prob(draws) - p.log_prob(draws)
        assert ratio.isfinite().all()
        assert_mean(ratio, kl_divergence(q, p), rounding=1e-6)


@given(PARAMETERS, PARAMETERS, PARAMETERS, PARAMETERS, st.floats(0.1, 10))
def test_kl_is_positive_zero_to_itself_and_the_same_for_powers_of_pi(a, b, c, d, power):
    q, p = Kumaraswamy(f64(a), f64(b)), Kumaraswamy(f64(c), f64(d))
    kl = kl_divergence(q, p)
    assert kl > -1e-9
    assert abs(kl_divergence(q, Kumaraswamy(f64(a), f64(b)))) < 1e-9
    powers = [Kumaraswamy(f64(x / power), f64(y)) for x, y in ((a, b), (c, d))]
    torch.testing.assert_close(kl_divergence(*powers), kl, rtol=1e-9, atol=1e-9)


# Gradients of what is in closed form.


def closed_forms(q: Kumaraswamy) -> dict[str, Tensor]:
    logit_q = LogitKumaraswamy(log_a=q.log_a, log_b=q.log_b)
    dtype = q.log_a.dtype
    return {
        "log_mean": q.log_mean,
        "logit_mean": q.logit_mean,
        "mean": q.mean,
        "variance": q.variance,
        "entropy": q.entropy(),
        "mean of the logit": logit_q.mean,
        "kl": kl_divergence(q, Kumaraswamy(2**-13, 1)),
        "kl to kumaraswamy": kl_divergence(q, Kumaraswamy(2**-13, 2.0)),
        "kl to beta": kl_divergence(q, dist.Beta(*torch.tensor([2**-13, 2.0], dtype=dtype))),
        "log_prob": q.log_prob(torch.tensor(0.25, dtype=dtype)),
        "log_prob of the logit": logit_q.log_prob(torch.tensor(-1e3, dtype=dtype)),
        "cdf": q.cdf(torch.tensor(0.25, dtype=dtype)),
        "cdf of the logit": logit_q.cdf(torch.tensor(-1e3, dtype=dtype)),
    }


NAMES = list(closed_forms(Kumaraswamy(1.0, 1.0)))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_differences(name):
    pairs = [(0.3133, 1.0), (2.13, 0.4), (0.05, 6.0), (19.0, 1.0), (1.0, 1.0), (0.01, 50.0)]
    logs = torch.tensor(pairs, dtype=FLOAT64).log().T.requires_grad_()
    torch.autograd.gradcheck(
        lambda x: closed_forms(Kumaraswamy(log_a=x[0], log_b=x[1]))[name],
        (logs,),
        eps=1e-5,
        atol=1e-7,
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", NAMES)
def test_float32_values_and_gradients_are_those_of_float64_over_the_grid(name):
    results = []
    for dtype in DTYPES:
        logs = log_grid(dtype)
        value = closed_forms(Kumaraswamy(log_a=logs[0], log_b=logs[1]))[name]
        assert value.dtype == dtype
        gradients = torch.autograd.grad(value.sum(), logs)
        results.append([x.detach().double() for x in (value, *gradients)])
    for single, double in zip(*results, strict=True):
        assert double.isfinite().all() and single.isfinite().all()
        # Below the least number of float32 there is only 0.
        torch.testing.assert_close(single, double, rtol=1e-6, atol=1e-37)


def test_a_device_without_float64_gets_numbers_too():
    results = []
    for dtype in (FLOAT64, FLOAT32):
        with mock.patch.object(kumaraswamy, "_working_dtype", lambda device, dtype=dtype: dtype):
            logs = log_grid(FLOAT32)
            q = Kumaraswamy(log_a=logs[0], log_b=logs[1])
            draws = q.logit_rsample((2000,)) + q.log_rsample((2000,))
            values = [*closed_forms(q).values()]
            for value in (draws, *values):
                for x in (value, *torch.autograd.grad(value.sum(), logs, retain_graph=True)):
                    assert x.isfinite().all()
            results.append([kl_divergence(q, Kumaraswamy(1e-4, b)) for b in (1, 2.0)])
    for double, single in zip(*results, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_score_through_the_value():
    for q in (Kumaraswamy(*grid(FLOAT32)), LogitKumaraswamy(*grid(FLOAT32))):
        value = q.sample().requires_grad_()
        (gradient,) = torch.autograd.grad(q.log_prob(value).sum(), value)
        assert q.log_prob(value).isfinite().all() and gradient.isfinite().all()
    at_the_ends = torch.tensor([0.0, 1.0], requires_grad=True)
    q = Kumaraswamy(torch.tensor(1e-5), torch.tensor(0.1))
    score = q.log_prob(at_the_ends)
    (gradient,) = torch.autograd.grad(score.sum(), at_the_ends)
    assert score.isfinite().all() and gradient.isfinite().all()


# Shapes, arguments, Pyro.


@pytest.mark.parametrize("kind", [Kumaraswamy, LogitKumaraswamy])
@given(SHAPES, SHAPES, st.integers(0, 3))
def test_shapes(kind, shape, sample_shape, event_dims):
    q = kind(torch.rand(shape, dtype=FLOAT64) + 0.1, torch.rand((), dtype=FLOAT64) + 0.1)
    assert q.batch_shape == shape and q.event_shape == ()
    assert q.rsample(sample_shape).shape == q(sample_shape).shape == sample_shape + shape
    value = q.sample(sample_shape)
    log_prob = q.log_prob(value)
    assert log_prob.shape == sample_shape + shape
    expanded = q.expand(sample_shape + shape)
    assert type(expanded) is kind and expanded.batch_shape == sample_shape + shape
    assert expanded.rsample().shape == sample_shape + shape
    assert torch.equal(expanded.log_prob(value), log_prob)
    event_dims = min(event_dims, len(shape))
    event = q.to_event(event_dims)
    assert event.event_shape == shape[len(shape) - event_dims :]
    kept = tuple(range(-event_dims, 0))
    expected = log_prob.sum(kept) if kept else log_prob
    torch.testing.assert_close(event.log_prob(value), expected)
    kl = kl_divergence(event, kind(0.5, 2.0).expand(shape).to_event(event_dims))
    assert kl.shape == shape[: len(shape) - event_dims]


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_or_their_logs(dtype):
    a, b = grid(dtype)
    plain, logs = Kumaraswamy(a, b), Kumaraswamy(log_a=a.log(), log_b=b.log())
    rounding = 12 * torch.finfo(dtype).eps
    for name in ("a", "b", "log_a", "log_b"):
        value = getattr(plain, name)
        assert value.dtype == dtype
        torch.testing.assert_close(getattr(logs, name), value, rtol=rounding, atol=0)
    # Parameters are kept as logs in float64.
    assert dtype is FLOAT64 or (torch.equal(plain.a, a) and torch.equal(plain.b, b))
    torch.testing.assert_close(logs.entropy(), plain.entropy(), rtol=rounding, atol=rounding)
    mixed = Kumaraswamy(a, log_b=b.log())
    torch.testing.assert_close(mixed.entropy(), plain.entropy(), rtol=rounding, atol=rounding)


def test_numbers_and_tensors_of_either_dtype():
    assert Kumaraswamy(1, 2).sample().dtype == FLOAT32
    assert Kumaraswamy(torch.tensor(2), 1).sample().dtype == FLOAT32
    assert Kumaraswamy(f64(1.0), 2).sample().dtype == FLOAT64
    assert Kumaraswamy(torch.ones(3), f64(2.0)).sample().dtype == FLOAT64
    assert Kumaraswamy(torch.ones(3), 2).sample().shape == (3,)


BAD = [
    ({"a": 0.0, "b": 1.0}, "a must be positive and finite, got 0.0"),
    ({"a": -1.0, "b": 1.0}, "a must be positive and finite, got -1.0"),
    ({"a": 1.0, "b": math.inf}, "b must be positive and finite, got inf"),
    ({"a": math.nan, "b": 1.0}, "a must be positive and finite, got nan"),
    ({"a": torch.tensor([1.0, -2.0]), "b": 1.0}, "a must be .*: 1 of 2 elements are not, .* -2.0"),
    ({"a": 1.0, "b": torch.tensor(math.nan)}, "b must be positive and finite: 1 of 1"),
    ({"log_a": math.inf, "b": 1.0}, "log_a must be finite, got inf"),
    ({"a": 1.0, "log_b": torch.tensor([math.nan])}, "log_b must be finite: 1 of 1"),
    ({"b": 1.0}, "neither a nor log_a is given"),
    ({"a": 1.0}, "neither b nor log_b is given"),
    ({"a": 1.0, "log_a": 0.0, "b": 1.0}, "a and log_a are both given"),
    ({"a": torch.ones(2), "b": torch.ones(3)}, r"broadcast, got \(2,\) and \(3,\)"),
]


@pytest.mark.parametrize("kind", [Kumaraswamy, LogitKumaraswamy])
@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments, validate_args=True)


def test_values_off_the_support_are_refused():
    with pytest.raises(ValueError, match="support"):
        Kumaraswamy(1.0, 1.0, validate_args=True).log_prob(torch.tensor(1.5))
    with pytest.raises(ValueError, match="support"):
        LogitKumaraswamy(1.0, 1.0, validate_args=True).log_prob(torch.tensor(math.nan))


def model(kind: type, n: int) -> Tensor:
    return pyro.sample("pi", kind(1e-4, 1).expand([n]).to_event(1))


def guide(kind: type, n: int) -> Tensor:
    log_a = pyro.param("log_a", torch.linspace(-9.0, 3.0, n))
    log_b = pyro.param("log_b", torch.linspace(-2.0, 3.0, n))
    return pyro.sample("pi", kind(log_a=log_a, log_b=log_b).to_event(1))


@pytest.mark.parametrize("kind", [Kumaraswamy, LogitKumaraswamy])
def test_the_mean_field_elbo_takes_the_closed_form(kind):
    q = kind(log_a=torch.linspace(-9.0, 3.0, 5), log_b=torch.linspace(-2.0, 3.0, 5))
    expected = kl_divergence(q, kind(1e-4, 1)).sum().item()
    # The closed form has no randomness: it is the same each time.
    for _ in range(2):
        loss = TraceMeanField_ELBO().loss(model, guide, kind, 5)
        assert math.isclose(loss, expected, rel_tol=1e-6)


def test_the_mean_field_elbo_takes_a_beta_prior():
    def beta_model() -> None:
        pyro.sample("pi", dist.Beta(torch.full((5,), 1e-4), torch.ones(5)).to_event(1))

    loss = TraceMeanField_ELBO().loss(beta_model, lambda: guide(Kumaraswamy, 5))
    expected = TraceMeanField_ELBO().loss(model, guide, Kumaraswamy, 5)
    assert math.isclose(loss, expected, rel_tol=1e-6)


def test_the_sampled_elbo_of_log_odds_is_finite_and_right():
    closed = TraceMeanField_ELBO().loss(model, guide, LogitKumaraswamy, 5)
    sampled = [Trace_ELBO().loss(model, guide, LogitKumaraswamy, 5) for _ in range(1000)]
    assert_mean(torch.tensor(sampled, dtype=FLOAT64), closed, rounding=1e-6)


@pytest.mark.parametrize("kind", [Kumaraswamy, LogitKumaraswamy])
def test_traces_replays_and_predictions(kind):
    drawn = poutine.trace(guide).get_trace(kind, 5)
    replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(kind, 5)
    assert replayed.nodes["pi"]["value"] is drawn.nodes["pi"]["value"]
    assert replayed.log_prob_sum().isfinite()
    samples = Predictive(model, guide=guide, num_samples=7)(kind, 5)["pi"]
    assert samples.shape == (7, 5) and samples.isfinite().all()


def test_a_plate_gives_a_draw_a_place():
    def prior():
        with pyro.plate("units", 4):
            return pyro.sample("pi", Kumaraswamy(0.5, 1))

    assert prior().shape == (4,)
    assert poutine.trace(prior).get_trace().log_prob_sum().isfinite()


def test_training_moves_the_guide_to_the_prior():
    adam = pyro.optim.Adam({"lr": 0.05})
    svi = SVI(model, guide, adam, TraceMeanField_ELBO())
    for _ in range(600):
        loss = svi.step(LogitKumaraswamy, 5)
    assert loss < 1e-3
    assert (pyro.param("log_a") - math.log(1e-4)).abs().max() < 0.05
    assert pyro.param("log_b").abs().max() < 0.05


def test_a_captured_step_is_the_eager_step():
    class Guide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_a = torch.nn.Parameter(torch.linspace(-9.0, 3.0, 5))
            self.log_b = torch.nn.Parameter(torch.linspace(-2.0, 3.0, 5))

        def forward(self, x: Tensor) -> Tensor:
            q = LogitKumaraswamy(log_a=self.log_a, log_b=self.log_b)
            return pyro.sample("pi", q.to_event(1))

    def gated(x: Tensor) -> None:
        logits = model(LogitKumaraswamy, 5)
        with pyro.plate("data", len(x)):
            gates = torch.sigmoid(logits / 10)
            pyro.sample("y", dist.Normal(x @ gates, 1.0), obs=x.sum(-1))

    x = torch.randn(8, 5)

    def train(captured: bool) -> tuple[list[float], Tensor]:
        torch.manual_seed(0)
        module = Guide()
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        svi = CapturedSVI(gated, module, optimizer, elbo := TraceMeanField_ELBO())
        losses = []
        for _ in range(10):
            if captured:
                losses.append(svi.step(x))
            else:
                losses.append(elbo.loss_and_grads(gated, module, x))
                optimizer.step()
                optimizer.zero_grad()
        assert not captured or svi.fallback is None
        return losses, module.log_a.detach()

    (eager, expected), (losses, log_a) = train(False), train(True)
    assert losses == pytest.approx(eager, rel=1e-6)
    torch.testing.assert_close(log_a, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tracer_sees_tensors_only(dtype):
    def step(log_a: Tensor, log_b: Tensor) -> tuple[Tensor, ...]:
        q = Kumaraswamy(log_a=log_a, log_b=log_b)
        logit_q = LogitKumaraswamy(log_a=log_a, log_b=log_b)
        prior = dist.Beta(torch.full_like(log_a, 0.5), torch.full_like(log_a, 2.0))
        draw = logit_q.rsample()
        loss = kl_divergence(q, prior) + kl_divergence(logit_q, LogitKumaraswamy(1e-4, 1))
        loss = loss + logit_q.log_prob(draw) + q.log_rsample() + q.log_prob(q.rsample())
        loss = loss + q.logit_mean + q.log_mean + q.entropy() + q.variance + logit_q.mean
        return (draw, *torch.autograd.grad(loss.sum(), (log_a, log_b)))

    first = log_grid(dtype)
    second = tuple((x.detach() / 2).requires_grad_() for x in first)
    with pyro.validation_enabled(False):
        program = make_fx(step, tracing_mode="real")(*first)
        # Run on other values than it was traced with: no value is frozen in it.
        torch.manual_seed(2)
        actual = program(*second)
        torch.manual_seed(2)
        expected = step(*second)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
