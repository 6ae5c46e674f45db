"""Scores of predicted values against closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import pyrosparse as ps
from pyrosparse.diagnostics import predictive_quality, regression_qualities
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.measure import regression_quality
from tests.diagnostics.test_comparison import exact, heldout
from tests.linear_gaussian import LinearGaussian
from tests.monte_carlo import assert_mean


def nothing(*_):
    """The guide of a network whose weights are what they are."""


def crps_normal(mean, scale, y) -> torch.Tensor:
    """Gneiting and Raftery (2007), after eq. 21."""
    z = (y - mean) / scale
    law = Normal(torch.zeros_like(z), 1.0)
    return scale * (z * (2 * law.cdf(z) - 1) + 2 * law.log_prob(z).exp() - 1 / math.sqrt(math.pi))


def test_scores_of_the_exact_posterior_are_those_of_its_predictive_distribution():
    truth = LinearGaussian()
    bnn = truth.at_mean_field_optimum()
    x, y = heldout(truth)
    covariance, loc = truth.precision().inverse(), truth.posterior_mean()
    scale = (truth.noise**2 + ((x @ covariance) * x).sum(1)).sqrt()
    expected = crps_normal(x @ loc, scale, y[:, 0]).mean()
    found = [
        regression_quality(truth.model(bnn), bnn.guide, (x, y), draws=30, seed=seed)
        for seed in range(8)
    ]
    # Unbiased: the mean over the seeds within its standard error.
    assert_mean(torch.tensor([one.crps for one in found]).double(), expected)
    rmse = (x @ loc - y[:, 0]).square().mean().sqrt()
    assert_mean(torch.tensor([one.rmse**2 for one in found]).double() - rmse**2, 0.0)
    many = regression_quality(truth.model(bnn), bnn.guide, (x, y), draws=200)
    density = exact(truth, loc, covariance, (x, y))
    assert torch.allclose(many.log_density, density, atol=0.25)
    assert many.nll == pytest.approx(-float(density.mean()), abs=0.02)
    assert many.elpd == pytest.approx(-40 * many.nll)
    cdf = Normal(x @ loc, scale).cdf(y[:, 0])
    # Ranks among 200: a standard error of at most 0.035.
    assert float((many.pit[:, 0] - cdf).abs().max()) < 0.14
    assert many.coverage(0.5) == pytest.approx(
        float(((cdf - 0.5).abs() < 0.25).double().mean()), abs=0.1
    )


def test_pit_is_uniform_and_intervals_cover_where_the_model_is_true():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 2, generator=generator)
    net = nn.Linear(2, 1)
    with torch.no_grad():
        y = net(x) + 0.7 * torch.randn(4000, 1, generator=generator)
    for noise, covered in ((0.7, 0.5), (1.4, None)):
        found = regression_quality(ps.regressor(net, 4000, noise=noise), nothing, (x, y))
        if covered is None:
            # Noise twice as wide: the interval of 50 % is one of 82 %.
            covered = (
                2 * float(Normal(0.0, 1.0).cdf(2 * Normal(0.0, 1.0).icdf(torch.tensor(0.75)))) - 1
            )
        assert_mean(((found.pit[:, 0] - 0.5).abs() <= 0.25).double(), covered)
        assert found.rmse == pytest.approx(0.7, rel=0.05)
        expected = crps_normal(net(x).detach(), torch.tensor(noise), y).mean().item()
        assert found.crps == pytest.approx(expected, rel=0.01)
    narrow = regression_quality(ps.regressor(net, 4000, noise=0.7), nothing, (x, y))
    ranks = narrow.pit[:, 0].sort().values
    distance = (ranks - torch.arange(1, 4001) / 4001).abs().max()
    assert float(distance) < 1.63 / math.sqrt(4000)  # Kolmogorov's at 1 %


def test_counts_have_random_ranks_that_are_uniform():
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.mul_(0.5)
        x = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
        y = torch.poisson(net(x).exp(), generator=torch.Generator().manual_seed(1))
    found = regression_quality(ps.counts(net, 3000), nothing, (x, y))
    ranks = found.pit[:, 0].sort().values
    assert float((ranks - torch.arange(1, 3001) / 3001).abs().max()) < 1.63 / math.sqrt(3000)


def test_batches_units_and_modes():
    truth = LinearGaussian()
    bnn = truth.at_mean_field_optimum()
    state = torch.get_rng_state()
    whole = regression_quality(truth.model(bnn), bnn.guide, truth.data, draws=5)
    assert torch.equal(torch.get_rng_state(), state) and bnn.training
    with evaluation_mode(bnn):
        parts = regression_quality(truth.model(bnn), bnn.guide, truth.data, draws=5, batch_size=5)
    assert parts.rmse == pytest.approx(whole.rmse) and parts.nll == pytest.approx(whole.nll)
    doubled = whole.scaled(2.0)
    assert doubled.nll == pytest.approx(whole.nll + math.log(2.0))
    assert doubled.crps == 2 * whole.crps and doubled.coverage(0.5) == whole.coverage(0.5)
    with pytest.raises(ValueError, match="a probability"):
        whole.coverage(95)


def test_labels_are_refused():
    bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    data = (torch.ones(5, 4), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="For classes use predictive_quality"):
        regression_quality(ps.classifier(bnn, 5), bnn.guide, data)


def test_a_table_of_a_posterior_and_the_network_at_its_mean():
    truth = LinearGaussian()
    bnn = truth.at_mean_field_optimum()
    model = truth.model(bnn)
    models = {"posterior": model, "mean": ps.models.around(model, bnn.net)}
    found = regression_qualities(models, truth.data, draws=40)
    net = bnn.net(truth.x).detach()
    expected = (net - truth.y).square().mean().sqrt().item()
    assert found["mean"].rmse == pytest.approx(expected)
    density = Normal(net, truth.noise).log_prob(truth.y).mean().item()
    assert found["mean"].nll == pytest.approx(-density)
    lines = str(found).splitlines()
    assert lines[1].split()[:2] == ["posterior", f"{found['posterior'].rmse:.4f}"]
    with pytest.raises(ValueError, match="use regression_qualities"):
        predictive_quality({"net": bnn.net}, truth.data)
