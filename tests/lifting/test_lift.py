"""A lifted network is an ordinary Pyro program, and the network stays as it was."""

import copy
import pickle
from collections import OrderedDict

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyrosparse as ps
from tests.linear_gaussian import LinearGaussian, set_posterior
from tests.methods.gates import LogNormalGate
from tests.monte_carlo import assert_mean
from tests.nets import NETS, Tied, batch, cnn, mlp

NORMAL = ps.Gaussian(posterior="normal", initial_scale=0.3)
LOCAL = ps.Gaussian(posterior="normal", estimator="activations", initial_scale=0.3)


# Pyro's inference and handlers


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("method", [ps.Gaussian(), NORMAL, LOCAL], ids=["point", "normal", "local"])
def test_svi_learns(data, elbo, method):
    bnn = ps.lift(mlp(), method)
    svi = SVI(ps.classifier(bnn, 30), bnn.guide, pyro.optim.Adam({"lr": 0.05}), elbo())
    for _ in range(100):
        svi.step(*data)
    assert (bnn.eval().mean_forward(data[0]).argmax(-1) == data[1]).float().mean() > 0.9


def test_elbo_as_a_torch_module_trains_with_module_local_parameters(data):
    with pyro.settings.context(module_local_params=True):
        bnn = ps.lift(mlp(), NORMAL)
        before = copy.deepcopy(bnn.state_dict())
        loss = Trace_ELBO()(ps.classifier(bnn, 30), bnn.guide)
        optimizer = torch.optim.SGD(bnn.parameters(), lr=0.01)
        loss(*data).backward()
        optimizer.step()
    moved = {k for k, v in bnn.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k, _ in bnn.named_parameters()}
    assert not list(pyro.get_param_store())


def test_parameters_have_the_names_of_the_state_dict(data):
    bnn = ps.lift(mlp(), NORMAL)
    with poutine.trace(param_only=True) as capture:
        bnn.guide(*data)
        bnn(data[0])
    assert set(capture.trace.param_nodes) == {name for name, _ in bnn.named_parameters()}
    assert "guide.posterior.0.weight.log_scale" in capture.trace.param_nodes
    assert "net.0.weight" in capture.trace.param_nodes
    assert "net.0.bias" in capture.trace.param_nodes


def test_predictive_draws_from_the_guide(data):
    bnn = ps.lift(mlp(), NORMAL).eval()
    sites = ["0.weight", "y"]
    predict = Predictive(
        ps.classifier(bnn, 30), guide=bnn.guide, num_samples=200, return_sites=sites
    )
    draws = predict(data[0])
    assert draws["y"].shape == (200, 30)
    assert_mean(draws["0.weight"], bnn.net[0].weight)
    assert_mean((draws["0.weight"] - bnn.net[0].weight).square(), 0.09)


def test_predictive_without_a_guide_draws_from_the_prior(data):
    bnn = ps.lift(mlp(), ps.Gaussian(scale=2.0))
    draws = Predictive(bnn, num_samples=200, return_sites=["0.weight"])(data[0])["0.weight"]
    assert_mean(draws, 0.0)
    assert_mean(draws.square(), 4.0)


def test_particles_one_by_one_work(data):
    bnn = ps.lift(mlp(), NORMAL)
    assert Trace_ELBO(num_particles=3).loss(ps.classifier(bnn, 30), bnn.guide, *data) > 0


def test_condition_sets_the_weight(data):
    net = mlp()
    bnn = ps.lift(net, LOCAL)
    weights = {t.name: torch.randn(t.shape) for t in bnn.targets}
    expected = copy.deepcopy(net)
    expected.load_state_dict(expected.state_dict() | weights)
    assert torch.equal(poutine.condition(bnn, weights)(data[0]), expected(data[0]))


def test_replay_uses_the_draw_of_the_guide(data):
    net = mlp()
    bnn = ps.lift(net, NORMAL)
    trace = poutine.trace(bnn.guide).get_trace()
    expected = copy.deepcopy(net)
    draws = {t.name: trace.nodes[t.site]["value"] for t in bnn.targets}
    expected.load_state_dict(expected.state_dict() | draws)
    assert torch.equal(poutine.replay(bnn, trace=trace)(data[0]), expected(data[0]))


