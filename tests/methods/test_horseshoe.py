"""The horseshoe prior."""

from typing import Any

import pyro.poutine as poutine
import torch
from torch import nn

import pyrosparse as ps
from tests.method_case import MethodCase


class TestHorseshoe(MethodCase):
    bad = [{"scale": 0.0}, {"scale": -1.0}, {"initial_scale": 0.0}]  # noqa: RUF012

    def make(self, **options: Any) -> ps.Method:
        return ps.Horseshoe(**options)


def test_quantiles_of_the_global_scale_are_those_of_a_half_cauchy():
    bnn = ps.lift(nn.Linear(2, 1), ps.Horseshoe(scale=0.5))
    x = torch.ones(1, 2)
    draws = torch.stack(
        [poutine.trace(bnn).get_trace(x).nodes["weight_global"]["value"] for _ in range(400)]
    )
    # The half-Cauchy's median is its scale, its upper quartile 1 + sqrt(2) times that.
    for level, quantile in ((0.5, 0.5), (0.75, 0.5 * (1 + 2**0.5))):
        below = float((draws < quantile).double().mean())
        assert abs(below - level) < 4 * (level * (1 - level) / len(draws)) ** 0.5


def test_each_layer_has_its_own_global_scale():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    bnn = ps.lift(net, ps.Horseshoe())
    sites = set(poutine.trace(bnn.guide).get_trace().stochastic_nodes)
    expected = {f"{layer}.weight{part}" for layer in "01" for part in ("", "_global", "_local")}
    assert sites == expected
