"""The regularised horseshoe of groups: the suite of every method, and its known answers."""

from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import HalfCauchy, LogNormal, kl_divergence

import pyrosparse as ps
from pyrosparse.lifting.method import Posterior
from tests.method_case import MethodCase
from tests.monte_carlo import assert_mean


class HorseshoeCase(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"n": 0},
        {"active": 0.0},
        {"active": 1.0},
        {"slab_scale": -1.0},
        {"slab_freedom": 0.0},
        {"initial": 2.0},
        {"initial_scale": float("nan")},
        {"kl_scale": 0.0},
    ]
    recovery: ClassVar[dict[str, Any]] = {"n": 80}
    recovery_threshold = 0.0

    def make(self, **options: Any) -> ps.Method:
        return ps.GroupHorseshoe(**{"n": 70} | options)

    def size(self, loc: Tensor) -> Tensor:
        return loc


class TestInputs(HorseshoeCase):
    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.inputs(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net


class TestGates(HorseshoeCase):
    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.gates(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Conv1d(8, 8, 1, bias=False), nn.Conv1d(8, 1, 1, bias=False))
        net[0].weight = nn.Parameter(torch.eye(8).unsqueeze(2), requires_grad=False)
        net[1].weight = nn.Parameter(torch.ones(1, 8, 1), requires_grad=False)
        return nn.Sequential(nn.Unflatten(1, (8, 1)), *net, nn.Flatten())


def identity(**options: Any) -> tuple[ps.Lifted, Posterior]:
    net = nn.Sequential(nn.Linear(3, 3, bias=False))
    net[0].weight = nn.Parameter(torch.eye(3), requires_grad=False)
    bnn = ps.lift(net, ps.GroupHorseshoe(**{"n": 10_000} | options), ps.inputs(net))
    return bnn, bnn.guide.entries[0].posterior()


def set_to(q: Posterior, **values: Any) -> None:
    with torch.no_grad():
        for key, value in values.items():
            q[key].copy_(torch.as_tensor(value))


def test_the_gate_is_the_regularised_horseshoe() -> None:
    bnn, _ = identity()
    values = {"0.input": torch.tensor([0.1, 3.0, 1e6]), "0.input_global": torch.tensor(0.2)}
    values["0.input_slab"] = torch.tensor(4.0)
    gate = poutine.condition(bnn, data=values)(torch.ones(1, 3))[0]
    tau, local, c2 = values["0.input_global"], values["0.input"], values["0.input_slab"]
    shrunk = c2 * local**2 / (c2 + tau**2 * local**2)
    torch.testing.assert_close(gate, tau * shrunk.sqrt())
    assert gate[2] == pytest.approx(2.0)  # no more than the slab


def test_gains_are_the_mean_of_the_draws() -> None:
    torch.manual_seed(0)
    bnn, q = identity()
    set_to(q, loc=[4.0, 6.5, 9.0], log_scale=[0.0, -1.0, 0.3], global_log_scale=-1.0)
    set_to(q, slab_log_scale=-0.5)
    draws = []
    for _ in range(600):
        trace = poutine.trace(bnn.guide).get_trace(torch.ones(1, 3))
        with torch.no_grad(), poutine.replay(trace=trace):
            draws.append(bnn(torch.ones(1, 3))[0])
    assert_mean(
        torch.stack(draws).double(), bnn.mean_forward(torch.ones(1, 3))[0].detach().double()
    )


def test_gates_start_where_they_are_told_to() -> None:
    for initial in (0.3, 1.0):
        bnn, q = identity(initial=initial, initial_scale=1e-3)
        assert torch.allclose(bnn.mean_forward(torch.ones(1, 3)), torch.tensor(initial), rtol=1e-4)
        assert torch.allclose(bnn.scores()["0.input"].exp(), torch.tensor(10_000 * initial**2))
        assert q["global_loc"].exp().item() == pytest.approx(1 / 9 / 100)


def test_units_stay_where_less_than_half_of_their_effect_is_shrunk_away() -> None:
    bnn, q = identity()  # n = 10 000: at a gate of 0.01 kappa is 1/2
    tau = float(q["global_loc"].detach().exp())
    set_to(q, loc=torch.tensor([0.0099 / tau, 0.0101 / tau, 1.0]).log())
    kept = bnn.masks()["0.input"] > 0
    assert kept.tolist() == [False, True, False]


def test_prior_has_the_quantiles_of_its_laws() -> None:
    torch.manual_seed(1)
    bnn, _ = identity(n=25, active=0.5)  # tau_0 = 0.2
    x = torch.ones(1, 3)
    draws: dict[str, list[Tensor]] = {}
    for _ in range(300):
        trace = poutine.trace(bnn).get_trace(x)
        for name in ("0.input", "0.input_global", "0.input_slab"):
            draws.setdefault(name, []).append(trace.nodes[name]["value"])
    # The upper quartile of a half-Cauchy law is 1 + sqrt(2); the mean of 1 / c^2 is 1 / s^2.
    local, shared, slab = (torch.stack(one).flatten() for one in draws.values())
    for values, scale in ((local, 1.0), (shared, 0.2)):
        for level, quantile in ((0.5, scale), (0.75, scale * (1 + 2**0.5))):
            assert_mean((values < quantile).double(), level)
    assert_mean((1 / slab).double(), 0.25)


def test_what_is_frozen_costs_next_to_nothing() -> None:
    bnn, q = identity()
    bnn.freeze({"0.input": torch.zeros(3)})
    local = LogNormal(q["loc"], q["log_scale"].exp())
    # 0.0208 nats: the least that a log-normal law can have.
    least = kl_divergence(local, HalfCauchy(torch.ones(3)))
    torch.testing.assert_close(least, torch.full((3,), 0.0208153), rtol=1e-3, atol=0)
    for factor in (0.9, 1.1):
        other = LogNormal(q["loc"], factor * q["log_scale"].exp())
        assert (kl_divergence(other, HalfCauchy(torch.ones(3))) > least).all()


def test_with_normal_weights_it_prunes_inputs_that_say_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, 6, generator=generator)
    y = x[:, :2] @ torch.tensor([[1.0], [-0.7]]) + 0.1 * torch.randn(200, 1, generator=generator)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 1, bias=False))
    with torch.no_grad():  # a trained network
        net[0].weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    normal = ps.Gaussian(1.0, posterior="normal", estimator="activations")
    horseshoe = ps.GroupHorseshoe(n=200, active=0.3)
    bnn = ps.lift(net, [(normal, ps.weights(net)), (horseshoe, ps.inputs(net))])
    ps.fit(
        ps.regressor(bnn, 200, noise=0.1),
        bnn.guide,
        (x, y),
        epochs=500,
        batch_size=200,
        learning_rate=0.1,
        schedule=ps.infer.schedules.cosine(),
        progress=False,
    )
    mask = bnn.masks()["0.input"]
    assert (mask > 0).tolist() == [True, True, False, False, False, False]
    effect = mask[:2] * net[0].weight.detach()[0, :2]
    assert torch.allclose(effect, torch.tensor([1.0, -0.7]), atol=0.05)