def test_mask_and_scale_act_on_the_prior(data):
    bnn = ps.lift(mlp(), NORMAL)
    draws = poutine.trace(bnn).get_trace(data[0])

    def log_prob(program) -> Tensor:
        return poutine.trace(poutine.replay(program, trace=draws)).get_trace(data[0]).log_prob_sum()

    assert log_prob(poutine.mask(bnn, mask=False)) == 0
    assert torch.allclose(log_prob(poutine.scale(bnn, scale=0.25)), 0.25 * log_prob(bnn))


def test_trace_holds_one_site_for_each_target(data):
    net = cnn()
    bnn = ps.lift(net, [(NORMAL, ps.weights(net)), (LogNormalGate(), ps.inputs(net, "5"))])
    trace = poutine.trace(bnn).get_trace(torch.randn(2, 1, 4, 4))
    assert trace.stochastic_nodes == ["0.weight", "5.weight", "5.input"]


def test_uncondition_gives_back_the_drawn_prior(data):
    bnn = ps.lift(mlp(), NORMAL)
    conditioned = poutine.condition(bnn, {"0.weight": torch.zeros(5, 4)})
    trace = poutine.trace(poutine.uncondition(conditioned)).get_trace(data[0])
    assert trace.nodes["0.weight"]["value"].count_nonzero() > 0


def test_a_lifted_network_is_a_part_of_a_larger_model(data):
    bnn = ps.lift(mlp(), NORMAL)

    def model(x, y=None):
        temperature = pyro.sample("temperature", dist.LogNormal(0.0, 1.0))
        logits = bnn(x) * temperature
        with pyro.plate("data", 30, subsample_size=len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    own = pyro.infer.autoguide.AutoNormal(poutine.block(model, expose=["temperature"]))

    def guide(x, y=None):
        bnn.guide(x, y)
        return own(x, y)

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(*data) for _ in range(150)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


# NUTS and the guide against the exact posterior


def test_nuts_and_the_normal_guide_find_the_exact_posterior_mean():
    truth = LinearGaussian(orthogonal=False)
    bnn = truth.lifted()
    mean, covariance = truth.posterior_mean(), truth.precision().inverse()
    nuts = NUTS(truth.model(bnn), jit_compile=False)
    mcmc = MCMC(nuts, num_samples=200, warmup_steps=80, disable_progbar=True)
    mcmc.run(*truth.data)
    draws = mcmc.get_samples()["weight"][:, 0]
    effective = mcmc.diagnostics()["weight"]["n_eff"][0].clamp(max=200)
    error = (covariance.diagonal() / effective).sqrt()
    assert ((draws.mean(0) - mean).abs() < 4 * error).all()

    ps.fit(
        truth.model(bnn),
        bnn.guide,
        truth.data,
        epochs=400,
        batch_size=truth.n,
        learning_rate=0.05,
        schedule=ps.infer.schedules.cosine(),
        progress=False,
    )
    # What is left of stochastic optimisation, against the width of the posterior itself.
    assert ((bnn.net.weight[0] - mean).abs() < 0.2 * covariance.diagonal().sqrt()).all()


@pytest.mark.parametrize("estimator", ["weights", "activations"])
def test_gradient_vanishes_at_the_exact_posterior(estimator):
    truth = LinearGaussian(orthogonal=False)
    bnn = truth.at_mean_field_optimum(estimator=estimator)
    for gradients in elbo_gradients(truth, bnn, 200).values():
        assert_mean(gradients, 0.0)


def elbo_gradients(truth: LinearGaussian, bnn: ps.Lifted, draws: int) -> dict[str, Tensor]:
    """Gradients of the negative ELBO, one a row, by parameter."""
    found: dict[str, list[Tensor]] = {name: [] for name, _ in bnn.named_parameters()}
    model = truth.model(bnn)
    for seed in range(draws):
        torch.manual_seed(seed)
        bnn.zero_grad()
        TraceMeanField_ELBO().loss_and_grads(model, bnn.guide, *truth.data)
        for name, parameter in bnn.named_parameters():
            assert parameter.grad is not None
            found[name].append(parameter.grad.flatten().clone())
    return {name: torch.stack(rows) for name, rows in found.items()}


def test_local_reparameterisation_has_the_same_mean_gradient_with_less_variance():
    truth = LinearGaussian(orthogonal=False)
    loc = torch.tensor([0.3, 0.4, -1.0]).double()
    scale = torch.tensor([0.4, 0.3, 0.5]).double()
    gradients = {}
    for estimator in ("weights", "activations"):
        bnn = truth.lifted(estimator=estimator)
        set_posterior(bnn, loc, scale)
        gradients[estimator] = elbo_gradients(truth, bnn, 300)
    # The exact gradients of the closed form.
    loc, scale = loc.requires_grad_(), scale.log().requires_grad_()
    residual = truth.y[:, 0] - truth.x @ loc
    variance = (2 * scale).exp()
    energy = residual.square().sum() + (truth.x.square() @ variance).sum()
    kl = 0.5 * (loc.square() + variance).sum() / truth.prior**2 - scale.sum()
    exact = torch.autograd.grad(0.5 * energy / truth.noise**2 + kl, (loc, scale))
    names = ("net.weight", "guide.posterior.weight.log_scale")
    for name, expected in zip(names, exact, strict=True):
        for estimator in gradients:
            assert_mean(gradients[estimator][name], expected)
    total = {e: sum(g.var(0).sum() for g in gradients[e].values()) for e in gradients}
    assert total["activations"] < 0.5 * total["weights"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 2), (1, 3)),
        (nn.Conv1d(3, 2, 3, stride=2, padding=1), (1, 3, 5)),
        (nn.Conv2d(4, 6, 3, groups=2, padding=1, padding_mode="circular"), (1, 4, 3, 3)),
        (nn.Conv3d(1, 2, 2, dilation=2), (1, 1, 3, 3, 3)),
    ],
    ids=["linear", "conv1d", "conv2d", "conv3d"],
)
def test_noise_at_activations_has_the_moments_of_noise_in_the_weights(layer, shape):
    net = nn.Sequential(copy.deepcopy(layer)).double()
    x = torch.randn(shape).double()
    bnn = ps.lift(net, LOCAL)
    trace = poutine.trace(bnn.guide).get_trace()
    with torch.no_grad(), poutine.replay(trace=trace):
        out = torch.stack([bnn(x) for _ in range(600)])
    mean = net(x)
    unit = torch.autograd.functional.jacobian(
        lambda w: torch.func.functional_call(net, {"0.weight": w}, (x,)), net[0].weight.detach()
    )
    variance = 0.09 * unit.flatten(mean.dim()).square().sum(-1)
    # The largest of many units: each within 5 standard errors.
    error = (variance / 600).sqrt()
    assert ((out.mean(0) - mean).abs() <= 5 * error + 1e-12).all()
    relative = (out.var(0) - variance).abs() / variance.clamp_min(1e-12)
    assert (relative <= 5 * (2 / 599) ** 0.5).all()


