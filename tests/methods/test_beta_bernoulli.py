"""Beta-Bernoulli dropout: the suite of every method, and what it promises besides."""

from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

import pyrosparse as ps
from pyrosparse.distributions import LogitKumaraswamy
from pyrosparse.lifting.method import Posterior
from tests.method_case import MethodCase
from tests.monte_carlo import assert_mean


class BetaBernoulliCase(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"alpha": 0.0},
        {"alpha": float("inf")},
        {"temperature": -0.1},
        {"kl_scale": 0.0},
        {"kl_scale": {"*": float("nan")}},
        {"pi": "drawn"},
        {"initial": 1.0},
    ]
    recovery: ClassVar[dict[str, Any]] = {"initial": 0.5}
    recovery_threshold = 0.01  # 300 steps do not take the others below 0.001
    options: ClassVar[dict[str, Any]] = {}

    def make(self, **options: Any) -> ps.Method:
        return ps.BetaBernoulli(**(self.options | options))

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        # The mean of pi rises with a and falls with b.
        method, target = self.make(), ps.Target("fc", "input", (20,), axis=-1)
        line, flat = torch.linspace(-9, 3, 20), torch.zeros(20)
        assert (method.score(target, Posterior(log_a=line, log_b=flat)).diff() > 0).all()
        assert (method.score(target, Posterior(log_a=flat, log_b=line)).diff() < 0).all()


class TestInputs(BetaBernoulliCase):
    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.inputs(net)


class TestCollapsed(BetaBernoulliCase):
    options: ClassVar[dict[str, Any]] = {"pi": "collapsed"}

    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.gates(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Conv1d(8, 8, 1, bias=False), nn.Conv1d(8, 1, 1, bias=False))
        net[0].weight = nn.Parameter(torch.eye(8).unsqueeze(2), requires_grad=False)
        net[1].weight = nn.Parameter(torch.ones(1, 8, 1), requires_grad=False)
        return nn.Sequential(nn.Unflatten(1, (8, 1)), *net, nn.Flatten())


def identity(features: int, **options: Any) -> ps.Lifted:
    net = nn.Sequential(nn.Linear(features, features, bias=False))
    net[0].weight = nn.Parameter(torch.eye(features), requires_grad=False)
    return ps.lift(net, ps.BetaBernoulli(**options), ps.inputs(net))


def draws(bnn: ps.Lifted, x: Tensor, count: int) -> Tensor:
    """Gates of the examples under the guide, (count, *x.shape) where x is ones."""
    found = []
    for _ in range(count):
        trace = poutine.trace(bnn.guide).get_trace(x)
        with torch.no_grad(), poutine.replay(trace=trace):
            found.append(bnn(x))
    return torch.stack(found)


@pytest.mark.parametrize("pi", ["sampled", "collapsed"])
def test_a_gate_is_open_with_the_mean_of_pi(pi: str) -> None:
    torch.manual_seed(0)
    copies = 200  # of three features
    bnn = identity(3 * copies, pi=pi)
    q = bnn.guide.entries[0].posterior()
    with torch.no_grad():
        q["log_a"].copy_(torch.tensor([0.05, 0.8, 4.0]).log().repeat(copies))
        q["log_b"].copy_(torch.tensor([1.0, 2.0, 0.6]).log().repeat(copies))
    gates = draws(bnn, torch.ones(1, 3 * copies), 20).view(-1, 3)
    expected = bnn.guide.entries[0].method.score(bnn.targets[0], q)[:3]
    # Above a half with probability pi, at any temperature.
    assert_mean((gates > 0.5).double(), expected.detach().double())


def test_examples_of_a_step_share_pi_and_have_gates_of_their_own() -> None:
    torch.manual_seed(1)
    # pi is mostly near 0 or near 1 here, and then all gates of a step agree; its mean is 0.7.
    spread = {"log_a": torch.tensor([1e-3]).log(), "log_b": torch.tensor([0.05]).log()}
    agreeing = {}
    for pi in ("sampled", "collapsed"):
        bnn = identity(1, pi=pi)
        q = bnn.guide.entries[0].posterior()
        with torch.no_grad():
            for key, value in spread.items():
                q[key].copy_(value)
        opened = draws(bnn, torch.ones(50, 1), 60).squeeze(-1) > 0.5
        fraction = opened.float().mean(1)
        agreeing[pi] = float(((fraction == 0) | (fraction == 1)).float().mean())
    assert agreeing["sampled"] > 0.6
    assert agreeing["collapsed"] < 0.1
    distinct = draws(identity(1, initial=0.5), torch.ones(50, 1), 1)
    assert len(distinct.unique()) > 10


