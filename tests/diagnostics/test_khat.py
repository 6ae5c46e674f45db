"""k-hat against known tail indices."""

import math

import pytest
import torch
from pyro.ops.stats import fit_generalized_pareto
from torch.distributions import Exponential, Normal

import pyrosparse as ps
from pyrosparse.diagnostics import Khat, khat, pareto_khat
from tests.linear_gaussian import LinearGaussian, set_posterior

S = 4000


def shrunk(k: float, draws: int) -> tuple[float, float]:
    """What the fit gives on average for a tail index k, with the prior's weight, and its error."""
    tail = math.ceil(min(0.2 * draws, 3 * math.sqrt(draws)))
    weight = tail / (tail + 10)
    return weight * k + 0.5 * (1 - weight), weight * (1 + k) / math.sqrt(tail)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9, 1.5])
def test_exact_pareto_ratios(k):
    # u^-k with u uniform: P(ratio > t) = t^(-1/k), at every t.
    found = torch.tensor([pareto_khat(k * Exponential(1.0).sample((S,))).k for _ in range(20)])
    expected, error = shrunk(k, S)
    assert float(found.mean()) == pytest.approx(expected, abs=4 * error / math.sqrt(20))


@pytest.mark.parametrize("variance", [0.2, 0.5, 0.8])
def test_gaussian_control(variance):
    # p = N(0, I) and q = N(0, v I) in two dimensions: |w|^2 / 2v is Exponential(1), and so log p/q
    # is (1 - v) times it, up to a constant: P(p/q > t) = t^(-1/(1 - v)) at every t, and k = 1 - v.
    p, q = Normal(0.0, 1.0), Normal(0.0, math.sqrt(variance))
    found = []
    for _ in range(20):
        w = q.sample((S, 2)).double()
        found.append(pareto_khat((p.log_prob(w) - q.log_prob(w)).sum(1)).k)
    expected, error = shrunk(1 - variance, S)
    assert sum(found) / 20 == pytest.approx(expected, abs=4 * error / math.sqrt(20))


def test_a_guide_wider_than_the_posterior_has_bounded_ratios():
    w = Normal(0.0, 1.5).sample((S,)).double()
    assert pareto_khat(Normal(0.0, 1.0).log_prob(w) - Normal(0.0, 1.5).log_prob(w)).k < 0


def test_the_sign_of_the_ratios_matters():
    # Turned round, ratios with a heavy tail have a bounded one.
    ratios = 0.9 * Exponential(1.0).sample((S,))
    assert pareto_khat(ratios).k > 0.4 > 0.0 > pareto_khat(-ratios).k


@pytest.mark.parametrize("ratio", [0.4, 0.8])
def test_joint_khat_of_a_linear_gaussian_model(ratio):
    # Two weights with a posterior that is mean field, and a guide narrower by the ratio in both.
    truth = LinearGaussian(d=2)
    bnn = truth.lifted()
    exact = truth.precision().diagonal().rsqrt()
    set_posterior(bnn, truth.posterior_mean(), ratio * exact)
    found = khat(truth.model(bnn), bnn.guide, truth.data, draws=1000)
    expected, error = shrunk(1 - ratio**2, 1000)
    assert found.k == pytest.approx(expected, abs=4 * error)


def test_agrees_with_the_fit_of_pyro():
    ratios = 0.7 * Exponential(1.0).sample((S,)).double()
    tail = math.ceil(3 * math.sqrt(S))
    ordered = (ratios - ratios.max()).exp().sort().values
    pyros, _ = fit_generalized_pareto(ordered[-tail:] - ordered[-tail - 1])
    # The two start their search from quartiles one datum apart.
    assert pareto_khat(ratios).k == pytest.approx(pyros, abs=0.01)


def test_threshold():
    assert Khat(0.6, 100).threshold == pytest.approx(0.5)
    assert not Khat(0.6, 100).reliable
    assert Khat(0.6, 10_000).threshold == 0.7
    assert Khat(0.6, 10_000).reliable


def test_what_has_no_tail_is_refused():
    truth = LinearGaussian()
    bnn = truth.at_mean_field_optimum()
    with pytest.raises(ValueError, match="all log ratios are equal"):
        khat(truth.model(bnn), bnn.guide, truth.data, draws=30)
    with pytest.raises(ValueError, match="at least 25 log ratios"):
        pareto_khat(torch.zeros(10))
    with pytest.raises(ValueError, match="1 of the log ratios"):
        pareto_khat(torch.tensor([torch.inf, *range(30)]))
    point = ps.lift(truth.net(), ps.Gaussian())
    with pytest.raises(ValueError, match="a point"):
        khat(truth.model(point), point.guide, truth.data, draws=30)