def test_noise_at_activations_is_refused_for_tied_weights():
    # The other layer would run without noise, and the noise of the two would be independent.
    with pytest.raises(ValueError, match=r"first\.weight"):
        ps.lift(Tied(), LOCAL)


def test_noise_is_drawn_at_the_weights_in_evaluation_mode():
    bnn = ps.lift(nn.Linear(3, 2), LOCAL).eval()
    trace = poutine.trace(bnn.guide).get_trace()
    x = torch.randn(4, 3)
    drawn = nn.functional.linear(x, trace.nodes["weight"]["value"], bnn.net.bias)
    assert torch.equal(poutine.replay(bnn, trace=trace)(x), drawn)


def test_draws_from_the_prior_are_used_as_they_are_in_training_mode():
    bnn = ps.lift(nn.Linear(3, 2), LOCAL)
    x = torch.randn(4, 3)
    trace = poutine.trace(bnn).get_trace(x)
    drawn = nn.functional.linear(x, trace.nodes["weight"]["value"], bnn.net.bias)
    assert torch.equal(trace.nodes["_RETURN"]["value"], drawn)


# The network stays as it was


@pytest.mark.parametrize("name", NETS)
def test_network_is_unchanged_by_lifting_and_calling(name):
    net = NETS[name]()
    x, _ = batch(name)
    kind, keys = type(net), list(net.state_dict())
    values = [value.clone() for value in net.state_dict().values()]
    expected = net.eval()(x)
    bnn = ps.lift(net, NORMAL)
    bnn(x)
    bnn.mean_forward(x)
    assert type(net) is kind
    assert list(net.state_dict()) == keys
    assert all(torch.equal(a, b) for a, b in zip(values, net.state_dict().values(), strict=True))
    assert torch.equal(net(x), expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("trained", [False, True])
def test_network_can_be_copied_and_pickled(duplicate, trained, data):
    net = mlp()
    bnn = ps.lift(net, NORMAL)
    if trained:
        ps.fit(ps.classifier(bnn, 30), bnn.guide, data, epochs=1, progress=False)
    assert torch.equal(duplicate(net)(data[0]), net(data[0]))


def test_hooks_are_removed_when_the_network_fails(data):
    net = mlp()
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net))
    with pytest.raises(RuntimeError):
        bnn(torch.randn(2, 99))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_mean_forward_of_weights_is_the_network_itself_and_draws_nothing(data):
    net = mlp()
    bnn = ps.lift(net, LOCAL)
    state = torch.get_rng_state()
    with poutine.trace() as capture:
        results = [bnn.mean_forward(data[0]) for _ in range(2)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], net(data[0]))
    assert torch.equal(torch.get_rng_state(), state)
    assert not capture.trace.nodes


