"""Dependent beta-Bernoulli dropout: the suite of every method, and what it promises besides."""

import copy
import math
from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from pyrosparse.lifting.method import Posterior
from tests.method_case import MethodCase
from tests.monte_carlo import assert_mean
from tests.nets import NETS, batch


class TestDependent(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"scale": 0.0},
        {"scale": math.inf},
        {"bnn": nn.Linear(2, 2)},
        {"bnn": ps.lift(nn.Linear(2, 2), ps.Gaussian())},
    ]

    # The corners of the clamp let float32's rounding grow beyond 1e-5 in 200 steps.
    capture_dtype = torch.float64

    def make(self, **options: Any) -> ps.Method:
        first = ps.lift(nn.Linear(3, 2), ps.BetaBernoulli())
        return ps.DependentBetaBernoulli(**({"bnn": first} | options))

    def lifted(self, name: str = "mlp") -> ps.Lifted:
        torch.manual_seed(0)
        net = NETS[name]()
        first = ps.lift(net, ps.BetaBernoulli(initial=0.7, temperature=1.0))
        return ps.lift(net, ps.DependentBetaBernoulli(first))

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        line, flat = torch.linspace(-9, 3, 20), torch.zeros(20)
        method, target = self.make(), ps.Target("fc", "input", (20,), axis=-1)
        assert (method.score(target, Posterior(_log_a=line, _log_b=flat)).diff() > 0).all()

    def moved(self, name: str = "mlp") -> ps.Lifted:
        bnn = super().moved(name)
        with torch.no_grad():
            for entry in bnn.guide.entries:
                q = entry.posterior()
                q["_log_a"].add_(0.3 * torch.randn_like(q["_log_a"]))
                q["_running_mean"].normal_()
                q["_running_variance"].uniform_(0.5, 2.0)
        return bnn

    def test_masked_network_equals_a_plain_one_with_zeros(self, name: str) -> None:
        bnn, masks = self.half_pruned(name)
        x, _ = batch(name)
        plain = copy.deepcopy(bnn.net)
        for key, gate in bnn.gates().items():
            gate.gain.mul_(masks[key] != 0)
            path, _, kind = key.rpartition(".")
            module = plain.get_submodule(path)
            if kind == "input":
                module.register_forward_pre_hook(lambda _, args, gate=gate: (gate(args[0]),))
            else:
                module.register_forward_hook(lambda _, args, out, gate=gate: gate(out))
        assert torch.allclose(plain(x), bnn.mean_forward(x), atol=1e-6)

    def test_planted_support_is_recovered(self) -> None:
        # A feature that matters only where it is large: the gate learns to close elsewhere.
        generator = torch.Generator().manual_seed(5)
        x = torch.randn(400, 2, generator=generator)
        y = (x[:, :1] - 0.5).clamp_min(0) * 4
        net = nn.Sequential(nn.Linear(2, 1, bias=False))
        net[0].weight = nn.Parameter(torch.tensor([[2.0, 2.0]]))
        first = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net))
        bnn = ps.lift(net, ps.DependentBetaBernoulli(first))
        ps.fit(
            ps.regressor(bnn, 400, noise=0.2), bnn.guide, (x, y),
            epochs=150, batch_size=100, learning_rate=0.05, progress=False,
        )  # fmt: skip
        bnn.eval()
        gains = bnn.gates()["0.input"].gains(torch.tensor([[-1.0, -1.0], [2.0, 2.0]]))
        assert gains[0, 0] < 0.1 < 0.8 < gains[1, 0]


def dependent(features: int, **options: Any) -> ps.Lifted:
    net = nn.Sequential(nn.Linear(features, features, bias=False))
    net[0].weight = nn.Parameter(torch.eye(features), requires_grad=False)
    first = ps.lift(net, ps.BetaBernoulli(initial=0.6, **options), ps.inputs(net))
    return ps.lift(net, ps.DependentBetaBernoulli(first))


