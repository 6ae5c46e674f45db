"""Variational dropout on weights and on gates, and its groups."""

import math
from typing import Any

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import pyrosparse as ps
from tests.method_case import MethodCase
from tests.monte_carlo import assert_mean

# The prior is asked for draws where it is traced without a guide.
no_draws = pytest.mark.filterwarnings("ignore::pyrosparse.distributions.ImproperPriorWarning")

BAD = [
    {"kl_scale": 0.0},
    {"kl_scale": {"*": float("inf")}},
    {"initial_scale": -1.0},
    {"gate_noise": "batch"},
    {"estimator": "nowhere"},
]


@no_draws
class TestWeights(MethodCase):
    bad = BAD
    # log |w| has the gradient 1 / w. A narrow posterior that moves to 0 would blow up rounding.
    capture_dtype = torch.float64
    recovery_threshold = 1.0

    def make(self, **options: Any) -> ps.Method:
        return ps.VariationalDropout(**{"initial_scale": 0.1} | options)


class TestEmpiricalBayes(MethodCase):
    bad = BAD

    def make(self, **options: Any) -> ps.Method:
        return ps.VariationalDropout(**{"empirical_bayes": True, "estimator": "weights"} | options)


@no_draws
class TestGates(MethodCase):
    bad = BAD
    capture_dtype = torch.float64
    recovery_threshold = 1.0

    def make(self, **options: Any) -> ps.Method:
        return ps.VariationalDropout(**options)

    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.gates(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net


def divergence(bnn: ps.Lifted, x: Tensor) -> float:
    return float(TraceMeanField_ELBO().loss(bnn, bnn.guide, x))


def outputs(bnn: ps.Lifted, x: Tensor) -> Tensor:
    """Of the network, with what the guide drew."""
    trace = poutine.trace(bnn.guide).get_trace(x)
    with torch.no_grad(), poutine.replay(trace=trace):
        return bnn(x)


def spread_out(bnn: ps.Lifted) -> None:
    """Give a lifted network's posterior locations and scales that all differ."""
    with torch.no_grad():
        for entry in bnn.guide.entries:
            q = entry.posterior()
            q["loc"].copy_(torch.linspace(0.4, 1.6, q["loc"].numel()).view_as(q["loc"]))
            q["log_scale"].copy_(torch.linspace(-1.5, 0, q["loc"].numel()).view_as(q["loc"]))


def test_a_weight_starts_with_little_noise_and_a_gate_open() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    bnn = ps.lift(net, [(ps.VariationalDropout(), t) for t in (ps.weights(net), ps.inputs(net))])
    weight, gate = (entry.posterior() for entry in bnn.guide.entries)
    assert weight["loc"] is net[0].weight
    assert torch.equal(gate["loc"].detach(), torch.ones(3))
    for q in (weight, gate):
        assert q["log_scale"].detach().mean() == pytest.approx(-5, abs=0.01)


def test_what_stays_has_less_noise_than_three_in_log_alpha() -> None:
    bnn = ps.lift(nn.Linear(4, 1), ps.VariationalDropout())
    log_alpha = torch.tensor([[2.9, 3.1, -8.0, 40.0]])
    with torch.no_grad():
        q = bnn.guide.entries[0].posterior()
        q["loc"].copy_(torch.tensor([[1.0, -1.0, -1e-3, 1.0]]))
        q["log_scale"].copy_(q["loc"].abs().log() + log_alpha / 2)
    assert torch.equal(bnn.masks()["weight"], torch.tensor([[True, False, True, False]]))


def test_only_the_log_uniform_prior_is_improper() -> None:
    assert not ps.VariationalDropout().proper
    assert ps.VariationalDropout(empirical_bayes=True).proper
    assert ps.Gaussian().proper


@pytest.mark.parametrize("empirical_bayes", [False, True])
def test_divergence_is_that_of_each_element_and_weighted_by_target(empirical_bayes: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(5, 4)

    def found(kl_scale: Any) -> float:
        torch.manual_seed(0)
        method = ps.VariationalDropout(kl_scale, empirical_bayes=empirical_bayes)
        bnn = ps.lift(net, method)
        spread_out(bnn)
        return divergence(bnn, x)

    loc, log_scale = torch.linspace(0.4, 1.6, 12), torch.linspace(-1.5, 0, 12)
    ratio = (loc / log_scale.exp()).double()
    if empirical_bayes:
        first = 0.5 * torch.log1p(ratio.square()).sum()
    else:
        v = torch.arange(0.0625, 25, 0.125, dtype=torch.float64)
        at = ratio.square() / 2
        first = (1 - torch.exp(-at[:, None] / torch.cosh(v).square())).sum() * 0.125
    assert found({"0.*": 1.0, "*": 1e-15}) == pytest.approx(float(first), abs=3e-4)
    assert found({"0.*": 20.0, "*": 0.5}) == pytest.approx(
        19.5 * float(first) + 0.5 * found(1.0), rel=1e-4
    )
    with pytest.raises(ValueError, match=r"has no number for '2\.weight'"):
        found({"0.*": 1.0})


def test_empirical_bayes_has_the_known_answer() -> None:
    method = ps.VariationalDropout(empirical_bayes=True, initial_scale=0.011)
    net = nn.Sequential(nn.Linear(1, 1))
    bnn = ps.lift(net, method, ps.inputs(net))
    assert divergence(bnn, torch.ones(1, 1)) == pytest.approx(4.50992, abs=1e-5)


@pytest.mark.parametrize("empirical_bayes", [False, True])
def test_what_is_frozen_owes_nothing_and_gets_no_gradient(empirical_bayes: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    method = ps.VariationalDropout(empirical_bayes=empirical_bayes)
    bnn = ps.lift(net, [(method, ps.weights(net)), (method, ps.inputs(net))])
    spread_out(bnn)
    bnn.freeze({target.key: torch.zeros(target.shape) for target in bnn.targets})
    x = torch.randn(5, 4)
    assert divergence(bnn, x) == pytest.approx(0.0, abs=1e-5)
    assert torch.equal(outputs(bnn, x), net[2].bias.detach().expand(5, 2))
    TraceMeanField_ELBO().loss_and_grads(bnn, bnn.guide, x)
    for entry in bnn.guide.entries:
        for tensor in entry.module.parameters():
            assert tensor.grad is None or not tensor.grad.any()
    # Released, it goes on from zero, with the noise of the start.
    bnn.freeze({target.key: torch.ones(target.shape) for target in bnn.targets})
    assert not any(score.any() for score in bnn.scores().values())


def identity(**options: Any) -> ps.Lifted:
    net = nn.Sequential(nn.Linear(3, 3, bias=False))
    net[0].weight = nn.Parameter(torch.eye(3), requires_grad=False)
    return ps.lift(net, ps.VariationalDropout(initial_scale=0.5, **options), ps.inputs(net))


def test_gates_have_noise_for_each_example_or_step() -> None:
    x = torch.ones(2000, 3)
    gates = outputs(identity(), x)
    assert_mean(gates, 1.0)
    assert_mean((gates - 1).square(), 0.25)
    for once in (outputs(identity(gate_noise="step"), x), outputs(identity().eval(), x)):
        assert torch.equal(once, once[:1].expand(2000, 3)) and once.std() > 0


def test_given_gates_are_used_as_they_are() -> None:
    given = poutine.condition(identity(), data={"0.input": torch.tensor([0.5, -1.0, 2.0])})
    assert torch.equal(given(torch.ones(4, 3)), torch.tensor([0.5, -1.0, 2.0]).expand(4, 3))


def test_noise_at_the_activations_of_a_convolution_has_the_variance_of_its_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 2))
    bnn = ps.lift(net, ps.VariationalDropout())
    spread_out(bnn)
    q = bnn.guide.entries[0].posterior()
    x = torch.randn(1, 2, 3, 3)
    drawn = outputs(bnn, x.expand(6000, -1, -1, -1))
    assert_mean(drawn, net(x)[0].detach())
    variance = nn.functional.conv2d(x.square(), (2 * q["log_scale"]).exp())[0].detach()
    assert_mean((drawn - net(x).detach()).square(), variance)


def group(net: nn.Module, gates: list[ps.Target]) -> ps.Lifted:
    slab = ps.Gaussian(scale=1, posterior="normal", estimator="activations")
    return ps.lift(net, [(ps.VariationalDropout(), gates), (slab, ps.weights(net))])


@pytest.mark.parametrize("on_inputs", [True, False], ids=["inputs", "outputs"])
@pytest.mark.parametrize("training", [True, False], ids=["activations", "weights"])
def test_groups_of_weights_have_their_marginal_mean_and_variance(
    on_inputs: bool, training: bool
) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 3))
    bnn = group(net, ps.inputs(net) if on_inputs else ps.outputs(net, "0")).train(training)
    spread_out(bnn)
    weight, gate = (entry.posterior() for entry in bnn.guide.entries)
    m, v = weight["loc"].detach(), (2 * weight["log_scale"]).exp().detach()
    mu, sigma2 = gate["loc"].detach(), (2 * gate["log_scale"]).exp().detach()
    bias, x = net[0].bias.detach(), torch.randn(1, 4)
    if training:
        drawn = outputs(bnn, x.expand(20_000, 4))
    else:
        drawn = torch.cat([outputs(bnn, x) for _ in range(1500)])
    if on_inputs:
        mean = x @ (mu * m).T + bias
        variance = x.square() @ (mu.square() * v + sigma2 * m.square() + sigma2 * v).T
    else:
        inner, noise = x @ m.T + bias, x.square() @ v.T
        mean = mu * inner
        variance = mu.square() * noise + sigma2 * inner.square() + sigma2 * noise
    assert_mean(drawn, mean[0])
    assert_mean((drawn - mean).square(), variance[0])


def test_the_divergence_of_a_group_is_that_of_gates_and_of_weights_under_a_unit_normal() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    bnn = group(net, ps.inputs(net))
    spread_out(bnn)
    weight = bnn.guide.entries[0].posterior()
    own = kl_divergence(Normal(weight["loc"], weight["log_scale"].exp()), Normal(0.0, 1.0)).sum()
    alone = ps.lift(net, ps.VariationalDropout(), ps.inputs(net))
    spread_out(alone)
    x = torch.ones(1, 4)
    assert divergence(bnn, x) == pytest.approx(own.item() + divergence(alone, x), rel=1e-5)


def test_noise_where_it_has_no_formula_is_refused() -> None:
    net = nn.Sequential(nn.Embedding(5, 3))
    with pytest.raises(ValueError, match=r"estimator='weights'"):
        ps.lift(net, ps.VariationalDropout(), ps.weights(net, "0"))
    assert math.isfinite(
        divergence(
            ps.lift(net, ps.VariationalDropout(estimator="weights"), ps.weights(net, "0")),
            torch.tensor([1]),
        )
    )
