"""Functions whose derivatives are formulas: autograd, vmap and forward mode take them."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyrosparse.distributions import special, surprisal

FUNCTIONS = {
    "log_surprisal_of_opposite": (surprisal.log_surprisal_of_opposite, 1, (0.1, 3.0)),
    "surprisal_of_opposite": (surprisal.surprisal_of_opposite, 1, (-2.0, 2.0)),
    "log_surprisal_of_logit": (surprisal.log_surprisal_of_logit, 1, (-3.0, 3.0)),
    "log_binomial": (special.log_binomial, 2, (0.1, 2000.0)),
}


def inputs(count: int, ends: tuple[float, float]) -> tuple[torch.Tensor, ...]:
    low, high = ends
    grids = torch.linspace(low, high, 7).double(), torch.linspace(high, low, 7).double() / 3 + 0.05
    return tuple(grid.requires_grad_() for grid in grids[:count])


# torch's own, where forward mode loads its decompositions.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_both_orders_are_those_of_finite_differences(name):
    function, count, ends = FUNCTIONS[name]
    x = inputs(count, ends)
    assert gradcheck(function, x, check_forward_ad=True)
    assert gradgradcheck(function, x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_is_a_loop(name):
    function, count, ends = FUNCTIONS[name]
    x = tuple(one.detach() for one in inputs(count, ends))

    def gradient(*point):
        return torch.func.grad(lambda *p: function(*p))(*point)

    expected = [gradient(*point) for point in zip(*x, strict=True)]
    assert torch.equal(torch.func.vmap(gradient)(*x), torch.stack(expected))


def test_a_broadcast_input_has_the_sum_of_the_gradients():
    n = torch.tensor([0.5, 3.0, 900.0]).double()
    k = torch.tensor(2.0).double().requires_grad_()
    special.log_binomial(n, k).sum().backward()
    expected = (torch.digamma(1 + n + k) - torch.digamma(1 + k)).sum()
    torch.testing.assert_close(k.grad, expected.detach())


@pytest.mark.parametrize("n", [0.0, 1e-3, 15.0, 999.0, 1000.0, 1e5, 1e30, 1e300])
@pytest.mark.parametrize("k", [1e-3, 1.0, 200.0])
def test_gradients_of_log_binomial_are_sums_of_reciprocals(n, k):
    r"""By the larger argument: :math:`\psi(x + k) - \psi(x)`, an integral over [x, x + k] of
    psi', which no subtraction is in."""
    mpmath = pytest.importorskip("mpmath")
    x = torch.tensor([n, k], dtype=torch.float64, requires_grad=True)
    special.log_binomial(x[0], x[1]).backward()
    with mpmath.workdps(700):
        sums = mpmath.digamma(1 + mpmath.mpf(n) + mpmath.mpf(k))
        exact = [float(sums - mpmath.digamma(1 + mpmath.mpf(one))) for one in (n, k)]
    larger, smaller = (0, 1) if n > k else (1, 0)
    assert x.grad[larger].item() == pytest.approx(exact[larger], rel=2e-12)
    assert x.grad[smaller].item() == pytest.approx(exact[smaller], rel=2e-12)
