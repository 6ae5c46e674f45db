"""The truncated normal of log gains against many digits, Monte Carlo and known answers."""

import math
from decimal import Decimal
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.distributions import Uniform, kl_divergence

from pyrosparse.distributions import TruncatedNormal
from tests.distributions.high_precision import precise
from tests.monte_carlo import assert_mean

LOW, HIGH = -20.0, 0.0
PRIOR = Uniform(LOW, HIGH)
# Where the published formula of the signal-to-noise ratio fails in float32.
GRID = [(mu / 4, log_sigma / 2) for mu in range(-16, 1) for log_sigma in range(-10, 3)]
WIDE = [(mu, log_sigma) for mu in (-20.0, -19.0, -13.0, -1e-3, 0.0) for log_sigma in (-5, 0, 3, 5)]


def law(mu: float | Tensor, log_sigma: float | Tensor, dtype: torch.dtype) -> TruncatedNormal:
    return TruncatedNormal(
        torch.as_tensor(mu).to(dtype), torch.as_tensor(log_sigma).to(dtype), LOW, HIGH
    )


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")


def upper_tail(x: Decimal) -> Decimal:
    """The probability of a standard normal draw above x."""
    if x < 0:
        return 1 - upper_tail(-x)
    density = (-x * x / 2).exp() / (2 * PI).sqrt()
    if x > 9:
        # The continued fraction, from its end.
        fraction = x
        for k in range(300, 0, -1):
            fraction = x + k / fraction
        return density / fraction
    term = total = x
    k = 1
    while term > Decimal("1e-90"):
        term = term * x * x / (2 * k + 1)
        total += term
        k += 1
    return Decimal("0.5") - density * total


@cache
def reference(mu: float, log_sigma: float) -> tuple[float, float, float]:
    """KL divergence to the uniform law, mean of exp(x), and its ratio to the standard deviation."""
    with precise(60):
        m, s = Decimal(mu), Decimal(log_sigma).exp()
        below, above = (Decimal(LOW) - m) / s, (Decimal(HIGH) - m) / s
        mass = upper_tail(below) - upper_tail(above)

        def density(x: Decimal) -> Decimal:
            return (-x * x / 2).exp() / (2 * PI).sqrt()

        def moment(k: int) -> Decimal:
            # By symmetry both in the upper tail, where differences keep their digits.
            cut = upper_tail(k * s - above) - upper_tail(k * s - below)
            return (k * m + k * k * s * s / 2).exp() * cut / mass

        ends = (below * density(below) - above * density(above)) / (2 * mass)
        entropy = (2 * PI * Decimal(1).exp()).sqrt().ln() + s.ln() + mass.ln() + ends
        mean = moment(1)
        ratio = 1 / (moment(2) / mean**2 - 1).sqrt()
        return float(Decimal(HIGH - LOW).ln() - entropy), float(mean), float(ratio)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-6), (torch.float64, 1e-9)])
