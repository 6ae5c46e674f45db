from typing import ClassVar

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive
from torch import nn

import pyrosparse as ps
from pyrosparse.methods.gamma_spike_and_slab import generative
from pyrosparse.supports import Chain
from tests.method_case import MethodCase
from tests.monte_carlo import assert_mean


class TestSupportMRF(MethodCase):
    bad: ClassVar = [
        {"slab_rate": 0.0, "spike_rate": 0.1},
        {"slab_rate": 0.1},
        {"slab_rate": 0.1, "spike_rate": 0.2},
        {"contrast": 1.0},
        {"inactive": 1.0},
        {"posterior": "factorised"},
        {"likelihood": "taylor"},
        {"initial_scale": -1.0},
        {"magnitude": -1.0},
    ]
    recovery_threshold = 0.0
    capture_dtype = torch.float64  # large precisions: losses are small differences

    def make(self, **options):
        return ps.GammaSpikeAndSlab(**options)


def three_layers(net: nn.Module, **options) -> ps.Lifted:
    return ps.lift(net, ps.GammaSpikeAndSlab(**options))


SLAB = {"slab_shape": 3.0, "slab_rate": 2.0, "spike_shape": 4.0, "spike_rate": 0.01}


def test_prior_in_three_layers_has_three_sites_a_weight():
    bnn = three_layers(nn.Conv2d(2, 3, (2, 1)))
    with generative():
        trace = poutine.trace(bnn).get_trace(torch.ones(1, 2, 4, 4))
    assert trace.stochastic_nodes == ["weight_support", "weight_precision", "weight"]
    assert trace.nodes["weight_support"]["value"].shape == (3, 2, 2, 1)
    assert trace.nodes["weight_precision"]["value"].shape == (3, 2, 2, 1)
    assert trace.nodes["weight"]["value"].shape == (3, 2, 2, 1)
    trace.compute_log_prob()
    assert all(
        trace.nodes[name]["log_prob"].shape == () and trace.nodes[name]["log_prob"].isfinite()
        for name in trace.stochastic_nodes
    )


def test_moments_of_the_weights_given_their_support():
    bnn = three_layers(nn.Linear(3, 2, bias=False).double(), support=Chain((0.3, 0.4)), **SLAB)
    x = torch.ones(1, 3).double()
    found: dict[str, list[torch.Tensor]] = {"": [], "_support": [], "_precision": []}
    with generative():
        for _ in range(1500):
            trace = poutine.trace(bnn).get_trace(x)
            for key, values in found.items():
                values.append(trace.nodes[f"weight{key}"]["value"])
    w, s, rho = (torch.stack(found[key]).flatten() for key in ("", "_support", "_precision"))
    assert_mean(s.view(1500, 6), 0.3 / 0.7)
    for state, shape, rate in ((1, 3.0, 2.0), (0, 4.0, 0.01)):
        here = s == state
        assert_mean(w[here], 0.0)
        assert_mean(rho[here], shape / rate)
        # Student's t: E[w^2] = E[1 / rho] = rate / (shape - 1).
        assert_mean(w[here].square(), rate / (shape - 1))
        assert_mean(w[here].square() * rho[here], 1.0)


def test_prior_predictive_draws_from_the_three_layers():
    # This chain has no memory: each row of the weight is a draw.
    bnn = three_layers(nn.Linear(3, 50, bias=False), support=Chain((0.5, 0.5)), **SLAB)
    with generative():
        drawn = Predictive(ps.regressor(bnn, 3, noise=1e-3), num_samples=30)(torch.eye(3))
    support, weight = (drawn[key].view(1500, 3) for key in ("weight_support", "weight"))
    # The network's output at the unit vectors is the weight itself.
    y = drawn["y"].mT.reshape(1500, 3)
    torch.testing.assert_close(y, weight, rtol=0, atol=0.01)
    assert_mean(support, 0.5)
    assert_mean(y.square(), (2 / 2 + 0.01 / 3) / 2)


def test_a_large_layer_has_draws_too():
    bnn = three_layers(nn.Linear(30, 20))
    with generative():
        assert bnn(torch.ones(2, 30)).isfinite().all()


def test_without_the_handler_a_weight_is_one_site():
    bnn = three_layers(nn.Linear(3, 2))
    assert poutine.trace(bnn).get_trace(torch.ones(1, 3)).stochastic_nodes == ["weight"]


@pytest.mark.parametrize("inactive", [0.3, 0.8])
def test_slab_and_spike_start_at_the_scale_of_the_weights(inactive):
    for scale in (1e-3, 1.0, 1e3):
        net = nn.Linear(40, 30).double()
        with torch.no_grad():
            net.weight.normal_(std=scale)
        bnn = three_layers(net, inactive=inactive)
        (mask,) = bnn.masks().values()
        assert abs(float(mask.double().mean()) - (1 - inactive)) < 2e-3
        order = net.weight.abs().flatten().argsort()
        assert (mask.flatten()[order].long().diff() >= 0).all()  # the largest are active


def test_weights_of_zero_need_rates():
    net = nn.Linear(4, 3)
    nn.init.zeros_(net.weight)
    with pytest.raises(ValueError, match=r"of 'weight' are zero.*slab_rate"):
        three_layers(net)
    assert three_layers(net, slab_rate=1.0, spike_rate=0.01).masks().kept == 0


def test_curvature_gives_the_variance_outside_training():
    bnn = three_layers(nn.Linear(3, 2).double(), likelihood="curvature")
    q = bnn.guide.entries[0].posterior()
    q["_curvature"].fill_(7.0)
    bnn.eval()
    law = poutine.trace(bnn.guide).get_trace().nodes["weight"]["fn"]
    torch.testing.assert_close(law.variance, 1 / (7.0 + q["_precision"]))
    bnn.train()
    assert torch.equal(poutine.trace(bnn.guide).get_trace().nodes["weight"]["value"], q["loc"])


def test_small_weights_may_be_refused_by_their_magnitude():
    bnn = three_layers(nn.Linear(8, 8), inactive=0.1, magnitude=0.2)
    weight = bnn.net.weight.abs()
    (mask,) = bnn.masks().values()
    assert mask.any() and not mask[weight < 0.2].any()
