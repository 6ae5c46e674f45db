"""The spike and slab of groups: the suite of every method, and what it promises besides."""

from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Bernoulli, kl_divergence

import pyrosparse as ps
from pyrosparse.lifting.method import Posterior
from tests.method_case import MethodCase
from tests.monte_carlo import assert_mean


class GroupCase(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"inclusion": 0.0},
        {"initial": 1.0},
        {"temperature": 0.0},
        {"kl_scale": -1.0},
        {"kl_scale": {"*": float("inf")}},
    ]
    recovery_threshold = 0.5

    def make(self, **options: Any) -> ps.Method:
        return ps.GroupSpikeAndSlab(**options)

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        target, odds = ps.Target("fc", "input", (20,), axis=-1), torch.linspace(-9, 9, 20)
        assert (self.make().score(target, Posterior(log_odds=odds)).diff() > 0).all()


class TestInputs(GroupCase):
    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.inputs(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net


class TestOutputs(GroupCase):
    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.outputs(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.eye(8), requires_grad=False)
        net[1].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net


def identity(**options: Any) -> tuple[ps.Lifted, Tensor]:
    net = nn.Sequential(nn.Linear(3, 3, bias=False))
    net[0].weight = nn.Parameter(torch.eye(3), requires_grad=False)
    bnn = ps.lift(net, ps.GroupSpikeAndSlab(**options), ps.inputs(net))
    odds = bnn.guide.entries[0].posterior()["log_odds"]
    with torch.no_grad():
        odds.copy_(torch.tensor([-1.0, 0.5, 3.0]))
    return bnn, odds.detach()


def test_gates_are_drawn_zeros_and_ones_and_in_training_relaxed_ones() -> None:
    torch.manual_seed(0)
    bnn, odds = identity()
    x = torch.ones(50, 3)

    def gates(training: bool) -> Tensor:
        bnn.train(training)
        found = []
        for _ in range(300):
            trace = poutine.trace(bnn.guide).get_trace(x)
            with torch.no_grad(), poutine.replay(trace=trace):
                found.append(bnn(x))
        return torch.stack(found)

    drawn, relaxed = gates(False), gates(True)
    assert ((drawn == 0) | (drawn == 1)).all() and (drawn == drawn[:, :1]).all()
    assert_mean(drawn[:, 0], odds.sigmoid())
    assert_mean((relaxed > 0.5).flatten(0, 1).double(), odds.sigmoid().double())
    assert (relaxed != relaxed[:, :1]).any()
    bnn.train()  # what is set or drawn from the prior is used as it is
    with poutine.condition(data={"0.input": torch.tensor([1.0, 0.0, 1.0])}):
        assert torch.equal(bnn(x)[0], torch.tensor([1.0, 0.0, 1.0]))


def test_divergence_is_that_of_the_gates_with_its_weight() -> None:
    x = torch.ones(2, 3)
    bnn, odds = identity(inclusion=0.01)
    prior = Bernoulli(torch.tensor(0.01))
    exact = float(kl_divergence(Bernoulli(logits=odds), prior).sum())
    assert TraceMeanField_ELBO().loss(bnn, bnn.guide, x) == pytest.approx(exact, rel=1e-5)
    heavy, _ = identity(inclusion=0.01, kl_scale={"0.*": 3.0})
    assert TraceMeanField_ELBO().loss(heavy, heavy.guide, x) == pytest.approx(3 * exact, rel=1e-5)
    with pytest.raises(ValueError, match="has no number"):
        identity(kl_scale={"1.*": 3.0})


def test_what_is_frozen_costs_no_divergence() -> None:
    bnn, odds = identity(inclusion=0.3)
    bnn.freeze({"0.input": torch.tensor([True, False, False])})
    one = kl_divergence(Bernoulli(logits=odds[:1]), Bernoulli(torch.tensor(0.3)))
    loss = TraceMeanField_ELBO().loss(bnn, bnn.guide, torch.ones(2, 3))
    assert loss == pytest.approx(float(one.sum()), rel=1e-5)


def test_draws_give_their_share() -> None:
    bnn, _ = identity()
    draws = torch.bernoulli(torch.tensor([0.1, 0.5, 0.9]).expand(500, 3))
    bnn.match_moments({"0.input": draws})
    torch.testing.assert_close(bnn.scores()["0.input"], draws.mean(0), atol=2e-3, rtol=0)
