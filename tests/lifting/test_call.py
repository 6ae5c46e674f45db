"""Gates and activation noise act in every call, or the call is refused."""

import copy
from collections.abc import Callable

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import pyrosparse as ps
from tests.methods.gates import LogNormalGate

LOCAL = ps.Gaussian(posterior="normal", estimator="activations", initial_scale=1.0)
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1, 1])


class Past(nn.Module):
    """Reads the second layer's weight past it, in one of several ways."""

    def __init__(self, how: Callable[[nn.Linear, Tensor], Tensor]):
        super().__init__()
        self.first, self.second, self.how = nn.Linear(4, 4), nn.Linear(4, 4), how

    def forward(self, x):
        return self.how(self.second, self.first(x).tanh())


PAST = {
    "functional": lambda layer, x: F.linear(x, layer.weight, layer.bias),
    "transposed": lambda layer, x: x @ layer.weight.T + layer.bias,
    "of several": lambda layer, x: F.linear(x, torch.cat([layer.weight, layer.weight])[:4]),
    "forward": lambda layer, x: layer.forward(x),
}
METHODS = {
    "input gates": (ps.BetaBernoulli(initial=0.5), lambda net: ps.inputs(net, "second")),
    "output gates": (LogNormalGate(), lambda net: ps.outputs(net, "second")),
    "noise": (LOCAL, lambda net: ps.weights(net, "second.weight")),
}


def replayed(bnn: ps.Lifted, x: Tensor = X) -> Tensor:
    return poutine.replay(bnn, trace=poutine.trace(bnn.guide).get_trace(x))(x)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", PAST)
def test_a_weight_that_is_read_past_its_layer_is_refused(how, method, grad):
    net = Past(PAST[how])
    one, targets = METHODS[method]
    bnn = ps.lift(net, one, targets(net))
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(ValueError, match=r"'second.*without calling the layer"),
    ):
        replayed(bnn)


@pytest.mark.parametrize("grad", [True, False])
def test_gates_that_do_not_act_are_refused_at_the_mean(grad):
    net = Past(PAST["functional"])
    bnn = ps.lift(net, ps.BetaBernoulli())
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=r"'second\.input'"):
        bnn.mean_forward(X)


