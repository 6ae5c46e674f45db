"""The Gaussian prior in its three guises."""

from typing import Any

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.distributions import Normal, kl_divergence

import pyrosparse as ps
from tests.method_case import MethodCase
from tests.monte_carlo import assert_mean

BAD_SCALES = [{"scale": value} for value in (0.0, -1.0, float("nan"), float("inf"))]


class TestPoint(MethodCase):
    bad = [*BAD_SCALES, {"posterior": "gaussian"}, {"estimator": "activations"}]  # noqa: RUF012
    recovery_threshold = 0.5

    def make(self, **options: Any) -> ps.Method:
        return ps.Gaussian(**options)


class TestNormal(MethodCase):
    bad = [*BAD_SCALES, {"initial_scale": 0.0}, {"estimator": "nowhere"}]  # noqa: RUF012

    def make(self, **options: Any) -> ps.Method:
        return ps.Gaussian(posterior="normal", **options)


class TestNormalAtActivations(MethodCase):
    bad = BAD_SCALES

    def make(self, **options: Any) -> ps.Method:
        return ps.Gaussian(posterior="normal", estimator="activations", **options)


def test_point_guide_is_the_networks_own_weight():
    net = nn.Linear(3, 2)
    bnn = ps.lift(net, ps.Gaussian())
    trace = poutine.trace(bnn.guide).get_trace()
    assert trace.nodes["weight"]["value"] is net.weight
    assert trace.log_prob_sum() == 0


def test_prior_has_the_stated_standard_deviation():
    bnn = ps.lift(nn.Linear(3, 2), ps.Gaussian(scale=0.3))
    x = torch.ones(1, 3)
    draws = torch.stack(
        [poutine.trace(bnn).get_trace(x).nodes["weight"]["value"] for _ in range(400)]
    )
    assert_mean(draws, 0.0)
    assert_mean(draws.square(), 0.09)


def test_normal_score_is_the_signal_to_noise_ratio():
    bnn = ps.lift(nn.Linear(3, 2), ps.Gaussian(posterior="normal", initial_scale=0.2))
    assert torch.allclose(bnn.scores()["weight"], bnn.net.weight.abs() / 0.2)


@pytest.mark.parametrize("layer", [nn.Embedding(5, 3), nn.ConvTranspose1d(2, 3, 2)])
def test_activation_noise_is_refused_where_it_has_no_formula(layer: nn.Module):
    net = nn.Sequential(layer)
    method = ps.Gaussian(posterior="normal", estimator="activations")
    with pytest.raises(ValueError, match=r"0\.weight.*estimator='weights'"):
        ps.lift(net, method, ps.weights(net, "0"))


def test_activation_noise_is_refused_on_a_bias():
    net = nn.Linear(3, 2)
    method = ps.Gaussian(posterior="normal", estimator="activations")
    with pytest.raises(ValueError, match="bias"):
        ps.lift(net, method, ps.weights(net, "bias"))


@pytest.mark.parametrize("estimator", ["weights", "activations"])
def test_what_is_frozen_costs_no_divergence(estimator: str):
    net = nn.Linear(3, 2)
    bnn = ps.lift(net, ps.Gaussian(scale=0.7, posterior="normal", estimator=estimator))
    mask = torch.tensor([[True, False, False], [True, True, False]])
    bnn.freeze({"weight": mask})
    q, prior = Normal(net.weight[mask], 0.01), Normal(torch.zeros(3), 0.7)
    loss = TraceMeanField_ELBO().loss(bnn, bnn.guide, torch.ones(1, 3))
    assert loss == pytest.approx(kl_divergence(q, prior).sum().item(), rel=1e-5)
