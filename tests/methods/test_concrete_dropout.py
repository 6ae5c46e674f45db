"""Concrete dropout: the suite of every method, and what it promises besides."""

import math
from typing import Any, ClassVar

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from tests.method_case import MethodCase
from tests.methods.gates import draws
from tests.monte_carlo import assert_mean


@pytest.mark.filterwarnings("ignore::pyrosparse.distributions.ImproperPriorWarning")
class TestConcreteDropout(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"scale": 0.0},
        {"temperature": float("inf")},
        {"initial": 1.0},
    ]
    recovery_threshold = 0.5

    def make(self, **options: Any) -> ps.Method:
        return ps.ConcreteDropout(**options)


def layer(rate: float, **options: Any) -> ps.Lifted:
    """A dense layer that returns its input, which is dropped at a rate."""
    net = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.eye(3))
    return ps.lift(net, ps.ConcreteDropout(initial=rate, **options))


def test_inputs_are_dropped_for_all_units_and_examples_of_a_step() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 4, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    bnn = ps.lift(net, ps.ConcreteDropout(initial=0.3, temperature=1e-7))
    out = torch.stack([draws(bnn, row.expand(2, 3), 1)[0] for row in torch.eye(3).repeat(300, 1)])
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    one = out[:, 0, 0].double()
    assert set((one * 0.7).round(decimals=3).unique().tolist()) <= {0.0, 1.0}
    assert_mean((one > 0.5).double(), 0.7)


def test_channels_of_a_convolution_are_dropped_whole() -> None:
    torch.manual_seed(1)
    net = nn.Conv2d(2, 3, 3, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    bnn = ps.lift(net, ps.ConcreteDropout(initial=0.5, temperature=1e-7))
    x = torch.zeros(1, 2, 5, 5)
    x[:, 0] = 1.0
    found = draws(bnn, x, 20)
    assert set(found.round().unique().tolist()) == {0.0, 18.0}
    assert all(len(one.round().unique()) == 1 for one in found)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_the_penalty_is_the_papers(rate: float) -> None:
    bnn = layer(rate, scale=0.5)
    loss = TraceMeanField_ELBO().loss(bnn, bnn.guide, torch.ones(1, 3))
    # In the paper's weights M = W / (1 - p), with l = 1 / scale.
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    squares = 3 / (1 - rate) ** 2
    paper = 0.5 / 0.5**2 * (1 - rate) * squares - 3 * entropy
    assert loss == pytest.approx(paper, rel=1e-5)


def test_the_rate_settles_where_the_penalty_is_least() -> None:
    # d(K H)/dp = K logit(1 - p): without weights half of the inputs are dropped.
    bnn = layer(0.1)
    with torch.no_grad():
        bnn.net.weight.zero_()
    optimizer = torch.optim.Adam(bnn.guide.parameters(), lr=0.1)
    for _ in range(200):
        TraceMeanField_ELBO().loss_and_grads(bnn, bnn.guide, torch.ones(1, 3))
        optimizer.step()
        optimizer.zero_grad()
    (rate,) = bnn.guide.parameters()
    assert float(rate.detach().sigmoid()) == pytest.approx(0.5, abs=1e-3)


def test_it_prunes_nothing_and_the_mean_is_the_network() -> None:
    bnn = layer(0.5)
    assert bnn.masks().sparsity == 0.0
    x = torch.randn(4, 3)
    assert torch.equal(bnn.mean_forward(x), x)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "groups"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d"),
        (nn.LayerNorm(4), "LayerNorm"),
        (nn.Embedding(4, 3), "Embedding"),
    ],
)
def test_other_weights_are_refused(net: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot have its inputs dropped.*{reason}"):
        ps.lift(net, ps.ConcreteDropout(), ps.weights(net, "weight"))


def test_default_targets_leave_them_out() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Flatten(), nn.Linear(4, 2))
    assert [target.key for target in ps.ConcreteDropout().targets(net)] == ["2.weight"]
    assert not ps.ConcreteDropout.proper


def test_it_is_evaluated_at_its_mean() -> None:
    bnn, x = layer(0.3), torch.randn(20, 3)
    model = ps.regressor(bnn, 20, noise=0.5)
    found = ps.evidence.evaluate(model, bnn.guide, (x, x))
    likelihood = torch.distributions.Normal(bnn.eval().mean_forward(x), 0.5)
    assert found["nll"] == pytest.approx(-float(likelihood.log_prob(x).detach().sum(1).mean()))
