"""Generalized dropout: the suite of every method, and what it promises besides."""

from typing import Any, ClassVar

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from pyrosparse.lifting.method import Posterior
from tests.method_case import MethodCase
from tests.methods.gates import draws, identity
from tests.monte_carlo import assert_mean


@pytest.mark.filterwarnings("ignore::pyrosparse.distributions.ImproperPriorWarning")
class TestInputs(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"alpha": 0.0},
        {"beta": float("inf")},
        {"temperature": 0.0},
        {"kl_scale": 0.0},
        {"initial": 0.0},
    ]
    recovery: ClassVar[dict[str, Any]] = {"initial": 0.5, "kl_scale": 3.0}
    recovery_threshold = 0.1

    def make(self, **options: Any) -> ps.Method:
        return ps.GeneralizedDropout(**options)

    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.inputs(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        method, target = self.make(), ps.Target("fc", "input", (20,), axis=-1)
        score = method.score(target, Posterior(logit=torch.linspace(-9, 9, 20)))
        assert (score.diff() > 0).all()


def at(logit: list[float], **options: Any) -> ps.Lifted:
    bnn = identity(len(logit), ps.GeneralizedDropout(**options))
    with torch.no_grad():
        bnn.guide.entries[0].posterior()["logit"].copy_(torch.tensor(logit))
    return bnn


def test_each_example_has_a_gate_that_is_open_with_probability_theta() -> None:
    torch.manual_seed(0)
    bnn = at([-2.0, 0.0, 2.5])
    gates = draws(bnn, torch.ones(1, 3), 1000).squeeze(1)
    assert_mean((gates > 0.5).double(), torch.tensor([-2.0, 0.0, 2.5]).double().sigmoid())
    own = draws(at([0.0] * 4), torch.ones(9, 4), 1)[0]
    assert all(len(own[:, unit].unique()) > 1 for unit in range(4))


@pytest.mark.parametrize(("alpha", "beta"), [(1e-4, 1.0), (1.0, 1.0), (3.0, 2.0), (0.5, 0.5)])
def test_the_penalty_is_the_beta_density_of_theta(alpha: float, beta: float) -> None:
    line = [-3.0, 0.0, 1.0]
    bnn = at(line, alpha=alpha, beta=beta, kl_scale=2.0)
    loss = TraceMeanField_ELBO().loss(bnn, bnn.guide, torch.ones(1, 3))
    theta = torch.tensor(line).double().sigmoid()
    density = torch.distributions.Beta(torch.tensor(alpha).double(), torch.tensor(beta).double())
    half = torch.tensor(0.5).double()
    # Without its constant, which is that at a half.
    expected = density.log_prob(theta) - density.log_prob(half)
    constant = (alpha + beta - 2) * half.log()
    assert loss == pytest.approx(-2 * float((expected + constant).sum()), rel=1e-5, abs=1e-5)


def test_the_pull_on_a_closing_gate_is_one_nat_for_ever() -> None:
    bnn = at([-2.0, -20.0, -200.0])
    TraceMeanField_ELBO().loss_and_grads(bnn, bnn.guide, torch.ones(1, 3))
    (pull,) = (one.grad for name, one in bnn.guide.named_parameters() if "logit" in name)
    theta = torch.tensor([-2.0, -20.0, -200.0]).sigmoid()
    torch.testing.assert_close(pull, (1 - 1e-4) * (1 - theta))


def test_a_feature_stays_from_a_thousandth_on() -> None:
    logit = torch.tensor([0.9e-3, 1.1e-3, 0.5]).logit()
    mask = at(logit.tolist()).masks()["0.input"]
    torch.testing.assert_close(mask, torch.tensor([0.0, 1.1e-3, 0.5]))


def test_the_prior_is_a_penalty() -> None:
    assert not ps.GeneralizedDropout.proper


def test_it_is_evaluated_at_its_mean() -> None:
    bnn, x = at([-1.0, 0.0, 2.0]), torch.randn(20, 3)
    model = ps.regressor(bnn, 20, noise=0.5)
    found = ps.evidence.evaluate(model, bnn.guide, (x, x))
    likelihood = torch.distributions.Normal(bnn.eval().mean_forward(x), 0.5)
    assert found["nll"] == pytest.approx(-float(likelihood.log_prob(x).detach().sum(1).mean()))