def test_batch_norm_learns_in_training_mode_only():
    net = cnn()
    bnn = ps.lift(net, NORMAL)
    x = torch.randn(8, 1, 4, 4)
    bnn(x)
    assert net[1].running_mean.count_nonzero()
    before = net[1].running_mean.clone()
    bnn.eval()
    bnn(x)
    bnn.mean_forward(x)
    assert torch.equal(net[1].running_mean, before)


def test_parameters_without_gradient_are_not_trained(data):
    net = mlp()
    net[0].bias.requires_grad_(False)
    before = net[0].bias.clone()
    bnn = ps.lift(net, NORMAL)
    run = ps.fit(ps.classifier(bnn, 30), bnn.guide, data, epochs=1, progress=False)
    assert "net.0.bias" not in run.parameters
    assert torch.equal(net[0].bias, before)


def test_tied_weights_stay_tied():
    net = Tied()
    bnn = ps.lift(net, NORMAL)
    x, weight = torch.randn(5, 3), torch.randn(3, 3)
    result = poutine.condition(bnn, {"first.weight": weight})(x)
    assert torch.allclose(result, x @ weight.T @ weight.T)
    mask = torch.eye(3)
    bnn.freeze({"first.weight": mask})
    assert net.first.weight is net.second.weight
    assert torch.equal(bnn.mean_forward(x), net(x))


def test_keyword_arguments_reach_the_network():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x, *, scale):
            return self.fc(x) * scale

    net = Scaled()
    bnn, x = ps.lift(net, NORMAL), torch.randn(4, 3)
    assert torch.equal(bnn.mean_forward(x, scale=3.0), net(x, scale=3.0))


# Several methods, several networks


def test_each_method_has_its_own_targets():
    net = mlp()
    bnn = ps.lift(
        net,
        [
            (ps.Gaussian(), ps.weights(net, "0")),
            (ps.Horseshoe(), ps.weights(net, "2")),
            (LogNormalGate(), ps.inputs(net, "2")),
        ],
    )
    assert [t.key for t in bnn.targets] == ["0.weight", "2.weight", "2.input"]
    sites = poutine.trace(bnn.guide).get_trace().stochastic_nodes
    expected = {"0.weight", "2.weight", "2.weight_global", "2.weight_local", "2.input"}
    assert set(sites) == expected
    masks = bnn.masks()
    assert masks["2.weight"].dtype == torch.bool
    assert masks["2.input"].is_floating_point()


def test_bad_targets_are_refused():
    net, other = mlp(), mlp()
    weights = ps.weights(net)
    with pytest.raises(ValueError, match=r"0\.weight.*two methods"):
        ps.lift(net, [(NORMAL, weights), (ps.Gaussian(), weights[:1])])
    with pytest.raises(ValueError, match=r"0\.weight.*another network"):
        ps.lift(net, NORMAL, ps.weights(other))
    with pytest.raises(ValueError, match="kind weight"):
        ps.lift(net, NORMAL, ps.inputs(net))
    with pytest.raises(ValueError, match="no target"):
        ps.lift(net, NORMAL, [])
    with pytest.raises(ValueError, match="pair"):
        ps.lift(net, [(NORMAL, weights)], weights)
    foreign = ps.weights(nn.Sequential(OrderedDict(head=nn.Linear(3, 2))))
    with pytest.raises(ValueError, match=r"unknown parameter 'head\.weight'"):
        ps.lift(net, NORMAL, foreign)
    gate = ps.inputs(nn.Sequential(OrderedDict(head=nn.Linear(3, 2))))
    with pytest.raises(ValueError, match="unknown module 'head'"):
        ps.lift(net, LogNormalGate(), gate)


