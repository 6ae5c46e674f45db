"""Relaxed Bernoulli draws: their law, and their logs and gradients at any log odds."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from pyrosparse.distributions import log_relaxed_bernoulli, relaxed_bernoulli
from tests.monte_carlo import assert_mean

DTYPES = [torch.float32, torch.float64]
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
FAR = [-1e7, -1e5, -200.0, -20.0, 0.0, 20.0, 200.0, 1e5, 1e7]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_gates_have_the_law_of_the_definition(temperature, dtype):
    logits = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=dtype)
    n = 20_000
    gates = relaxed_bernoulli(logits, temperature, (n,))
    # P(z < x) = sigmoid(tau logit x - logits). A gate of the low temperature may round to 1,
    # where this is 1 too.
    uniform = (temperature * gates.double().logit() - logits).sigmoid().sort(0).values
    steps = (torch.arange(n + 1, dtype=torch.float64) / n).unsqueeze(-1)
    below, above = uniform - steps[:-1], steps[1:] - uniform
    inside = (gates.sort(0).values < 1 - 1e-3) & (gates.sort(0).values > 1e-30)
    assert inside.any(0).all()
    gap = torch.maximum(below, above)[inside].max()
    # Kolmogorov's distribution: 2.6 / sqrt(n) is passed once in 370,000.
    assert gap < 2.6 / math.sqrt(n)
    # Whatever the temperature, a gate is above 1/2 with probability pi.
    assert_mean((gates > 0.5).double(), logits.double().sigmoid())


def test_cold_gates_are_bernoulli_draws():
    pi = torch.tensor([0.01, 0.3, 0.9])
    gates = relaxed_bernoulli(pi.logit(), 1e-4, (20_000,))
    assert ((gates < 1e-3) | (gates > 1 - 1e-3)).float().mean() > 0.998
    # Gates that are neither 0 nor 1 are at most one in 500.
    assert_mean(gates.double().round(), pi.double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_log_odds_give_numbers_and_the_log_keeps_a_gradient(dtype):
    logits = torch.tensor(FAR, dtype=dtype, requires_grad=True)
    gates = relaxed_bernoulli(logits, 0.1, (500,))
    logs = log_relaxed_bernoulli(logits, 0.1, (500,))
    assert gates.dtype == logs.dtype == dtype
    for value in (gates, logs):
        (gradient,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        assert value.isfinite().all() and gradient.isfinite().all()
    # log z is linear in the log odds where z is 0: its slope is 1 / tau.
    torch.testing.assert_close(gradient[:3], torch.full((3,), 500 / 0.1, dtype=dtype))
    assert (gates[:, :3] < 1e-30).all() and (gates[:, -3:] == 1).all()
    noise = 0.1 * logs[:, :4].detach() - logits[:4].detach()
    assert (noise.abs() < (40 if dtype is torch.float64 else 18) + 1e-6 * logits[:4].abs()).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_the_log_is_the_log_of_the_same_gates(temperature, dtype):
    logits = torch.linspace(-3, 3, 50, dtype=dtype)
    draws = []
    for draw in (relaxed_bernoulli, log_relaxed_bernoulli):
        torch.manual_seed(1)
        draws.append(draw(logits, temperature, (40,)))
    # The sigmoid of an exponent of -100 has 100 times the exponent's relative error; below the
    # least normal number digits are missing.
    numbers = torch.finfo(dtype)
    torch.testing.assert_close(
        draws[0], draws[1].exp(), rtol=200 * numbers.eps, atol=numbers.smallest_normal
    )


def test_gradients_are_finite_differences():
    logits = torch.linspace(-2, 2, 7, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def seeded(draw):
        def run(logits, temperature):
            torch.manual_seed(0)
            return draw(logits, temperature, (3,))

        return run

    for draw in (relaxed_bernoulli, log_relaxed_bernoulli):
        torch.autograd.gradcheck(seeded(draw), (logits, temperature))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("end", ["least", "greatest"])
def test_the_ends_of_the_generator_give_numbers(end, dtype):
    # Zero comes once in 2^24 draws in float32: a step of training can meet it.
    number = 0.0 if end == "least" else 1 - torch.finfo(dtype).eps / 2
    logits = torch.tensor(FAR, dtype=dtype, requires_grad=True)
    for draw in (relaxed_bernoulli, log_relaxed_bernoulli):
        with mock.patch.object(
            torch, "rand", lambda shape, **options: torch.full(shape, number, **options)
        ):
            value = draw(logits, 0.1)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.isfinite().all() and gradient.isfinite().all()
        # The noise of this number is on its own side of 0.
        middle = value[FAR.index(0.0)] - (math.log(0.5) if draw is log_relaxed_bernoulli else 0.5)
        assert (middle < 0) == (end == "least")


def test_half_precision_has_the_noise_of_float32():
    logits = torch.zeros(100_000, dtype=torch.bfloat16)
    gates = relaxed_bernoulli(logits, 5.0)
    assert gates.dtype == torch.bfloat16
    # The 8 bits of bfloat16 know 256 uniforms; of the gates themselves there are more.
    assert gates.unique().numel() > 300


@given(SHAPES, SHAPES)
def test_shapes(shape, sample_shape):
    logits = torch.randn(shape)
    for draw in (relaxed_bernoulli, log_relaxed_bernoulli):
        assert draw(logits, 0.1, sample_shape).shape == sample_shape + shape


@given(st.floats(-20, 20), st.floats(0.05, 5))
def test_the_opposite_log_odds_give_the_opposite_law(logit, temperature):
    logits = torch.tensor(logit, dtype=torch.float64)
    there = relaxed_bernoulli(logits, temperature, (2000,))
    back = 1 - relaxed_bernoulli(-logits, temperature, (2000,))
    assert_mean(there - back, 0.0, rounding=1e-6)


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("draw", [relaxed_bernoulli, log_relaxed_bernoulli])
def test_bad_temperatures_are_refused(draw, temperature):
    with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
        draw(torch.zeros(3), temperature)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tracer_sees_tensors_only(dtype):
    def step(logits, temperature):
        loss = relaxed_bernoulli(logits, 0.1, (3,)) + log_relaxed_bernoulli(logits, temperature)
        return loss.detach(), *torch.autograd.grad(loss.sum(), logits)

    first, second = (
        (torch.linspace(-5, end, 6, dtype=dtype, requires_grad=True), torch.tensor(end).to(dtype))
        for end in (1.0, 3.0)
    )
    program = make_fx(step, tracing_mode="real")(*first)
    torch.manual_seed(2)
    actual = program(*second)
    torch.manual_seed(2)
    for one, other in zip(actual, step(*second), strict=True):
        torch.testing.assert_close(one, other)