@pytest.mark.parametrize(
    "how",
    [
        lambda layer, x: layer(x.to(layer.weight.dtype)),
        lambda layer, x: layer(x.to(layer.weight)),
        lambda layer, x: layer(x + torch.zeros_like(layer.weight)[0]),
        lambda layer, x: layer(x.view(-1, layer.weight.shape[1])),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_asks_a_weight_for_its_type_or_shape_does_not_read_it(how, method):
    net = Past(how)
    one, targets = METHODS[method]
    assert replayed(ps.lift(net, one, targets(net))).shape == (5, 4)


def test_noise_of_a_weight_that_is_also_read_past_its_layer_is_refused():
    net = Past(lambda layer, x: layer(x) @ layer.weight)
    bnn = ps.lift(net, LOCAL, ps.weights(net, "second.weight"))
    with pytest.raises(ValueError, match=r"noise of 'second\.weight'.*without calling the layer"):
        replayed(bnn)


def test_gates_of_a_weight_that_is_also_read_past_its_layer_act_where_it_is_called():
    net = Past(lambda layer, x: layer(x) @ layer.weight)
    bnn = ps.lift(net, LogNormalGate(), ps.outputs(net, "second"))
    gate = torch.rand(4)
    result = poutine.condition(bnn, {"second.output": gate})(X)
    hidden = net.first(X).tanh()
    torch.testing.assert_close(result, (net.second(hidden) * gate) @ net.second.weight)


def test_a_layer_of_torchvision_that_is_read_past_is_refused():
    torchvision = pytest.importorskip("torchvision")
    attention = torchvision.models.swin_transformer.ShiftedWindowAttention(4, [2, 2], [0, 0], 2)
    net = nn.Sequential(attention, nn.Linear(4, 2)).eval()
    bnn = ps.lift(net, ps.BetaBernoulli())
    with pytest.raises(ValueError, match=r"'0\.qkv\.input', '0\.proj\.input'"):
        bnn.mean_forward(torch.randn(1, 2, 2, 4))


class Resting(nn.Module):
    """A layer that can be dropped, and an auxiliary head in training mode."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.auxiliary = nn.Linear(4, 2)
        self.dropped = False

    def forward(self, x):
        x = self.first(x)
        if not self.dropped:
            x = x + self.drop(x)
        return self.head(x) + self.auxiliary(x) if self.training else self.head(x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("method", [ps.BetaBernoulli(), LogNormalGate()], ids=repr)
def test_a_gate_whose_layer_rests_costs_its_divergence_all_the_same(
    method, grad, dropped, training
):
    net = Resting()
    net.dropped = dropped
    bnn = ps.lift(net, method, ps.inputs(net)).train(training)
    with torch.set_grad_enabled(grad):
        for _ in range(2):
            guide = poutine.trace(bnn.guide).get_trace(X)
            model = poutine.trace(poutine.replay(bnn, trace=guide)).get_trace(X)
            model.compute_log_prob()
            sites = {target.site for target in bnn.targets}
            assert sites == set(guide.stochastic_nodes) == set(model.stochastic_nodes)
            for site in sites:  # the prior's density of what the guide drew, resting or not
                value = guide.nodes[site]["value"]
                torch.testing.assert_close(
                    model.nodes[site]["log_prob"], model.nodes[site]["fn"].log_prob(value)
                )
    assert torch.isfinite(torch.tensor(Trace_ELBO().loss(ps.classifier(bnn, 5), bnn.guide, X, Y)))


def test_a_resting_layer_changes_nothing_else():
    net = Resting().eval()
    net.dropped = True
    bnn = ps.lift(net, ps.BetaBernoulli(initial=0.5))
    state = torch.get_rng_state()
    result = bnn.mean_forward(X)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(result, net.head(net.first(X / 2) / 2))


def test_a_dependent_gate_at_rest_keeps_its_running_averages():
    net = Resting()
    bnn = ps.lift(net, ps.DependentBetaBernoulli(ps.lift(net, ps.BetaBernoulli())))
    net.dropped = True
    before = {k: v.clone() for k, v in bnn.guide.state_dict().items() if "running" in k}
    replayed(bnn)
    for key, value in bnn.guide.state_dict().items():
        if "running" in key:
            assert torch.equal(value, before[key]) == ("drop" in key)


def test_noise_on_a_layer_that_rests_is_no_fault():
    net = Resting()
    net.dropped = True
    bnn = ps.lift(net, LOCAL)
    assert replayed(bnn).shape == (5, 2)


def test_statistics_of_normalisation_are_counted_once():
    class Normalised(Resting):
        def __init__(self):
            super().__init__()
            self.normalise = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.normalise(super().forward(x))

    net = Normalised()
    net.dropped = True
    with torch.no_grad():
        replayed(ps.lift(net, ps.BetaBernoulli(), ps.inputs(net, ["first", "drop"])))
    assert int(net.normalise.num_batches_tracked) == 1


def test_noise_on_a_layer_that_is_used_twice_is_refused():
    net = Past(lambda layer, x: layer(layer(x)))
    bnn = ps.lift(net, LOCAL, ps.weights(net, "second.weight"))
    with pytest.raises(ValueError, match=r"'second\.weight'.*more than once"):
        replayed(bnn)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("method", [ps.Gaussian(posterior="normal"), LOCAL], ids=repr)
def test_gradient_checkpointing_is_refused(method, reentrant):
    # The backward pass would run the layer with the mean weight in place of the draw.
    net = Past(lambda layer, x: checkpoint(layer, x, use_reentrant=reentrant))
    bnn = ps.lift(net, method, ps.weights(net, "second.weight"))
    with pytest.raises(ValueError, match=r"torch\.utils\.checkpoint"):
        replayed(bnn)


# Noise at the activations belongs to plain layers


class TanhIn(nn.Linear):
    def forward(self, x):
        return super().forward(torch.tanh(x))


class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


def hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda _, args, output: 2 * output)
    return layer


def pre_hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    return layer


def patched() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: 2 * F.linear(x, layer.weight)
    return layer


@pytest.mark.parametrize(
    "make",
    [lambda: TanhIn(4, 4), lambda: Standardised(3, 4, 1), hooked, pre_hooked, patched],
    ids=["subclass", "standardised", "hook", "pre-hook", "forward"],
)
@pytest.mark.parametrize(
    "method", [LOCAL, ps.GammaSpikeAndSlab(likelihood="activations")], ids=["gaussian", "mrf"]
)
def test_noise_is_refused_where_the_layer_may_compute_something_else(make, method):
    net = nn.Sequential(make())
    with pytest.raises(ValueError, match=r"'0\.weight'.*estimator='weights'.*likelihood='point'"):
        ps.lift(net, method)
    ps.lift(net, ps.Gaussian(posterior="normal"))


def test_noise_is_refused_where_a_hook_comes_later():
    net = nn.Sequential(nn.Linear(4, 4))
    bnn = ps.lift(net, LOCAL)
    net[0].register_forward_hook(lambda _, args, output: 2 * output)
    with pytest.raises(ValueError, match=r"'0\.weight'.*hooks"):
        replayed(bnn)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_noise_in_half_precision_has_the_moments_of_single(dtype):
    # The squares of the scale underflow in half precision, those of the inputs overflow.
    net = nn.Sequential(nn.Linear(3, 1, bias=False))
    method = ps.Gaussian(posterior="normal", estimator="activations", initial_scale=1e-4)
    bnn = ps.lift(net, method).to(dtype)
    with torch.no_grad():
        net[0].weight.zero_()
        for size in (0.0, 1.0, 500.0):
            x = torch.full((4000, 3), size, dtype=dtype)
            noise = replayed(bnn, x).double()
            expected = size * 1e-4 * 3**0.5
            assert noise.std() == pytest.approx(expected, rel=0.06, abs=1e-10)


def test_noise_under_autocast_has_the_moments_of_single():
    net = nn.Sequential(nn.Linear(3, 1, bias=False))
    method = ps.Gaussian(posterior="normal", estimator="activations", initial_scale=1e-2)
    bnn = ps.lift(net, method)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        net[0].weight.zero_()
        noise = replayed(bnn, torch.full((4000, 3), 500.0)).double()
    assert noise.std() == pytest.approx(5 * 3**0.5, rel=0.06)


def test_a_copy_sees_to_its_own_layers():
    net = Past(PAST["functional"])
    bnn = copy.deepcopy(ps.lift(net, ps.BetaBernoulli(), ps.inputs(net, "second")))
    with pytest.raises(ValueError, match="without calling the layer"):
        bnn(X)
