"""Gates on features: a user's own method on inputs and on outputs."""

from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from tests.method_case import MethodCase
from tests.methods.gates import LogNormalGate


class GateCase(MethodCase):
    bad = [{"spread": 0.0}, {"initial_scale": -1.0}]  # noqa: RUF012
    recovery: ClassVar[dict[str, Any]] = {"spread": 2.0}
    recovery_threshold = 0.5

    def make(self, **options: Any) -> ps.Method:
        return LogNormalGate(**options)

    def size(self, loc: Tensor) -> Tensor:
        return loc


class TestInputGates(GateCase):
    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.inputs(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net


class TestOutputGates(GateCase):
    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.outputs(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.eye(8), requires_grad=False)
        net[1].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 4), (5, 3)),
        (nn.Linear(3, 4), (5, 2, 3)),
        (nn.Conv1d(3, 4, 2), (5, 3, 6)),
        (nn.Conv2d(3, 4, 2), (5, 3, 6, 6)),
        (nn.Conv3d(3, 4, 2), (5, 3, 4, 4, 4)),
        (nn.ConvTranspose2d(3, 4, 2), (5, 3, 4, 4)),
        (nn.BatchNorm2d(3), (5, 3, 4, 4)),
        (nn.GroupNorm(1, 3), (5, 3, 4)),
        (nn.LayerNorm(3), (5, 2, 3)),
    ],
)
@pytest.mark.parametrize("select", [ps.inputs, ps.outputs])
def test_gate_multiplies_the_features_of(layer: nn.Module, shape: tuple[int, ...], select):
    net = nn.Sequential(layer).eval()
    x = torch.randn(shape)
    (target,) = select(net, "0")
    bnn = ps.lift(net, LogNormalGate(), [target])
    gate = torch.rand(target.shape)
    result = poutine.condition(bnn, {target.site: gate})(x)
    dense = isinstance(layer, (nn.Linear, nn.LayerNorm))
    gains = gate if dense else gate.view(-1, *[1] * (x.dim() - 2))
    expected = layer(x * gains) if target.kind == "input" else layer(x) * gains
    assert torch.allclose(result, expected)


def test_one_gate_for_each_example():
    net = nn.Sequential(nn.Linear(3, 2))

    class PerExample(LogNormalGate):
        def prior(self, target, q, x):
            return torch.arange(1.0, 1 + len(x)).unsqueeze(-1).expand(len(x), *target.shape)

    bnn = ps.lift(net, PerExample(), ps.inputs(net))
    x = torch.randn(5, 3)
    assert torch.allclose(bnn(x), net(x * torch.arange(1.0, 6.0).unsqueeze(-1)))


def test_module_used_twice_has_one_gate():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3, bias=False)

        def forward(self, x):
            return self.fc(self.fc(x))

    net = Twice()
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net))
    gate = torch.tensor([0.5, 2.0, 1.0])
    x = torch.randn(4, 3)
    result = poutine.condition(bnn, {"fc.input": gate})(x)
    assert torch.allclose(result, net.fc(net.fc(x * gate) * gate))


def test_gate_on_a_layer_called_by_keyword():
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(input=x)

    net = ByKeyword()
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net))
    gate = torch.tensor([0.0, 2.0, 1.0])
    x = torch.randn(4, 3)
    assert torch.allclose(poutine.condition(bnn, {"fc.input": gate})(x), net.fc(x * gate))


def test_gate_on_a_network_that_is_a_single_layer():
    net = nn.Linear(3, 2)
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net))
    (target,) = bnn.targets
    gate = torch.tensor([0.0, 2.0, 1.0])
    x = torch.randn(4, 3)
    assert torch.allclose(poutine.condition(bnn, {target.site: gate})(x), net(x * gate))


@pytest.mark.parametrize("gates_first", [True, False])
def test_removed_unit_is_silent_under_noise_at_its_activations(gates_first: bool):
    net = nn.Sequential(nn.Linear(4, 3), nn.Identity())
    noisy = ps.Gaussian(posterior="normal", estimator="activations", initial_scale=1.0)
    pairs = [(LogNormalGate(), ps.outputs(net, "0")), (noisy, ps.weights(net))]
    bnn = ps.lift(net, pairs if gates_first else pairs[::-1])
    bnn.freeze({"0.output": torch.tensor([0.0, 1.0, 1.0])})
    trace = poutine.trace(bnn.guide).get_trace()
    with poutine.replay(trace=trace):
        out = bnn(torch.randn(6, 4))
    assert not out[:, 0].any()
    assert out[:, 1:].all()


def test_frozen_gate_is_exactly_zero_in_draws_and_means():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net, "2"))
    bnn.freeze({"2.input": torch.zeros(3)})
    x = torch.randn(5, 4)
    assert not bnn(x).any()
    assert not bnn.mean_forward(x).any()
    assert bnn.masks(0.0)["2.input"].count_nonzero() == 0