@pytest.mark.parametrize("pi", ["sampled", "collapsed"])
def test_a_gate_is_open_with_the_mean_of_its_probability(pi: str) -> None:
    torch.manual_seed(0)
    copies = 200  # of two features
    bnn = dependent(2 * copies, pi=pi).eval()
    q = bnn.guide.entries[0].posterior()
    with torch.no_grad():
        q["slope"].copy_(torch.tensor([0.3, 0.2]).repeat(copies))
        q["shift"].copy_(torch.tensor([0.5, 0.4]).repeat(copies))
        q["log_scale"].fill_(-20.0)  # beta is its mean
    x = torch.tensor([[1.0, -1.0]]).repeat(1, copies)
    opened = []
    for _ in range(20):
        trace = poutine.trace(bnn.guide).get_trace(x)
        with torch.no_grad(), poutine.replay(trace=trace):
            opened.append(bnn(x) / x > 0.5)
    probability = 0.6 * torch.tensor([0.8, 0.2], dtype=torch.float64)
    assert_mean(torch.stack(opened).view(-1, 2).double(), probability, rounding=1e-5)
    assert torch.allclose(bnn.mean_forward(x), probability.float().repeat(copies) * x, atol=1e-4)


def test_the_loss_has_the_divergence_of_the_shift_and_that_of_the_first_stage() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(5, 4)
    first = ps.lift(net, ps.BetaBernoulli(kl_scale=3.0), ps.inputs(net))
    bnn = ps.lift(net, ps.DependentBetaBernoulli(first))
    loss = TraceMeanField_ELBO().loss
    of_shift = 7 * (math.log(math.sqrt(5)) + (1 + 1) / (2 * 5) - 0.5)  # N(1, 1) to N(0, 5)
    expected = loss(first, first.guide, x) + of_shift
    assert loss(bnn, bnn.guide, x) == pytest.approx(expected, rel=1e-5)
    assert not any("log_a" in key for key, _ in bnn.named_parameters())


def test_statistics_are_of_the_minibatch_in_training_and_their_averages_elsewhere() -> None:
    torch.manual_seed(0)
    bnn = dependent(2)
    model = ps.regressor(bnn, 300, noise=1.0)
    x = torch.randn(300, 2) * torch.tensor([3.0, 0.5]) + torch.tensor([10.0, -2.0])
    ps.fit(model, bnn.guide, (x, x), epochs=30, batch_size=50, progress=False, learning_rate=1e-6)
    q = bnn.guide.entries[0].posterior()
    assert torch.allclose(q["_running_mean"], x.mean(0), rtol=0.1)
    assert torch.allclose(q["_running_variance"], x.var(0), rtol=0.2)
    before = {key: value.clone() for key, value in bnn.state_dict().items()}
    bnn.mean_forward(x[:7])
    bnn.eval()(x[:7])
    after = bnn.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_positions_are_pooled_and_the_input_gets_no_gradient_through_its_gate() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2))
    first = ps.lift(net, ps.BetaBernoulli(), ps.outputs(net, "0"))
    bnn = ps.lift(net, ps.DependentBetaBernoulli(first)).eval()
    gate = bnn.gates()["0.output"]
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(gate.gains(x), gate.gains(x.mean((2, 3), keepdim=True)))
    features = torch.randn(4, 3, 2, 2, requires_grad=True)
    entry = bnn.guide.entries[0]
    assert not entry.method.mean(entry.target, Posterior(
        {key: value.detach() for key, value in entry.posterior().items()}
    ), features).requires_grad  # fmt: skip


def test_a_feature_can_only_become_rarer() -> None:
    bnn = dependent(3).eval()
    x = torch.randn(50, 3) * 4
    gains = bnn.gates()["0.input"].gains(x)
    ceiling = bnn.scores()["0.input"]
    assert (gains <= ceiling).all() and (gains == 0).any()
    assert (gains[gains > 0] >= 1e-3).all()


def test_other_networks_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    first = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net, "2"))
    method = ps.DependentBetaBernoulli(first)
    assert [t.key for t in method.targets(net)] == ["2.input"]
    with pytest.raises(ValueError, match="had no gate in the first stage"):
        ps.lift(net, method, ps.inputs(net))
    other = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="has 5 features, in the first stage 3"):
        ps.lift(other, method)
