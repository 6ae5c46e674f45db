"""``poutine.reparam`` on weights: the density is that of the plain model, but for the variables."""

from __future__ import annotations

import warnings

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import AutoReparam, LocScaleReparam
from torch import nn

import pyrosparse as ps

WEIGHTS = {name: LocScaleReparam(0.0) for name in ("0.weight", "2.weight")}
CONFIGS = {"loc-scale": WEIGHTS, "auto": AutoReparam(centered=0.0)}


def regression(method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    return ps.regressor(ps.lift(net, method), 20, noise=0.5)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("method", [ps.Gaussian(scale=2.0), ps.LaplacePrior(scale=0.7)])
def test_the_densities_differ_by_the_change_of_variables(method, config):
    """z = w / s: log p(z) = log p(w) + n log s."""
    x, y = torch.randn(20, 4), torch.randn(20, 1)
    model = regression(method)
    other = poutine.reparam(model, config=CONFIGS[config])
    trace = poutine.trace(other).get_trace(x, y)
    assert all(f"{name}_decentered" in trace.nodes for name in WEIGHTS)
    weights = {name: trace.nodes[name]["value"] for name in WEIGHTS}
    plain = poutine.trace(poutine.condition(model, weights)).get_trace(x, y)
    change = 15 * torch.tensor(method.scale).log()
    torch.testing.assert_close(trace.log_prob_sum(), plain.log_prob_sum() + change)


def test_svi_with_an_autoguide_trains_all_without_a_warning():
    x, y = torch.randn(20, 4), torch.randn(20, 1)
    model = poutine.reparam(regression(ps.Gaussian()), config=WEIGHTS)
    svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi.step(x, y)
    before = pyro.param("net.0.bias").detach().clone()
    svi.step(x, y)
    assert not torch.equal(pyro.param("net.0.bias").detach(), before)