def test_divergence_mean_and_ratio_are_right_to_all_digits(
    dtype: torch.dtype, allowed: float
) -> None:
    points = GRID + WIDE
    # What float32 makes of a number is what the reference is computed for.
    mu, log_sigma = torch.tensor(points, dtype=torch.float32).unbind(1)
    q = law(mu, log_sigma, dtype)
    expected = torch.tensor(
        [reference(float(m), float(s)) for m, s in zip(mu, log_sigma, strict=True)]
    )
    expected = torch.tensor(
        [reference(float(m), float(s)) for m, s in zip(mu, log_sigma, strict=True)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(
        kl_divergence(q, PRIOR).double(), expected[:, 0], rtol=allowed, atol=allowed
    )
    torch.testing.assert_close(q.exp_mean.double(), expected[:, 1], rtol=allowed, atol=0)
    ratio = q.exp_signal_to_noise
    torch.testing.assert_close(ratio.double(), expected[:, 2], rtol=10 * allowed, atol=0)
    assert torch.equal(ratio > 1, expected[:, 2] > 1)


def test_no_decision_is_nan_where_the_published_formula_is() -> None:
    mu, log_sigma = torch.tensor(GRID).unbind(1)
    sigma = log_sigma.exp()
    below, above = (LOW - mu) / sigma, (HIGH - mu) / sigma
    mass = torch.special.ndtr(above) - torch.special.ndtr(below)

    def scaled_moment(k: int) -> Tensor:
        root = math.sqrt(0.5)
        upper = torch.special.erfcx((k * sigma - above) * root) * torch.exp(
            k * (HIGH - mu) - above.square() / 2
        )
        lower = torch.special.erfcx((k * sigma - below) * root) * torch.exp(
            k * (LOW - mu) - below.square() / 2
        )
        return upper - lower

    first = scaled_moment(1)
    published = first / (2 * mass * scaled_moment(2) - first.square()).sqrt()
    ours = law(mu, log_sigma, torch.float32).exp_signal_to_noise
    assert len(GRID) == 221 and int(published.isnan().sum()) > 90
    assert ours.isfinite().all()
    right = torch.tensor([reference(mu, log_sigma)[2] > 1 for mu, log_sigma in GRID])
    assert torch.equal(ours > 1, right)
    assert not torch.equal(published > 1, right)


def test_known_answers() -> None:
    q = law(0.0, -5.0, torch.float64)
    assert float(kl_divergence(q, PRIOR)) == pytest.approx(7.26994, abs=5e-6)
    assert float(q.exp_mean) == pytest.approx(0.994647, abs=5e-7)
    assert float(q.exp_signal_to_noise) == pytest.approx(246.699, abs=5e-4)
    other = law(-1.0, 0.0, torch.float64)
    assert float(kl_divergence(other, PRIOR)) == pytest.approx(1.89335, abs=5e-6)
    assert float(other.exp_signal_to_noise) == pytest.approx(1.4884, abs=5e-5)


@pytest.mark.parametrize(("mu", "log_sigma"), [(-1.0, 0.0), (0.0, -5.0), (-15.0, 2.0), (-0.3, 1.0)])
def test_monte_carlo(mu: float, log_sigma: float) -> None:
    torch.manual_seed(0)
    q = law(mu, log_sigma, torch.float64)
    x = q.rsample((200_000,))
    assert bool(((x >= LOW) & (x < HIGH)).all())
    assert_mean(q.log_prob(x) - PRIOR.log_prob(x), kl_divergence(q, PRIOR))
    assert_mean(-q.log_prob(x), q.entropy())
    assert_mean(x, q.mean)
    assert_mean(x.exp(), q.exp_mean)
    ratio = q.exp_mean / q.exp_signal_to_noise
    assert_mean((x.exp() - q.exp_mean).square(), ratio.square())


def test_the_density_integrates_to_one_and_is_nothing_outside() -> None:
    x = torch.linspace(LOW, HIGH, 200_001, dtype=torch.float64)
    for mu, log_sigma in ((-1.0, 0.0), (0.0, -3.0), (-20.0, 4.0)):
        density = law(mu, log_sigma, torch.float64).log_prob(x).exp()
        assert float(torch.trapezoid(density, x)) == pytest.approx(1.0, abs=1e-5)
    outside = torch.tensor([-20.001, 0.001], dtype=torch.float64)
    assert torch.equal(
        law(-1.0, 0.0, torch.float64).log_prob(outside), torch.full((2,), -torch.inf).double()
    )


@pytest.mark.parametrize("log_sigma", [-5.0, 0.0, 4.9])
def test_gradients_of_draws_are_those_of_their_mean(log_sigma: float) -> None:
    torch.manual_seed(1)
    loc = torch.tensor([-0.02, -3.0, -19.98], dtype=torch.float64, requires_grad=True)
    log_scale = torch.full((3,), log_sigma, dtype=torch.float64, requires_grad=True)
    each_loc, each_scale = loc.expand(50_000, 3), log_scale.expand(50_000, 3)
    draws = TruncatedNormal(each_loc, each_scale, LOW, HIGH).rsample()
    pathwise = torch.autograd.grad(draws.sum(), (each_loc, each_scale))

    sigma = log_scale.exp()
    below, above = (LOW - loc) / sigma, (HIGH - loc) / sigma
    normal = torch.distributions.Normal(torch.zeros(()).double(), 1.0)
    ends = normal.log_prob(below).exp() - normal.log_prob(above).exp()
    mean = loc + sigma * ends / (normal.cdf(above) - normal.cdf(below))
    exact = torch.autograd.grad(mean.sum(), (loc, log_scale))
    assert_mean(draws, mean)
    for found, expected in zip(pathwise, exact, strict=True):
        assert found.isfinite().all()
        assert_mean(found, expected, rounding=1e-6)


@pytest.mark.parametrize("mu", [3.0, 19.0, 40.0, -23.0, -40.0])
@pytest.mark.parametrize("log_sigma", [-20.0, -5.0, 0.0, 7.0])
def test_outside_of_the_interval_it_is_mirrored(mu: float, log_sigma: float) -> None:
    torch.manual_seed(2)
    loc = torch.tensor(mu, requires_grad=True)
    log_scale = torch.tensor(log_sigma, requires_grad=True)
    q = TruncatedNormal(loc, log_scale, LOW, HIGH)
    inside = {3.0: -3.0, 19.0: -19.0, 40.0: 0.0, -23.0: -17.0, -40.0: 0.0}[mu]
    same = law(inside, min(log_sigma, 10 - log_sigma), torch.float32)
    torch.testing.assert_close(kl_divergence(q, PRIOR), kl_divergence(same, PRIOR))
    torch.testing.assert_close(q.exp_signal_to_noise, same.exp_signal_to_noise)
    x = q.rsample((1000,))
    assert bool(((x >= LOW) & (x < HIGH)).all())
    (kl_divergence(q, PRIOR) + x.mean()).backward()
    assert loc.grad is not None and loc.grad.isfinite()
    assert log_scale.grad is not None and log_scale.grad.isfinite()
    if abs(mu) != 40.0:
        assert loc.grad != 0


def test_a_uniform_that_does_not_cover_it_is_infinitely_far() -> None:
    q = law(-1.0, 0.0, torch.float32)
    assert kl_divergence(q, Uniform(-19.0, 0.0)) == torch.inf
    wider = kl_divergence(q, Uniform(-20.0, 20.0)) - kl_divergence(q, PRIOR)
    assert float(wider) == pytest.approx(math.log(2), abs=1e-6)


def test_shapes_and_arguments() -> None:
    q = TruncatedNormal(torch.zeros(3), torch.zeros(()), -2.0, 1.0)
    assert q.batch_shape == (3,) and q.expand([4, 3]).rsample((2,)).shape == (2, 4, 3)
    assert q.to_event(1).log_prob(torch.zeros(5, 3)).shape == (5,)
    assert q.exp_mean.dtype == q.rsample().dtype == torch.float32
    for low, high in ((0.0, 0.0), (1.0, 0.0), (-math.inf, 0.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match="low and high must be finite"):
            TruncatedNormal(torch.zeros(3), torch.zeros(3), low, high)
