"""L0 regularisation: the suite of every method, and what it promises besides."""

import math
from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from pyrosparse.distributions import hard_concrete_moments
from pyrosparse.lifting.method import Posterior
from tests.method_case import MethodCase
from tests.methods.gates import draws, identity
from tests.monte_carlo import assert_mean


class Case(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"cost": 0.0},
        {"cost": {"*": -1.0}},
        {"temperature": 0.0},
        {"low": 0.0},
        {"high": 1.0},
        {"gain": "median"},
        {"noise": "layer"},
        {"initial": 1.0},
    ]
    recovery: ClassVar[dict[str, Any]] = {
        "cost": 200.0,
        "initial": 0.5,
    }  # a gate that rests open costs nothing
    recovery_threshold = 0.0
    options: ClassVar[dict[str, Any]] = {}

    def make(self, **options: Any) -> ps.Method:
        return ps.HardConcrete(**(self.options | options))

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        method, target = self.make(), ps.Target("fc", "input", (20,), axis=-1)
        score = method.score(target, Posterior(log_alpha=torch.linspace(-9, 9, 20)))
        assert (score.diff() > 0).all()


@pytest.mark.filterwarnings("ignore::pyrosparse.distributions.ImproperPriorWarning")
class TestInputs(Case):
    # A step that closes the only gate of a layer gives it no gradient.
    options: ClassVar[dict[str, Any]] = {"initial": 0.9}

    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.inputs(net)


@pytest.mark.filterwarnings("ignore::pyrosparse.distributions.ImproperPriorWarning")
class TestExamples(Case):
    options: ClassVar[dict[str, Any]] = {"noise": "example", "gain": "expectation"}

    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.gates(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Conv1d(8, 8, 1, bias=False), nn.Conv1d(8, 1, 1, bias=False))
        net[0].weight = nn.Parameter(torch.eye(8).unsqueeze(2), requires_grad=False)
        net[1].weight = nn.Parameter(torch.ones(1, 8, 1), requires_grad=False)
        return nn.Sequential(nn.Unflatten(1, (8, 1)), *net, nn.Flatten())


def at(log_alpha: list[float], **options: Any) -> ps.Lifted:
    bnn = identity(len(log_alpha), ps.HardConcrete(**options))
    with torch.no_grad():
        bnn.guide.entries[0].posterior()["log_alpha"].copy_(torch.tensor(log_alpha))
    return bnn


@pytest.mark.parametrize("noise", ["step", "example"])
def test_a_gate_has_the_mean_of_its_law(noise: str) -> None:
    torch.manual_seed(0)
    bnn = at([-2.0, 0.0, 1.5], noise=noise, gain="expectation")
    gates = draws(bnn, torch.ones(1, 3), 1000).squeeze(1).double()
    assert_mean(gates, bnn.mean_forward(torch.ones(1, 3))[0].detach().double())


def test_examples_share_a_gate_or_have_their_own() -> None:
    torch.manual_seed(1)
    shared = draws(at([0.0] * 6), torch.ones(5, 6), 1)[0]
    assert torch.equal(shared, shared[:1].expand(5, 6))
    own = draws(at([0.0] * 6, noise="example"), torch.ones(5, 6), 1)[0]
    assert all(len(own[:, unit].unique()) > 1 for unit in range(6))


def test_the_papers_gain_and_the_expectation() -> None:
    line = [-3.0, -2.3, 0.0, 1.0, 3.0]
    paper = at(line).masks()["0.input"]
    s = torch.tensor(line).sigmoid()
    torch.testing.assert_close(paper, (1.2 * s - 0.1).clamp(0, 1))
    expected = at(line, gain="expectation").masks()["0.input"]
    kept = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(expected, hard_concrete_moments(torch.tensor(line))[0] * kept)
    # What stays is counted; the paper's codes report the sum of the gains.
    masks = at(line).masks()
    assert masks.kept == 4
    assert float(masks["0.input"].sum()) == pytest.approx(0.0093 + 0.5 + 0.7773 + 1, abs=1e-3)


def test_a_passing_feature_has_its_price_by_name() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(5, 4)

    def cost(price: Any, frozen: bool = False) -> float:
        bnn = ps.lift(net, ps.HardConcrete(cost=price), ps.inputs(net))
        if frozen:
            bnn.freeze({"0.input": torch.zeros(4)})
        return TraceMeanField_ELBO().loss(bnn, bnn.guide, x)

    passing = 1 - 0.16818  # at log alpha = 0
    assert cost(2.0) == pytest.approx(2 * 7 * passing, rel=1e-4)
    price = {"0.*": 20.0, "*": 0.5}
    assert cost(price) == pytest.approx((20 * 4 + 0.5 * 3) * passing, rel=1e-4)
    assert cost(price, frozen=True) == pytest.approx(0.5 * 3 * passing, rel=1e-4)
    with pytest.raises(ValueError, match=r"cost has no number for '2\.input'"):
        cost({"0.*": 20.0})


def test_what_is_frozen_lets_nothing_through() -> None:
    bnn = at([3.0] * 4)
    bnn.freeze({"0.input": torch.tensor([True, False, True, False])})
    assert not draws(bnn, torch.ones(6, 4), 10)[..., [1, 3]].any()
    assert (bnn.masks()["0.input"] > 0).tolist() == [True, False, True, False]


def test_the_prior_is_a_penalty() -> None:
    assert not ps.HardConcrete.proper
    bnn = at([0.0])
    with pytest.warns(ps.distributions.ImproperPriorWarning):
        poutine.trace(bnn).get_trace(torch.ones(1, 1))


def test_fit_keeps_log_alpha_where_it_can_come_back_and_leaves_the_frozen_alone() -> None:
    bnn = at([0.0] * 4, cost=1e4)
    bnn.freeze({"0.input": torch.tensor([True, True, False, False])})
    x = torch.zeros(8, 4)
    options: dict[str, Any] = {"learning_rate": 3.0, "progress": False}
    ps.fit(ps.regressor(bnn, 8, noise=1.0), bnn.guide, (x, x), epochs=5, **options)
    log_alpha = bnn.guide.entries[0].tensors()["log_alpha"].detach()
    furthest = math.log(100)
    torch.testing.assert_close(log_alpha, torch.tensor([-furthest, -furthest, -100.0, -100.0]))
    # What is released is within reach again.
    bnn.freeze({"0.input": torch.ones(4)})
    bnn.project()
    torch.testing.assert_close(log_alpha, torch.full((4,), -furthest))
    with torch.no_grad():
        bnn.guide.entries[0].tensors()["log_alpha"].fill_(7.0)
    with pytest.warns(UserWarning, match=r"bnn\.project\(\)"):
        bnn.masks()


def test_it_is_evaluated_at_its_mean() -> None:
    bnn, x = at([-1.0, 0.0, 2.0], gain="expectation"), torch.randn(20, 3)
    model = ps.regressor(bnn, 20, noise=0.5)
    found = ps.evidence.evaluate(model, bnn.guide, (x, x))
    likelihood = torch.distributions.Normal(bnn.eval().mean_forward(x), 0.5)
    assert found["nll"] == pytest.approx(-float(likelihood.log_prob(x).detach().sum(1).mean()))
