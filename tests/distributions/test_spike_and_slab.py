"""The exact spike and slab: density, draws, divergence and gradients."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from pyrosparse.distributions import Inclusions, SpikeAndSlabNormal
from tests.monte_carlo import assert_mean

ODDS = torch.tensor([-1.0, 0.4, 3.0], dtype=torch.float64)
LOC = torch.tensor([0.5, -1.0, 0.1], dtype=torch.float64)
SCALE = torch.tensor([0.3, 0.1, 2.0], dtype=torch.float64)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def prior() -> SpikeAndSlabNormal:
    return SpikeAndSlabNormal(number(-2.0), number(0.0), number(0.7), (3,))


def posterior(odds: Tensor = ODDS, loc: Tensor = LOC, scale: Tensor = SCALE) -> SpikeAndSlabNormal:
    return SpikeAndSlabNormal(odds, loc, scale, (3,), prior=prior())


def inclusions(odds: Tensor = ODDS) -> Inclusions:
    return Inclusions(odds, (3,), prior=Inclusions(number(-2.0), (3,)))


def test_density_is_that_of_each_part() -> None:
    value = torch.tensor([0.0, -0.9, 0.0], dtype=torch.float64)
    a = ODDS.sigmoid()
    expected = (1 - a[0]).log() + a[1].log() + Normal(LOC[1], SCALE[1]).log_prob(value[1])
    expected = expected + (1 - a[2]).log()
    torch.testing.assert_close(posterior().log_prob(value), expected)
    both = posterior().log_prob(torch.stack([value, value]))
    torch.testing.assert_close(both, expected.expand(2))


@pytest.mark.parametrize("law", [posterior, inclusions])
def test_draws_have_the_moments(law) -> None:
    torch.manual_seed(0)
    q = law()
    draws = q.sample((50_000,))
    assert_mean((draws != 0).double(), ODDS.sigmoid())
    assert_mean(draws, q.mean)
    assert_mean((draws - q.mean).square(), q.variance)


@pytest.mark.parametrize("law", [posterior, inclusions])
def test_divergence_equals_monte_carlo(law) -> None:
    torch.manual_seed(1)
    q = law()
    draws = q.sample((100_000,))
    assert_mean(q.log_prob(draws) - q.prior.log_prob(draws), kl_divergence(q, q.prior))


def test_divergence_is_that_of_the_parts() -> None:
    a = ODDS.sigmoid()
    slabs = kl_divergence(Normal(LOC, SCALE), Normal(number(0.0), number(0.7)))
    expected = a * slabs + kl_divergence(Bernoulli(logits=ODDS), Bernoulli(logits=number(-2.0)))
    torch.testing.assert_close(kl_divergence(posterior(), prior()), expected.sum())
    assert kl_divergence(prior(), prior()).abs() < 1e-12


def test_divergence_is_right_at_far_odds_in_float32() -> None:
    odds = torch.tensor([-60.0, 60.0])
    q, p = Inclusions(odds, (2,)), Inclusions(torch.tensor(-8.0), (2,))
    expected = torch.tensor([8.0, 0.0]).exp().reciprocal().log1p()  # of the unlikely, of 8
    exact = float(
        kl_divergence(Bernoulli(logits=odds.double()), Bernoulli(logits=number(-8.0))).sum()
    )
    assert float(kl_divergence(q, p)) == pytest.approx(exact, rel=1e-6)
    assert expected.isfinite().all()


@pytest.mark.parametrize("law", [posterior, inclusions])
def test_gradient_under_trace_elbo_has_the_mean_of_the_closed_one(law) -> None:
    torch.manual_seed(2)
    odds = ODDS.clone().requires_grad_()

    def model() -> None:
        pyro.sample("w", law().prior)

    def guide() -> None:
        pyro.sample("w", law(odds))

    def gradient(elbo) -> Tensor:
        (found,) = torch.autograd.grad(elbo.differentiable_loss(model, guide), odds)
        return found

    exact = gradient(TraceMeanField_ELBO())
    sampled = torch.stack([gradient(Trace_ELBO()) for _ in range(1000)])
    assert_mean(sampled, exact)
    assert (exact.abs() > 3 * sampled.std(0) / 1000**0.5).any()  # zero would not pass


def model() -> None:
    weight = pyro.sample("w", SpikeAndSlabNormal(number(0.0), number(0.0), number(1.0), (3,)))
    pyro.sample("y", dist.Normal(weight, 1.0).to_event(1), obs=LOC)


@pytest.mark.parametrize("use", ["NUTS", "AutoNormal"])
def test_what_never_reaches_the_spike_is_refused(use: str) -> None:
    with pytest.raises(ValueError, match="point mass at zero"):
        if use == "NUTS":
            MCMC(NUTS(model), num_samples=1, warmup_steps=1, disable_progbar=True).run()
        else:
            AutoNormal(model)()


def test_a_plate_of_them_has_independent_draws_and_the_probabilities_of_each() -> None:
    alone, prior = posterior(), posterior()
    plate = alone.expand((4, 1))
    draws = plate.sample()
    assert draws.shape == (4, 1, *alone.event_shape) and len(draws.unique(dim=0)) > 1
    expected = torch.stack([alone.log_prob(draw[0])[None] for draw in draws])
    assert torch.equal(plate.log_prob(draws), expected)
    assert plate.mean.shape == plate.variance.shape == draws.shape
    kl = kl_divergence(plate, prior.expand((4, 1)))
    assert torch.equal(kl, kl_divergence(alone, prior).expand(4, 1))