def scripted() -> nn.Module:
    return torch.jit.script(nn.Linear(3, 2))


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    ("make", "where", "kind"),
    [
        (lambda: nn.LSTM(3, 2), "*weight_hh_l0", "LSTM"),
        (scripted, "*weight", "ScriptModule"),
    ],
    ids=["lstm", "script"],
)
def test_layers_that_compute_past_replaced_weights_are_refused_by_name(make, where, kind):
    net = nn.Sequential(OrderedDict(head=make()))
    targets = ps.weights(net, where)
    with pytest.raises(TypeError, match=rf"lies in head \(.*{kind}\)"):
        ps.lift(net, NORMAL, targets)


def test_two_named_networks_live_in_one_model(data):
    first = ps.lift(mlp(), NORMAL, name="first")
    second = ps.lift(mlp(), NORMAL, name="second")

    def model(x, y=None):
        logits = first(x) + second(x)
        with pyro.plate("data", 30):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(x, y=None):
        first.guide(x)
        second.guide(x)

    assert first.targets[0].site == "first.0.weight"
    before = [copy.deepcopy(bnn.state_dict()) for bnn in (first, second)]
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(*data)
    for bnn, old in zip((first, second), before, strict=True):
        for name, parameter in bnn.named_parameters():
            assert not torch.equal(parameter, old[name])


def test_two_nameless_networks_in_one_model_are_not_half_trained(data):
    first, second = mlp(), mlp()
    one = ps.lift(first, NORMAL, ps.weights(first, "0"))
    two = ps.lift(second, NORMAL, ps.weights(second, "2"))

    def model(x, y=None):
        logits = one(x) + two(x)
        with pyro.plate("data", 30):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(x, y=None):
        one.guide(x)
        two.guide(x)

    # Their sites differ, but both have a parameter net.0.bias.
    with pytest.raises((RuntimeError, ValueError), match="name"):
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(*data)


def test_the_next_network_is_trained_after_the_one_before(data):
    for method in (NORMAL, NORMAL, ps.Gaussian()):
        bnn = ps.lift(mlp(), method)
        before = copy.deepcopy(bnn.state_dict())
        svi = SVI(ps.classifier(bnn, 30), bnn.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        svi.step(*data)
        for name, parameter in bnn.named_parameters():
            assert not torch.equal(parameter, before[name])


def test_foreign_tensor_in_the_param_store_is_refused_with_the_way_out(data):
    bnn = ps.lift(mlp(), NORMAL)
    pyro.param("net.0.weight", torch.zeros(5, 4))
    svi = SVI(ps.classifier(bnn, 30), bnn.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with pytest.raises(RuntimeError, match=r"'net\.0\.weight'.*clear_param_store"):
        svi.step(*data)
    pyro.clear_param_store()
    svi.step(*data)


# Masks, freezing and zeroing


def test_masks_compare_scores_with_the_threshold():
    bnn = ps.lift(mlp(), ps.Gaussian())
    scores = bnn.scores()
    one_level, by_name = bnn.masks(0.2), bnn.masks({"0.weight": 0.3})
    for key, score in scores.items():
        assert torch.equal(one_level[key], score >= 0.2)
    assert torch.equal(by_name["0.weight"], scores["0.weight"] >= 0.3)
    assert by_name["2.weight"].all()  # the method's own threshold
    with pytest.raises(ValueError, match=r"did you mean '0\.weight'"):
        bnn.masks({"0.weigth": 0.3})


def test_masks_keep_at_least_the_highest_scores():
    bnn = ps.lift(mlp(), ps.Gaussian())
    for key, mask in bnn.masks(1e9, at_least=2).items():
        assert int(mask.sum()) == 2
        assert bnn.scores()[key][mask].min() >= bnn.scores()[key][~mask].max()


def test_masks_never_keep_what_is_frozen_at_zero():
    bnn = ps.lift(mlp(), ps.Gaussian())
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[0, 0] = True
    bnn.freeze({"0.weight": mask})
    assert torch.equal(bnn.masks()["0.weight"], mask)
    assert torch.equal(bnn.masks(1e9, at_least=3)["0.weight"], mask)


def test_nan_scores_are_refused_by_name():
    bnn = ps.lift(mlp(), ps.Gaussian())
    with torch.no_grad():
        bnn.net[2].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1 scores of '2\.weight' are NaN"):
        bnn.masks()


@pytest.mark.parametrize("action", ["zero", "freeze"])
def test_bad_masks_change_nothing(action):
    bnn = ps.lift(mlp(), ps.Gaussian())
    before = copy.deepcopy(bnn.state_dict())
    good = {"0.weight": torch.zeros(5, 4)}
    for bad in ({"2.weight": torch.zeros(2)}, {"3.weight": torch.zeros(3, 5)}):
        with pytest.raises(ValueError):
            getattr(bnn, action)(good | bad)
    assert all(torch.equal(v, before[k]) for k, v in bnn.state_dict().items())


def test_zeroing_a_gate_is_refused():
    net = mlp()
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net))
    with pytest.raises(ValueError, match="gate"):
        bnn.zero({"0.input": torch.zeros(4)})


