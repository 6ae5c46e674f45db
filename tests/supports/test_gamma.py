"""Precision and support in closed form: against integration over the precision, and the ELBO."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyrosparse.supports.gamma import Gamma, evidence, mean_field, structured

SHAPES = st.floats(0.3, 5.0)
RATES = st.floats(1e-3, 10.0)
GAMMAS = st.builds(Gamma, SHAPES, RATES)
MOMENTS = st.floats(0.0, 100.0)
ODDS = st.floats(-8.0, 8.0)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def integral(gamma: Gamma, moment: float, power: float = 0.0) -> float:
    """ln of the integral of Gamma(rho) rho^(1/2 + power) exp(-rho m / 2), over a grid of ln rho."""
    peak = math.log((gamma.shape + 0.5 + power) / (gamma.rate + moment / 2))
    log_rho = torch.linspace(peak - 60, peak + 15, 20_001, dtype=torch.float64)
    rho = log_rho.exp()
    law = torch.distributions.Gamma(tensor(gamma.shape), tensor(gamma.rate), validate_args=False)
    integrand = law.log_prob(rho) + (1.5 + power) * log_rho - rho * moment / 2
    return float(integrand.logsumexp(0)) + math.log(75 / 20_000)


@given(GAMMAS, MOMENTS)
def test_evidence_is_the_integral_over_the_precision(gamma, moment):
    found = float(gamma.log_evidence(tensor(moment)))
    assert found == pytest.approx(integral(gamma, moment), rel=1e-8, abs=1e-8)


@given(GAMMAS, GAMMAS, MOMENTS)
def test_evidence_of_a_weight_is_the_difference_of_its_states(slab, spike, moment):
    found = float(evidence(tensor(moment), slab, spike))
    expected = integral(slab, moment) - integral(spike, moment)
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-7)
    assert float(evidence(tensor(moment), spike, slab)) == pytest.approx(-found)


@given(GAMMAS, GAMMAS, MOMENTS, ODDS)
def test_structured_precision_is_the_mean_of_the_exact_conditional(slab, spike, moment, prior):
    log_odds, precision = structured(tensor(prior), tensor(moment), slab, spike)
    states = [prior + integral(slab, moment), integral(spike, moment)]
    means = [prior + integral(slab, moment, 1.0), integral(spike, moment, 1.0)]
    assert float(log_odds) == pytest.approx(states[0] - states[1], rel=1e-8, abs=1e-7)
    expected = torch.logsumexp(tensor(*means), 0) - torch.logsumexp(tensor(*states), 0)
    torch.testing.assert_close(precision.log()[0], expected, rtol=1e-7, atol=1e-7)


def block_elbo(
    prior: Tensor, on: Tensor, laws: list[torch.distributions.Gamma], moment: Tensor, gammas
) -> Tensor:
    """What q(s) q(rho | s) adds to the ELBO, written from scratch; laws: q(rho | s) of s = 1, 0."""
    total = torch.zeros_like(on)
    logs = (prior, torch.zeros_like(prior))
    for share, law, gamma, log_prior in zip((on, 1 - on), laws, gammas, logs, strict=True):
        log_precision = torch.digamma(law.concentration) - law.rate.log()
        expected = (
            gamma.shape * math.log(gamma.rate)
            - math.lgamma(gamma.shape)
            + (gamma.shape - 1) * log_precision
            - gamma.rate * law.mean
        )
        normal = 0.5 * (log_precision - math.log(2 * math.pi) - law.mean * moment)
        entropy = law.entropy() - torch.xlogy(share, share) / share.clamp_min(1e-300)
        total = total + share * (expected + normal + entropy + log_prior)
    return total - torch.nn.functional.softplus(prior)


def test_structured_is_the_best_of_its_family():
    gammas = Gamma(1.0, 0.05), Gamma(2.0, 0.001)
    moment, prior = tensor(0.0, 0.01, 0.03, 1.0), tensor(-1.0, 0.5, 2.0, 0.0)
    log_odds, _ = structured(prior, moment, *gammas)
    posteriors = [gamma.posterior(moment) for gamma in gammas]

    def elbo(shift: float, shape: float, rate: float) -> Tensor:
        laws = [
            torch.distributions.Gamma(tensor(a) * math.exp(shape), b * math.exp(rate))
            for a, b in posteriors
        ]
        return block_elbo(prior, torch.sigmoid(log_odds + shift), laws, moment, gammas)

    best = elbo(0, 0, 0)
    evidences = [gamma.log_evidence(moment) for gamma in gammas]
    bound = torch.logaddexp(prior + evidences[0], evidences[1])
    bound = bound - torch.nn.functional.softplus(prior) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(best, bound, rtol=1e-10, atol=1e-10)
    for direction in ((0.1, 0, 0), (0, 0.1, 0), (0, 0, 0.1), (0.1, -0.05, 0.05)):
        for sign in (-1, 1):
            assert (elbo(*(sign * step for step in direction)) < best).all()


@given(GAMMAS, GAMMAS, MOMENTS, ODDS, ODDS)
def test_mean_field_is_the_round_of_the_paper(slab, spike, moment, prior, before):
    log_odds, precision = mean_field(tensor(prior), tensor(before), tensor(moment), slab, spike)
    on = 1 / (1 + math.exp(-before))
    a = on * slab.shape + (1 - on) * spike.shape + 0.5
    b = on * slab.rate + (1 - on) * spike.rate + 0.5 * moment
    assert float(precision) == pytest.approx(a / b)
    rho = torch.distributions.Gamma(tensor(a), tensor(b))
    log_rho = torch.digamma(rho.concentration) - rho.rate.log()
    expected = prior
    for sign, gamma in ((1, slab), (-1, spike)):
        expected += sign * float(
            gamma.shape * math.log(gamma.rate)
            - math.lgamma(gamma.shape)
            + (gamma.shape - 1) * log_rho
            - gamma.rate * rho.mean
        )
    assert float(log_odds) == pytest.approx(expected, rel=1e-9, abs=1e-8)


def test_posterior_log_odds_are_messages_and_evidence():
    moment, prior = torch.rand(50).double(), torch.randn(50).double()
    pair = Gamma(1.0, 0.05), Gamma(1.0, 0.0005)
    log_odds, _ = structured(prior, moment, *pair)
    torch.testing.assert_close(log_odds, prior + evidence(moment, *pair))


def settled(start: float, prior: float, slab: Gamma, spike: Gamma, moment: float = 0.0) -> float:
    log_odds = tensor(start)
    for _ in range(500):
        log_odds, _ = mean_field(tensor(prior), log_odds, tensor(moment), slab, spike)
    return float(log_odds)


def test_mean_field_stays_where_it_starts():
    slab, spike = Gamma(1.0, 1.0), Gamma(1.0, 0.01)
    # At m = 0 a round maps log-odds x to l + ln 100 - 0.99 E[rho] with E[rho] = 1.5 / (0.01 + 0.99
    # sigmoid(x)), so that "active" is a fixed point where l exceeds the least of this over x > 0.
    x = torch.linspace(0, 20, 20_001, dtype=torch.float64)
    needed = x - math.log(100) + 0.99 * 1.5 / (0.01 + 0.99 * x.sigmoid())
    border = float(needed.min())
    for prior in (border + 0.05, 0.0):
        assert settled(20.0, prior, slab, spike) > 0
        assert settled(-20.0, prior, slab, spike) < -20
        # What the structured posterior says does not depend on a start, and is right.
        assert float(structured(tensor(prior), tensor(0.0), slab, spike)[0]) < 0
    assert settled(20.0, border - 0.05, slab, spike) < -20


def test_float32_is_float64():
    moment = torch.logspace(-20, 4, 200)
    prior = torch.linspace(-30, 30, 200)
    for pair in (
        (Gamma(1.0, 0.05), Gamma(1.0, 5e-6)),
        (Gamma(0.5, torch.tensor(0.5)), Gamma(100.0, torch.tensor(0.01))),
    ):
        double = [
            Gamma(g.shape, g.rate.double() if isinstance(g.rate, Tensor) else g.rate) for g in pair
        ]
        single = structured(prior, moment, *pair)
        truth = structured(prior.double(), moment.double(), *double)
        torch.testing.assert_close(single[0].double(), truth[0], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(single[1].double(), truth[1], rtol=1e-3, atol=0)
        assert single[0].isfinite().all() and single[1].isfinite().all()


class Toy:
    """y = X w + e of 40 data, with the three-layer prior on w; exact block updates in float64."""

    def __init__(self, seed: int, slab: Gamma, spike: Gamma) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(40, 8, generator=generator, dtype=torch.float64)
        w = torch.zeros(8, dtype=torch.float64)
        w[:3] = tensor(1.0, -2.0, 0.5)
        noise = torch.randn(40, generator=generator, dtype=torch.float64)
        self.noise, self.slab, self.spike = 0.5, slab, spike
        self.y = self.x @ w + self.noise * noise
        self.prior = torch.randn(8, generator=generator, dtype=torch.float64)

    def weights(self, precision: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        """The best mean-field normal of each weight in turn, given E[rho]: loc and variance."""
        squares = self.x.square().sum(0) / self.noise**2
        variance = 1 / (squares + precision)
        for j in range(8):
            rest = self.y - self.x @ loc + self.x[:, j] * loc[j]
            loc = loc.clone()
            loc[j] = variance[j] * (self.x[:, j] @ rest) / self.noise**2
        return loc, variance

    def elbo(self, on: Tensor, laws: list, loc: Tensor, variance: Tensor) -> float:
        moment = loc.square() + variance
        block = block_elbo(self.prior, on, laws, moment, (self.slab, self.spike))
        return float(self.likelihood(loc, variance) + block.sum())

    def likelihood(self, loc: Tensor, variance: Tensor) -> Tensor:
        """The expected log-likelihood and the entropy of q(w)."""
        residual = (self.y - self.x @ loc).square().sum()
        residual = residual + (self.x.square() @ variance).sum()
        constant = len(self.y) * math.log(2 * math.pi * self.noise**2)
        entropy = 0.5 * (2 * math.pi * math.e * variance).log().sum()
        return -0.5 * (residual / self.noise**2 + constant) + entropy


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("posterior", ["structured", "mean-field"])
def test_elbo_never_falls(posterior: str, seed: int):
    slab, spike = Gamma(1.0, 1.0), Gamma(1.0, 0.01)
    toy = Toy(seed, slab, spike)
    loc, variance = torch.zeros(8).double(), torch.ones(8).double()
    log_odds, elbos = torch.zeros(8).double(), []
    for _ in range(40):
        before = log_odds
        moment = loc.square() + variance
        if posterior == "structured":
            log_odds, precision = structured(toy.prior, moment, slab, spike)
            laws = [
                torch.distributions.Gamma(*map(torch.as_tensor, g.posterior(moment)))
                for g in (slab, spike)
            ]
        else:
            log_odds, precision = mean_field(toy.prior, before, moment, slab, spike)
            shape = torch.full_like(moment, 1.5)  # both shapes are 1
            law = torch.distributions.Gamma(shape, shape / precision)
            laws = [law, law]

        if posterior == "mean-field":  # after the precision, before the support
            elbos.append(toy.elbo(before.sigmoid(), laws, loc, variance))
        elbos.append(toy.elbo(log_odds.sigmoid(), laws, loc, variance))
        loc, variance = toy.weights(precision, loc)
        elbos.append(toy.elbo(log_odds.sigmoid(), laws, loc, variance))
    rises = torch.tensor(elbos).double().diff()
    assert rises.min() > -1e-9
    assert rises.sum() > 10
    assert rises[-3:].abs().max() < 1e-3