def test_collapsed_gates_follow_what_is_drawn_where_no_guide_drew_it() -> None:
    bnn = identity(2, pi="collapsed", initial=0.99)
    conditioned = poutine.condition(bnn, data={"0.input": torch.tensor([-1e6, 1e6])})
    out = conditioned(torch.ones(40, 2))
    assert torch.equal(out, torch.tensor([0.0, 1.0]).expand(40, 2))
    # Under the prior nearly every gate is shut.
    assert (poutine.trace(bnn).get_trace(torch.ones(40, 2)).nodes["_RETURN"]["value"] < 0.5).all()


def test_kl_scale_weighs_each_target() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(5, 4)

    def kl(scale: Any) -> float:
        bnn = ps.lift(net, ps.BetaBernoulli(kl_scale=scale), ps.inputs(net))
        return TraceMeanField_ELBO().loss(bnn, bnn.guide, x)

    bnn = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net))
    one = {}
    for entry in bnn.guide.entries:
        q = LogitKumaraswamy(log_a=entry.posterior()["log_a"].detach(), log_b=torch.zeros(1))
        one[entry.target.key] = float(kl_divergence(q, LogitKumaraswamy(1e-4, 1)).sum())
    assert kl(1.0) == pytest.approx(one["0.input"] + one["2.input"], rel=1e-5)
    assert kl(3.0) == pytest.approx(3 * kl(1.0), rel=1e-5)
    expected = 20 * one["0.input"] + 0.5 * one["2.input"]
    assert kl({"0.*": 20.0, "*": 0.5}) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"has no number for '2\.input'"):
        kl({"0.*": 20.0})


def test_what_is_frozen_costs_no_kl_and_lets_nothing_through() -> None:
    bnn = identity(4)
    bnn.freeze({"0.input": torch.tensor([True, False, True, False])})
    q = bnn.guide.entries[0].posterior()
    guide = LogitKumaraswamy(log_a=q["log_a"], log_b=q["log_b"])
    kl = kl_divergence(guide, LogitKumaraswamy(1e-4, 1))
    assert torch.equal(kl.abs() < 1e-9, torch.tensor([False, True, False, True]))
    assert not draws(bnn, torch.ones(6, 4), 10)[..., [1, 3]].any()
    assert torch.equal(bnn.masks()["0.input"] > 0, torch.tensor([True, False, True, False]))


def test_gains_and_masks_are_the_mean_of_pi() -> None:
    bnn = identity(3)
    a = torch.tensor([1e-5, 1.002e-3, 1.0])
    with torch.no_grad():
        bnn.guide.entries[0].posterior()["log_a"].copy_(a.log())
    mean = a / (1 + a)  # of Kumaraswamy(a, 1); the second is just above the threshold
    kept = torch.tensor([0.0, 1.0, 1.0])
    assert torch.allclose(bnn.masks()["0.input"], mean * kept, rtol=1e-5)
    assert torch.allclose(bnn.mean_forward(torch.ones(2, 3))[0], mean, rtol=1e-5)


def test_float32_trains_where_the_paper_starts_and_ends() -> None:
    # pi itself is 0 in float32 in most draws here; the gradient must not be.
    for a, b in ((1e-5, 50.0), (1e-4, 1.0), (0.3133, 1.0)):
        torch.manual_seed(3)
        bnn = identity(64)
        q = bnn.guide.entries[0].posterior()
        with torch.no_grad():
            q["log_a"].fill_(a).log_()
            q["log_b"].fill_(b).log_()
        model = ps.regressor(bnn, 32, noise=1.0)
        x = torch.randn(32, 64)
        TraceMeanField_ELBO().loss_and_grads(model, bnn.guide, x, x)
        for tensor in bnn.guide.parameters():
            assert tensor.grad is not None and tensor.grad.isfinite().all()
        # At the prior itself (a = alpha, b = 1) the divergence is flat.
        if (a, b) != (1e-4, 1.0):
            assert bnn.guide.posterior.get_submodule("0.input").log_a.grad.count_nonzero() == 64
