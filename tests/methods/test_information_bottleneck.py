"""The variational information bottleneck: the suite of every method, and its divergence."""

from typing import Any

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from tests.method_case import MethodCase


class TestInformationBottleneck(MethodCase):
    bad = [  # noqa: RUF012
        {"kl_scale": 0.0},
        {"kl_scale": {"*": -1.0}},
        {"initial_scale": 0.0},
        {"gate_noise": "batch"},
    ]
    recovery_threshold = ps.InformationBottleneck.threshold

    def make(self, **options: Any) -> ps.Method:
        return ps.InformationBottleneck(**options)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net


def test_divergence_starts_at_the_known_answer_and_is_weighted_by_target() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))

    def found(kl_scale: Any) -> float:
        bnn = ps.lift(net, ps.InformationBottleneck(kl_scale))
        return TraceMeanField_ELBO().loss(bnn, bnn.guide, torch.ones(1, 4))

    assert found(1.0) == pytest.approx(7 * 4.50992, abs=1e-4)
    expected = (20 * 4 + 0.5 * 3) * 4.50992
    assert found({"0.*": 20.0, "*": 0.5}) == pytest.approx(expected, abs=1e-3)


def test_a_gate_stays_where_its_mean_exceeds_its_noise_and_its_gain_is_the_mean() -> None:
    net = nn.Sequential(nn.Linear(4, 2))
    bnn = ps.lift(net, ps.InformationBottleneck())
    loc = torch.tensor([0.5, 0.5, -0.5, 0.0])
    with torch.no_grad():
        q = bnn.guide.entries[0].posterior()
        q["loc"].copy_(loc)
        q["log_scale"].copy_(torch.tensor([0.45, 0.55, 0.45, 1e-3]).log())
    assert torch.equal(bnn.masks()["0.input"], loc * torch.tensor([1.0, 0.0, 1.0, 0.0]))


def test_its_prior_is_proper() -> None:
    assert ps.InformationBottleneck().proper
