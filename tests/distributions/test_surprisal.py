"""Logs of surprisals against their definitions in high precision, in both dtypes."""

import math
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.distributions import surprisal
from tests.distributions.high_precision import derivative, logit, precise

DTYPES = [torch.float32, torch.float64]

# A function, the same in high precision, and where to compare them: at both ends, at the change
# of formula (log 2 nats, even odds) and around it.
CASES = {
    "log_surprisal_of_opposite": (
        lambda y: (-(1 - (-y).exp()).ln()).ln(),
        [1e-30, 1e-9, 1e-3, 0.3, 0.69, math.log(2), 0.7, 2.0, 15.0, 40.0, 85.0, 200.0],
    ),
    "surprisal_of_opposite": (
        lambda log_w: -(1 - (-(log_w.exp())).exp()).ln(),
        [-200.0, -85.0, -20.0, -3.0, -0.37, math.log(math.log(2)), -0.36, 0.0, 1.0],
    ),
    "logit_of_log_surprisal": (
        lambda log_w: logit((-(log_w.exp())).exp()),
        [-200.0, -85.0, -20.0, -3.0, -0.5, -0.2, 0.0, 1.0, 5.0],
    ),
    "log_surprisal_of_logit": (
        lambda x: (-(1 / (1 + (-x).exp())).ln()).ln(),
        [-1e5, -100.0, -20.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 20.0, 100.0, 200.0],
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_definition(name, dtype):
    exact, points = CASES[name]
    x = torch.tensor(points, dtype=dtype, requires_grad=True)
    value = getattr(surprisal, name)(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.dtype == gradient.dtype == dtype
    with precise(150):
        at = [Decimal(one) for one in x.tolist()]
        values = torch.tensor([float(exact(one)) for one in at], dtype=torch.float64)
        slopes = [float(derivative(exact, one)) for one in at]
        gradients = torch.tensor(slopes, dtype=torch.float64)
    rounding = torch.finfo(dtype).eps
    assert ((value.detach() - values).abs() <= 3 * rounding * values.abs()).all()
    assert ((gradient - gradients).abs() <= 3 * rounding * gradients.abs()).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_lost_far_out(dtype):
    far = torch.tensor(3e6, dtype=dtype, requires_grad=True)
    for name, sign, expected in [
        ("log_surprisal_of_opposite", 1, -3e6),
        ("surprisal_of_opposite", -1, 3e6),
        ("logit_of_log_surprisal", -1, 3e6),
        ("log_surprisal_of_logit", 1, -3e6),
        ("log_surprisal_of_logit", -1, math.log(3e6)),
    ]:
        value = getattr(surprisal, name)(sign * far)
        (slope,) = torch.autograd.grad(value, far)
        assert math.isclose(value.item(), expected, rel_tol=1e-6)
        wanted = 1 / 3e6 if expected == math.log(3e6) else math.copysign(1, expected)
        assert math.isclose(slope.item(), wanted, rel_tol=1e-6)


@given(st.floats(-300, 6))
def test_the_functions_invert_each_other(log_surprisal):
    x = torch.tensor(log_surprisal, dtype=torch.float64)
    there = surprisal.surprisal_of_opposite(x)
    torch.testing.assert_close(surprisal.log_surprisal_of_opposite(there), x, rtol=0, atol=1e-12)
    logit = surprisal.logit_of_log_surprisal(x)
    torch.testing.assert_close(surprisal.log_surprisal_of_logit(logit), x, rtol=1e-13, atol=1e-13)


@given(st.floats(1e-300, 700))
def test_the_opposite_of_the_opposite_is_the_event(y):
    y = torch.tensor(y, dtype=torch.float64)
    log_opposite = surprisal.log_surprisal_of_opposite(y)
    torch.testing.assert_close(surprisal.surprisal_of_opposite(log_opposite), y, rtol=1e-12, atol=0)
