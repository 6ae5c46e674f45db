"""The log-uniform prior against the integral that its divergence from a normal is."""

import math
from typing import Any

import pytest
import torch
from pyro.distributions import Laplace, Normal
from torch import Tensor
from torch.distributions import kl_divergence

from pyrosparse.distributions import ImproperPriorWarning, LogUniform
from tests.monte_carlo import assert_mean

LOG_ALPHA = torch.linspace(-40, 40, 2001, dtype=torch.float64)


def by_integral(signal: Tensor, slope: bool = False) -> Tensor:
    """The divergence, or its derivative by log s, by the trapezoidal rule, which is exact here to
    rounding: the integrand is even, and falls off as exp(-2 v)."""
    v = torch.arange(0, 0.5 * math.log(2 * float(signal.max())) + 20, 1 / 8, dtype=torch.float64)
    at = signal.unsqueeze(-1) / (2 * torch.cosh(v).square())
    values = at * torch.exp(-at) if slope else -torch.expm1(-at)
    values[:, 0] /= 2
    return values.sum(-1) / 8


def elementwise(loc: Tensor, scale: Tensor) -> Tensor:
    """The registered divergence of each element."""
    q = Normal(loc.unsqueeze(-1), scale.unsqueeze(-1)).to_event(1)
    return kl_divergence(q, LogUniform(loc[:1]).expand(loc.shape))


def normals(dtype: torch.dtype, log_alpha: Tensor = LOG_ALPHA) -> tuple[Tensor, Tensor]:
    """Locations and scales of these log alphas, of sizes that weights have."""
    scale = torch.linspace(-3, 1, len(log_alpha), dtype=torch.float64).exp()
    loc = scale * (-log_alpha / 2).exp()
    loc[::2] *= -1
    return loc.to(dtype).requires_grad_(), scale.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_and_slope_are_those_of_the_integral(dtype: torch.dtype) -> None:
    loc, scale = normals(dtype)
    signal = (-LOG_ALPHA).exp()
    found = elementwise(loc, scale)
    assert found.dtype == dtype
    error = (found.double() - by_integral(signal)).abs()
    assert error.max() < 2e-5
    assert (error / by_integral(signal)).max() < 6e-5
    by_loc, by_scale = torch.autograd.grad(found.sum(), (loc, scale))
    # The derivative by log alpha is minus that by log s, and s is (loc / scale)^2.
    expected = by_integral(signal, slope=True)
    assert ((by_loc * loc / 2).double() - expected).abs().max() < 1e-4
    assert ((-by_scale * scale / 2).double() - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("log_alpha", "expected"),
    [(-6, 3.633937), (-2, 1.544155), (0, 0.426686), (2, 0.066168), (3, 0.024688), (6, 0.001239)],
)
def test_known_answers(log_alpha: float, expected: float) -> None:
    alpha = torch.tensor([float(log_alpha)], dtype=torch.float64)
    assert float(by_integral((-alpha).exp())) == pytest.approx(expected, abs=1e-6)
    found = elementwise(*normals(torch.float32, alpha)).detach()
    assert float(found) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_owed_where_the_mean_is_zero(dtype: torch.dtype) -> None:
    loc = torch.zeros(3, dtype=dtype, requires_grad=True)
    log_scale = torch.tensor([-30.0, -5.0, 3.0], dtype=dtype, requires_grad=True)
    divergence = elementwise(loc, log_scale.exp())
    assert not divergence.any()
    for gradient in torch.autograd.grad(divergence.sum(), (loc, log_scale)):
        assert torch.equal(gradient, torch.zeros(3, dtype=dtype))


def test_extremes_are_finite_in_float32() -> None:
    loc = torch.tensor([1e30, 1e-30, -1e4, 1.0], requires_grad=True)
    scale = torch.tensor([1e-5, 1e10, 1e-30, 1e-35], requires_grad=True)
    divergence = elementwise(loc, scale)
    for found in (divergence, *torch.autograd.grad(divergence.sum(), (loc, scale))):
        assert found.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    loc, scale = (tensor.detach().bfloat16() for tensor in normals(torch.float32))
    q = Normal(loc, scale).to_event(1)
    found = kl_divergence(q, LogUniform(loc))
    whole = kl_divergence(Normal(loc.float(), scale.float()).to_event(1), LogUniform(loc.float()))
    assert found.dtype == torch.float32 and torch.equal(found, whole)
    assert LogUniform(loc).log_prob(loc).dtype == torch.float32


@pytest.mark.parametrize("log_alpha", [-4.0, 0.0, 3.0])
def test_divergence_is_the_mean_of_the_log_ratio(log_alpha: float) -> None:
    torch.manual_seed(0)
    scale = torch.tensor(0.3, dtype=torch.float64)
    q = Normal(scale * math.exp(-log_alpha / 2), scale)
    draws = q.sample((400_000,))
    ratios = q.log_prob(draws) - LogUniform(scale).log_prob(draws)
    assert_mean(ratios, kl_divergence(q, LogUniform(scale)), rounding=2e-5)


def test_density_is_that_of_the_logarithm_with_the_stated_constant() -> None:
    value = torch.tensor([[0.5, -2.0], [3.0, 1.0]])
    constant = 0.5 * (1 + math.log(4 * math.pi) + 0.57721566)
    expected = -value.abs().log().sum(-1) - 2 * constant
    torch.testing.assert_close(LogUniform(value[0]).log_prob(value), expected)
    zero = torch.zeros(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(LogUniform(zero).log_prob(zero), zero)
    assert LogUniform(zero).log_prob(zero).isfinite() and not gradient.any()
    with pytest.warns(ImproperPriorWarning, match="LogUniform is no distribution"):
        LogUniform(value).sample()


def test_second_derivatives_and_vmap_work() -> None:
    loc, scale = normals(torch.float64, torch.tensor([-1.0, 0.5], dtype=torch.float64))
    q = lambda m, s: kl_divergence(Normal(m, s), LogUniform(m))  # noqa: E731

    def one(m: Tensor, s: Tensor) -> Any:
        return q(m, s)

    mapped = torch.func.vmap(torch.func.grad(one))(loc.detach(), scale.detach())
    torch.testing.assert_close(mapped, torch.autograd.grad(elementwise(loc, scale).sum(), loc)[0])
    (first,) = torch.autograd.grad(elementwise(loc, scale).sum(), loc, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), loc)
    step = 1e-5
    ahead = torch.autograd.grad(elementwise(loc + step, scale).sum(), loc)[0]
    torch.testing.assert_close(second, (ahead - first) / step, rtol=1e-3, atol=1e-3)


def test_other_posteriors_and_shapes_have_no_closed_form() -> None:
    loc = torch.zeros(2, 3)
    with pytest.raises(NotImplementedError):
        kl_divergence(Normal(loc, 1.0).to_event(1), LogUniform(loc))
    with pytest.raises(NotImplementedError):
        kl_divergence(Laplace(loc, 1.0).to_event(2), LogUniform(loc))
