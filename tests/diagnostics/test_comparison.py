"""Held-out comparison against exact predictive densities, LOO against exact leave-one-out."""

import math

import pytest
import torch
from torch.distributions import Normal

import pyrosparse as ps
from pyrosparse.diagnostics.comparison import LOO_WARNING
from pyrosparse.diagnostics.draws import log_likelihood
from tests.linear_gaussian import LinearGaussian, set_posterior
from tests.monte_carlo import assert_mean


def heldout(truth: LinearGaussian, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, truth.d, generator=generator, dtype=torch.float64)
    weight = torch.linspace(1, -0.5, truth.d, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return x, (x @ weight + truth.noise * noise)[:, None]


def exact(truth: LinearGaussian, loc, covariance, data) -> torch.Tensor:
    x, y = data
    variance = truth.noise**2 + ((x @ covariance) * x).sum(1)
    return Normal(x @ loc, variance.sqrt()).log_prob(y[:, 0])


def test_elpd_is_the_exact_log_predictive_density():
    truth = LinearGaussian()
    bnn = truth.at_mean_field_optimum()
    data = heldout(truth)
    logs = log_likelihood(truth.model(bnn), bnn.guide, data, draws=400)
    expected = exact(truth, truth.posterior_mean(), truth.precision().inverse(), data)
    assert_mean((logs - expected).exp(), 1.0)  # the densities themselves, datum by datum
    result = ps.compare_models({"exact": (bnn, truth.model(bnn))}, data, draws=400)
    row = result.rows[0]
    error = float((logs - expected).exp().mean(1).std()) / math.sqrt(400) * len(expected)
    assert row.elpd == pytest.approx(float(expected.sum()), abs=4 * error)
    pointwise = logs.logsumexp(0) - math.log(400)
    assert row.se == pytest.approx(math.sqrt(40) * float(pointwise.std()), rel=1e-9)
    assert result.n == 40


def test_the_better_model_is_first_and_differences_are_paired():
    truth = LinearGaussian()
    good, poor = truth.at_mean_field_optimum(), truth.lifted()
    loc, scale = truth.posterior_mean(), truth.precision().diagonal().rsqrt()
    set_posterior(poor, loc + 1.0, scale)
    data = heldout(truth)
    models = {"poor": (poor, truth.model(poor)), "good": (good, truth.model(good))}
    result = ps.compare_models(models, data, draws=300)
    assert [row.name for row in result.rows] == ["good", "poor"]
    assert result.rows[0].difference == result.rows[0].difference_se == 0
    covariance = truth.precision().inverse()
    gap = exact(truth, loc + 1.0, covariance, data) - exact(truth, loc, covariance, data)
    row = result.rows[1]
    assert row.difference == pytest.approx(float(gap.sum()), rel=0.05)
    assert row.difference_se == pytest.approx(math.sqrt(40) * float(gap.std()), rel=0.05)
    assert row.loo is None and "LOO" not in str(result)


def test_loo_is_exact_leave_one_out_where_importance_sampling_is_easy():
    truth = LinearGaussian(n=60)
    bnn = truth.at_mean_field_optimum()
    x, y = truth.data
    expected = torch.zeros(60, dtype=torch.float64)
    for i in range(60):
        rest = torch.arange(60) != i
        precision = truth.precision() - torch.outer(x[i], x[i]) / truth.noise**2
        loc = torch.linalg.solve(precision, x[rest].T @ y[rest, 0] / truth.noise**2)
        one = (x[i : i + 1], y[i : i + 1])
        expected[i] = exact(truth, loc, precision.inverse(), one)[0]
    result = ps.compare_models(
        {"one": (bnn, truth.model(bnn))}, heldout(truth), draws=400, train=truth.data
    )
    row = result.rows[0]
    # Over seeds LOO of 400 draws has a standard deviation of 0.12 nats; not to leave data out would
    # be 3 nats off, one a weight.
    assert row.loo == pytest.approx(float(expected.sum()), abs=4 * 0.12)
    assert row.loo_se == pytest.approx(math.sqrt(60) * float(expected.std()), rel=0.05)
    assert row.loo_unreliable == 0
    assert row.khat is None  # the guide is the posterior: all ratios are equal
    assert LOO_WARNING in " ".join(str(result).split()) and "LOO" in str(result).splitlines()[0]


def test_what_cannot_be_compared_is_refused():
    truth = LinearGaussian()
    bnn = truth.lifted()
    with pytest.raises(ValueError, match="no models"):
        ps.compare_models({}, truth.data)
    one = tuple(part[:1] for part in truth.data)
    with pytest.raises(ValueError, match="at least 2"):
        ps.compare_models({"one": (bnn, truth.model(bnn))}, one)


def test_loo_corrects_a_guide_that_is_too_wide_and_says_so_where_it_cannot():
    truth = LinearGaussian(n=60, d=1)
    x, y = truth.data
    expected = 0.0
    for i in range(60):
        rest = torch.arange(60) != i
        precision = truth.precision() - torch.outer(x[i], x[i]) / truth.noise**2
        loc = torch.linalg.solve(precision, x[rest].T @ y[rest, 0] / truth.noise**2)
        one = (x[i : i + 1], y[i : i + 1])
        expected += float(exact(truth, loc, precision.inverse(), one)[0])
    bnn, model = truth.lifted(), None
    loc, scale = truth.posterior_mean(), truth.precision().diagonal().rsqrt()
    found = {}
    for width in (1.5, 0.3):
        set_posterior(bnn, loc, width * scale)
        model = truth.model(bnn)
        result = ps.compare_models({"one": (bnn, model)}, truth.data, draws=200, train=truth.data)
        found[width] = result.rows[0]
    # The draws alone would give the density of a posterior that is 1.5 times as wide.
    wide = found[1.5]
    assert wide.loo == pytest.approx(expected, abs=0.3)
    limit = 1 - 1 / math.log10(200)  # of 200 draws, as Khat.threshold
    assert wide.khat is not None and wide.khat < limit
    assert "of the guide" in str(result)
    # Ratios of a guide of a third of the width have a tail of index 1 - 0.3^2 = 0.91.
    narrow = found[0.3]
    assert narrow.khat is not None and narrow.khat > limit and narrow.loo_unreliable > 30
