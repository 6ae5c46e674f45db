"""Structured Bayesian pruning: the suite of every method, and what it promises besides."""

from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from pyrosparse.lifting.method import Posterior
from tests.method_case import MethodCase
from tests.methods.gates import draws, identity
from tests.monte_carlo import assert_mean


class Case(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"low": 0.0},
        {"low": float("-inf")},
        {"kl_scale": 0.0},
        {"kl_scale": {"*": float("nan")}},
        {"noise": "layer"},
        {"initial_scale": 0.0},
    ]
    # 300 steps do not carry sigma from its usual start, e^-5, to where it drowns a gain.
    recovery: ClassVar[dict[str, Any]] = {"initial_scale": 1.0}
    recovery_threshold = 1.0
    options: ClassVar[dict[str, Any]] = {}

    def make(self, **options: Any) -> ps.Method:
        return ps.StructuredBayesianPruning(**(self.options | options))

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        # The ratio of mean to noise rises with the location, and falls with the scale; at small
        # scales it is 1 / sigma, whatever the location.
        method, target = self.make(), ps.Target("fc", "input", (40,), axis=-1)
        flat, line = torch.full((40,), -1.0), torch.linspace(-6, 4.9, 40)
        assert (method.score(target, Posterior(loc=flat, log_scale=line)).diff() < 0).all()
        locs = torch.linspace(-19, 0, 40)
        wide = Posterior(loc=locs, log_scale=torch.full((40,), 0.5))
        assert (method.score(target, wide)[30:].diff() > 0).all()
        mirrored = Posterior(loc=-locs, log_scale=wide["log_scale"])
        assert torch.equal(method.score(target, wide), method.score(target, mirrored))


class TestInputs(Case):
    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.inputs(net)


class TestExamples(Case):
    options: ClassVar[dict[str, Any]] = {"noise": "example"}

    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.gates(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Conv1d(8, 8, 1, bias=False), nn.Conv1d(8, 1, 1, bias=False))
        net[0].weight = nn.Parameter(torch.eye(8).unsqueeze(2), requires_grad=False)
        net[1].weight = nn.Parameter(torch.ones(1, 8, 1), requires_grad=False)
        return nn.Sequential(nn.Unflatten(1, (8, 1)), *net, nn.Flatten())


def spread(**options: Any) -> ps.Lifted:
    """Three gates away from where they start."""
    bnn = identity(3, ps.StructuredBayesianPruning(**options))
    q = bnn.guide.entries[0].posterior()
    with torch.no_grad():
        q["loc"].copy_(torch.tensor([-0.1, -1.0, -3.0]))
        q["log_scale"].copy_(torch.tensor([-2.0, 0.0, 1.0]))
    return bnn


@pytest.mark.parametrize("noise", ["step", "example"])
def test_a_gain_has_its_mean(noise: str) -> None:
    torch.manual_seed(0)
    bnn = spread(noise=noise)
    gains = draws(bnn, torch.ones(1, 3), 1000).squeeze(1).double()
    assert_mean(gains, bnn.mean_forward(torch.ones(1, 3))[0].detach().double())


def test_examples_share_a_gain_or_have_their_own() -> None:
    torch.manual_seed(1)
    shared = draws(spread(), torch.ones(5, 3), 1)[0]
    assert torch.equal(shared, shared[:1].expand(5, 3))
    own = draws(spread(noise="example"), torch.ones(5, 3), 1)[0]
    assert len(own[:, 1].unique()) == 5


@pytest.mark.parametrize("noise", ["step", "example"])
def test_given_gains_are_used_where_no_guide_drew_them(noise: str) -> None:
    bnn = spread(noise=noise)
    given = torch.tensor([-1.0, -2.0, -3.0])
    out = poutine.condition(bnn, data={"0.input": given})(torch.ones(4, 3))
    torch.testing.assert_close(out, given.exp().expand(4, 3))


def test_kl_scale_weighs_each_target_and_what_is_frozen_costs_nothing() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(5, 4)

    def kl(scale: Any, kept: bool = True) -> float:
        method = ps.StructuredBayesianPruning(kl_scale=scale)
        bnn = ps.lift(net, method, ps.inputs(net))
        if not kept:
            bnn.freeze({"0.input": torch.zeros(4), "2.input": torch.zeros(3)})
        return TraceMeanField_ELBO().loss(bnn, bnn.guide, x)

    # At -1e-3 the divergence is .1196 nats below that at 0, by a mass of .559 and not 1/2.
    one = kl(1.0) / 7
    assert one == pytest.approx(7.26994 - 0.0520, abs=0.01)
    assert kl({"0.*": 20.0, "*": 0.5}) == pytest.approx((20 * 4 + 0.5 * 3) * one, rel=1e-5)
    assert abs(kl(1.0, kept=False)) < 1e-5
    with pytest.raises(ValueError, match=r"has no number for '2\.input'"):
        kl({"0.*": 20.0})


def test_noise_larger_than_the_mean_takes_a_feature() -> None:
    bnn = spread()
    with torch.no_grad():
        bnn.guide.entries[0].posterior()["log_scale"].copy_(torch.tensor([-2.0, 0.0, 4.0]))
    mask = bnn.masks()["0.input"]
    assert (mask != 0).tolist() == [True, True, False]
    assert torch.equal(mask[:2], bnn.mean_forward(torch.ones(1, 3))[0, :2])


def test_a_location_beyond_an_end_comes_back() -> None:
    bnn = identity(2, ps.StructuredBayesianPruning())
    q = bnn.guide.entries[0].posterior()
    with torch.no_grad():
        q["loc"].copy_(torch.tensor([0.5, -20.25]))
    bnn.masks()["0.input"]
    loss = TraceMeanField_ELBO().differentiable_loss(bnn, bnn.guide, torch.ones(1, 2))
    loss.backward()
    mirrored = identity(2, ps.StructuredBayesianPruning())
    other = mirrored.guide.entries[0].posterior()
    with torch.no_grad():
        other["loc"].copy_(torch.tensor([-0.5, -19.75]))
    same = TraceMeanField_ELBO().differentiable_loss(mirrored, mirrored.guide, torch.ones(1, 2))
    same.backward()
    torch.testing.assert_close(loss, same)
    torch.testing.assert_close(q["loc"].grad, -other["loc"].grad)


@pytest.mark.parametrize("make", [ps.StructuredBayesianPruning, ps.HardConcrete])
def test_gates_in_front_of_batch_normalisation_are_announced(make: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    with pytest.warns(UserWarning, match=r"'0\.output' come before.*ps\.outputs\(net, '1'\)"):
        ps.lift(net, make(), ps.outputs(net, "0"))
    for method, targets in (
        (make(), ps.gates(net)),
        (make(), ps.inputs(net)),
        (make(noise="example"), ps.outputs(net, "0")),
        (ps.BetaBernoulli(), ps.outputs(net, "0")),
    ):
        ps.lift(net, method, targets)


def test_it_is_evaluated_at_its_mean() -> None:
    bnn, x = spread(), torch.randn(20, 3)
    model = ps.regressor(bnn, 20, noise=0.5)
    found = ps.evidence.evaluate(model, bnn.guide, (x, x))
    likelihood = torch.distributions.Normal(bnn.eval().mean_forward(x), 0.5)
    assert found["nll"] == pytest.approx(-float(likelihood.log_prob(x).detach().sum(1).mean()))