def test_a_mask_of_ones_releases_a_target(data):
    bnn = ps.lift(mlp(), NORMAL)
    bnn.freeze({"0.weight": torch.zeros(5, 4)})
    bnn.freeze({"0.weight": torch.ones(5, 4)})
    trace = poutine.trace(bnn.guide).get_trace()
    expected = copy.deepcopy(bnn.net)
    draws = {t.name: trace.nodes[t.site]["value"] for t in bnn.targets}
    expected.load_state_dict(expected.state_dict() | draws)
    assert torch.equal(poutine.replay(bnn, trace=trace)(data[0]), expected(data[0]))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_removed_is_zero_whatever_it_was(value):
    bnn = ps.lift(mlp(), ps.Gaussian())
    with torch.no_grad():
        bnn.net[0].weight[0, 0] = value
    bnn.zero({"0.weight": torch.zeros(5, 4)})
    assert not bnn.net[0].weight.any()


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("method", [ps.Gaussian(), NORMAL, LOCAL, ps.Horseshoe()], ids=repr)
def test_frozen_weights_stay_exactly_zero_in_training(data, elbo, method):
    net = mlp()
    bnn = ps.lift(net, method)
    run = {"batch_size": 10, "learning_rate": 0.05, "progress": False, "elbo": elbo()}
    ps.fit(ps.classifier(bnn, 30), bnn.guide, data, epochs=2, **run)
    masks = bnn.masks({key: float(score.median()) for key, score in bnn.scores().items()})
    bnn.freeze(masks)
    ps.fit(ps.classifier(bnn, 30), bnn.guide, data, epochs=5, **run)
    for key, mask in masks.items():
        assert not net.get_parameter(key)[~mask].any()
        assert net.get_parameter(key)[mask].all()


def test_freezing_survives_loading_a_state_dict(data):
    bnn, other = ps.lift(mlp(), NORMAL), ps.lift(mlp(), NORMAL)
    bnn.freeze({"0.weight": torch.zeros(5, 4)})
    other.load_state_dict(bnn.state_dict())
    with torch.no_grad():
        other.net[0].weight.fill_(1.0)
    with poutine.replay(trace=poutine.trace(other.guide).get_trace()):
        out = other(data[0])
    assert torch.equal(out, out[:1].expand_as(out))  # no input gets through


def test_parameters_replaced_by_assignment_are_followed(data):
    bnn, other = ps.lift(mlp(), NORMAL), ps.lift(mlp(), NORMAL)
    other.load_state_dict(copy.deepcopy(bnn.state_dict()), assign=True)
    assert torch.equal(other.mean_forward(data[0]), bnn.mean_forward(data[0]))
    before = other.net[0].weight.clone()
    ps.fit(ps.classifier(other, 30), other.guide, data, epochs=1, progress=False)
    assert not torch.equal(other.net[0].weight, before)
    assert torch.equal(other.scores()["0.weight"] > 0, other.net[0].weight != 0)
