"""Posterior predictive checks on models that are right, and on one that is not."""

import numpy as np
import pytest
import torch
import xarray

import pyrosparse as ps
from pyrosparse.diagnostics import predictive_check
from tests.linear_gaussian import LinearGaussian


def tree_of(truth: LinearGaussian, noise: float):
    bnn = truth.at_mean_field_optimum()
    return ps.to_datatree(bnn, ps.regressor(bnn, truth.n, noise=noise), truth.data, draws=400)


def test_statistics_of_the_data_and_of_replicates():
    truth = LinearGaussian()
    check = predictive_check(tree_of(truth, truth.noise), np.mean)
    assert check.observed == pytest.approx(float(truth.y.mean()))
    assert check.replicated.shape == (400,)
    # The mean of the new data is normal about the mean of the predictions.
    covariance = truth.precision().inverse()
    row = truth.x.mean(0)
    deviation = float(truth.noise**2 / truth.n + row @ covariance @ row) ** 0.5
    expected = float(row @ truth.posterior_mean())
    assert float(check.replicated.mean()) == pytest.approx(expected, abs=4 * deviation / 20)
    assert 0.02 < check.p_value < 0.98


def test_noise_that_is_far_too_small_shows():
    truth = LinearGaussian(n=60)

    def roughness(y):
        return float(((truth.x.numpy() @ truth.posterior_mean().numpy() - y) ** 2).mean())

    assert predictive_check(tree_of(truth, 0.1), roughness).p_value == 0.0
    assert 0.01 < predictive_check(tree_of(truth, truth.noise), roughness).p_value < 0.99


def test_ties_count_by_halves_and_sites_must_be_named():
    def dataset(**values):
        return xarray.Dataset({name: ("datum", value) for name, value in values.items()})

    replicated = xarray.Dataset({"y": (("chain", "draw", "datum"), np.ones((1, 4, 3)))})
    tree = {"observed_data": dataset(y=np.ones(3)), "posterior_predictive": replicated}
    assert predictive_check(tree, np.mean).p_value == 0.5
    tree["observed_data"] = dataset(y=np.ones(3), z=np.ones(3))
    with pytest.raises(ValueError, match="several observed sites, y, z"):
        predictive_check(tree, np.mean)
    assert predictive_check(tree, np.mean, "y").replicated.dtype == torch.float64
