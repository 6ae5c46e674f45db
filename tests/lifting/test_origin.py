"""Who drew a value decides: the network's own guide, another guide, a sampler or nobody."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from pyro.infer.inspect import generate_graph_specification, get_model_relations
from torch import Tensor, nn

import pyrosparse as ps
from tests.linear_gaussian import LinearGaussian
from tests.methods.gates import LogNormalGate
from tests.nets import mlp

NORMAL = ps.Gaussian(posterior="normal", initial_scale=0.3)
LOCAL = ps.Gaussian(posterior="normal", estimator="activations", initial_scale=0.3)
X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


# What a draw is, is in its trace


@pytest.mark.parametrize("change", [lambda trace: trace.detach_(), lambda trace: None])
def test_noise_is_drawn_at_the_activations_of_a_detached_trace(change):
    bnn = ps.lift(nn.Linear(3, 2), LOCAL)
    x = torch.ones(400, 3)
    trace = poutine.trace(bnn.guide).get_trace(x).copy()
    change(trace)
    out = poutine.replay(bnn, trace=trace)(x)
    # One draw an example; of a weight that is drawn, all rows would be the same.
    assert out.std(0).detach() == pytest.approx(torch.full((2,), 0.3 * 3**0.5), rel=0.2)


@pytest.mark.parametrize("change", [lambda trace: trace.detach_(), lambda trace: None])
def test_collapsed_gates_of_a_detached_trace_are_those_of_the_mean(change):
    net = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.ones_(net[0].weight)
    bnn = ps.lift(net, ps.BetaBernoulli(pi="collapsed", initial=0.5), ps.inputs(net))
    x = torch.ones(4000, 1)
    trace = poutine.trace(bnn.guide).get_trace(x).copy()
    trace.nodes["0.input"]["value"] = torch.full((1,), -1e6)  # a draw that shuts the gate
    change(trace)
    opened = (poutine.replay(bnn, trace=trace)(x) > 0.5).float().mean()
    assert float(opened) == pytest.approx(0.5, abs=0.05)


def test_a_guide_without_a_site_of_its_own_is_signed_too():
    class Nothing(ps.Gaussian):
        def guide(self, target, q, x):
            super().guide(target, q, x)

    bnn = ps.lift(nn.Linear(3, 2), Nothing(posterior="normal", estimator="activations"))
    x = torch.ones(50, 3)
    out = poutine.replay(bnn, trace=poutine.trace(bnn.guide).get_trace(x))(x)
    assert (out.std(0) > 0).all()


# The guide of another lift


def wrapped(guide):
    return lambda *args: guide(*args)


def listed(guide):
    parts = AutoGuideList(lambda *args: guide(*args))
    parts.append(guide)
    return parts


@pytest.mark.parametrize("wrap", [lambda guide: guide, wrapped, listed], ids=["bare", "fn", "list"])
@pytest.mark.parametrize("method", [NORMAL, ps.Gaussian(), ps.BetaBernoulli()], ids=repr)
def test_the_guide_of_another_lift_is_refused(method, wrap):
    bnn, other = (ps.lift(mlp(), method) for _ in range(2))
    before = [copy.deepcopy(one.state_dict()) for one in (bnn, other)]
    model, guide = ps.classifier(bnn, 30), wrap(other.guide)
    with pytest.raises(ValueError, match="another lifted network"):
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X, Y)
    with pytest.raises(ValueError, match="another lifted network"):
        ps.fit(model, guide, (X, Y), epochs=1, progress=False)
    for one, old in zip((bnn, other), before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("wrap", [wrapped, listed])
def test_the_own_guide_within_another_is_taken(wrap):
    bnn = ps.lift(mlp(), NORMAL)
    SVI(ps.classifier(bnn, 30), wrap(bnn.guide), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(
        X, Y
    )
    bnn.masks()


def test_a_copy_has_a_guide_of_its_own():
    bnn = ps.lift(mlp(), NORMAL)
    other = copy.deepcopy(bnn)
    for one in (bnn, other):
        poutine.replay(one, trace=poutine.trace(one.guide).get_trace(X))(X)
    with pytest.raises(ValueError, match="another lifted network"):
        poutine.replay(other, trace=poutine.trace(bnn.guide).get_trace(X))(X)


# Trained by other means


def own(bnn):
    return bnn.guide


def hand_written(bnn):
    def guide(*args):
        for target in bnn.targets:
            loc = pyro.param(f"{target.site}.loc", torch.zeros(target.shape))
            pyro.sample(target.site, dist.Normal(loc, 0.1).to_event(len(target.shape)))

    return guide


def auto(kind):
    return lambda bnn: kind(ps.classifier(bnn, 30))


@pytest.mark.parametrize("make", [auto(AutoNormal), auto(AutoDelta), hand_written])
def test_scores_masks_and_means_warn_that_another_guide_was_trained(make):
    bnn = ps.lift(mlp(), NORMAL)
    optimizer = pyro.optim.Adam({"lr": 0.01})
    bnn.masks()
    SVI(ps.classifier(bnn, 30), make(bnn), optimizer, Trace_ELBO()).step(X, Y)
    for ask in (bnn.masks, bnn.scores, lambda: bnn.mean_forward(X)):
        with pytest.warns(UserWarning, match=r"0\.weight, 2\.weight.*match_moments") as said:
            ask()
        assert len(said) == 1
    SVI(ps.classifier(bnn, 30), bnn.guide, optimizer, Trace_ELBO()).step(X, Y)
    bnn.masks()


def test_what_trains_nothing_warns_of_nothing():
    bnn = ps.lift(mlp(), NORMAL)
    model = ps.classifier(bnn, 30)
    Predictive(model, num_samples=2)(X)
    draws = Predictive(model, guide=bnn.guide, num_samples=2)(X)
    samples = {t.site: draws[t.site].reshape(2, *t.shape) for t in bnn.targets}
    Predictive(model, posterior_samples=samples)(X)
    poutine.condition(bnn, {"0.weight": torch.zeros(5, 4)})(X)
    poutine.trace(model).get_trace(X)
    bnn.masks()


def test_moments_of_draws_are_mean_and_standard_deviation():
    bnn = ps.lift(mlp(), NORMAL)
    draws = {t.site: 2 + 3 * torch.randn(50, *t.shape) for t in bnn.targets}
    bnn.match_moments(draws | {"y": torch.zeros(50, 30)})
    for key, values in draws.items():
        mean, deviation = values.mean(0), values.std(0)
        torch.testing.assert_close(bnn.net.get_parameter(key).detach(), mean)
        torch.testing.assert_close(bnn.scores()[key], mean.abs() / deviation)
    expected = copy.deepcopy(bnn.net)
    assert torch.equal(bnn.mean_forward(X), expected(X))


@pytest.mark.parametrize(
    "method",
    [ps.Gaussian(), ps.GammaSpikeAndSlab(), ps.GibbsPruning(sparsity=0.5), ps.Horseshoe()],
    ids=repr,
)
def test_moments_of_the_draws_of_its_own_prior_are_taken_by_every_method(method):
    bnn = ps.lift(mlp(), method)
    draws = Predictive(bnn, num_samples=20)(X)
    bnn.match_moments(draws)
    for target in bnn.targets:
        mean = draws[target.site].mean(0)
        torch.testing.assert_close(bnn.net.get_parameter(target.name).detach(), mean)
    assert sorted(bnn.masks(at_least=1)) == ["0.weight", "2.weight"]


@pytest.mark.parametrize("likelihood", ["curvature", "activations"])
def test_moments_give_the_width_of_a_support_prior(likelihood):
    bnn = ps.lift(nn.Linear(4, 3), ps.GammaSpikeAndSlab(likelihood=likelihood)).eval()
    draws = 0.3 + 1e-3 * torch.randn(400, 3, 4)
    bnn.match_moments({"weight": draws})
    trace = [poutine.trace(bnn.guide).get_trace(X).nodes["weight"]["value"] for _ in range(400)]
    found = torch.stack(trace)
    torch.testing.assert_close(found.mean(0), draws.mean(0), atol=3e-4, rtol=0)
    torch.testing.assert_close(found.std(0), draws.std(0), atol=0, rtol=0.2)


def test_moments_of_gates_are_their_mean_gains():
    net = mlp()
    bnn = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net))
    logits = {t.site: 3 * torch.randn(60, *t.shape) for t in bnn.targets}
    bnn.match_moments(logits)
    for key, values in logits.items():
        torch.testing.assert_close(bnn.scores()[key], values.sigmoid().mean(0))
    second = ps.lift(net, ps.DependentBetaBernoulli(bnn), ps.inputs(net))
    shifts = {f"{key}_shift": torch.randn_like(values) for key, values in logits.items()}
    second.match_moments({key: values - 1 for key, values in logits.items()} | shifts)
    for entry in second.guide.entries:
        q, site = entry.posterior(), entry.target.site
        torch.testing.assert_close(second.scores()[site], (logits[site] - 1).sigmoid().mean(0))
        torch.testing.assert_close(q["shift"].detach(), shifts[f"{site}_shift"].mean(0))
        torch.testing.assert_close(q["log_scale"].exp().detach(), shifts[f"{site}_shift"].std(0))


def test_what_is_frozen_stays_at_zero():
    bnn = ps.lift(mlp(), NORMAL)
    mask = torch.rand(5, 4) > 0.5
    bnn.freeze({"0.weight": mask})
    bnn.match_moments({t.site: torch.randn(9, *t.shape) for t in bnn.targets})
    assert torch.equal(bnn.net[0].weight != 0, mask)
    assert torch.equal(bnn.masks(0.0)["0.weight"], mask)
    scale = poutine.trace(bnn.guide).get_trace(X).nodes["0.weight"]["fn"].base_dist.scale
    assert torch.equal(scale[~mask].detach(), torch.ones(int((~mask).sum())))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (None, "no draws of '2.weight'"),
        (torch.zeros(5, 5, 3), "shape"),
        (torch.zeros(3, 5), "shape"),
        (torch.zeros(1, 3, 5), "at least two"),
        (torch.full((5, 3, 5), torch.nan), "finite"),
    ],
)
def test_bad_draws_are_refused_before_anything_changes(wrong, why):
    bnn = ps.lift(mlp(), NORMAL)
    before = copy.deepcopy(bnn.state_dict())
    draws = {"0.weight": torch.randn(5, 5, 4)} | ({} if wrong is None else {"2.weight": wrong})
    with pytest.raises(ValueError, match=why):
        bnn.match_moments(draws)
    assert all(torch.equal(value, before[key]) for key, value in bnn.state_dict().items())


def test_a_method_that_does_not_say_how_is_named():
    net = mlp()
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net))
    with pytest.raises(NotImplementedError, match=r"LogNormalGate.*match_moments"):
        bnn.match_moments({})


# NUTS


def run_nuts(bnn: ps.Lifted, samples: int = 3, model=None) -> dict[str, Tensor]:
    model = model or ps.classifier(bnn, 30)
    mcmc = MCMC(NUTS(model), num_samples=samples, warmup_steps=2, disable_progbar=True)
    mcmc.run(X, Y)
    return mcmc.get_samples()


def frozen_biases() -> nn.Module:
    net = mlp()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("bias" not in name)
    return net


def test_means_and_scores_after_nuts_are_those_of_its_draws():
    truth = LinearGaussian(orthogonal=False)
    bnn = truth.lifted()
    mcmc = MCMC(NUTS(truth.model(bnn)), num_samples=300, warmup_steps=80, disable_progbar=True)
    mcmc.run(*truth.data)
    with pytest.warns(UserWarning, match="match_moments"):
        bnn.mean_forward(truth.x)
    bnn.match_moments(mcmc.get_samples(group_by_chain=True))
    mean, covariance = truth.posterior_mean(), truth.precision().inverse()
    deviation = covariance.diagonal().sqrt()
    assert ((bnn.net.weight[0] - mean).abs() < 0.5 * deviation).all()
    torch.testing.assert_close(
        bnn.scores()["weight"][0], mean.abs() / deviation, rtol=0.3, atol=0.3
    )


def test_nuts_warns_once_of_parameters_that_it_leaves():
    bnn = ps.lift(mlp(), NORMAL)
    with pytest.warns(UserWarning, match=r"2 parameters.*no targets \(0\.bias, 2\.bias\)") as said:
        run_nuts(bnn)
    assert len(said) == 1
    run_nuts(bnn)


@pytest.mark.parametrize("all_of_it", [True, False])
def test_nuts_warns_of_nothing_where_all_is_drawn_or_meant_to_stay(all_of_it):
    net = mlp() if all_of_it else frozen_biases()
    bnn = ps.lift(net, NORMAL, ps.weights(net, "*" if all_of_it else "*weight"))
    assert sorted(run_nuts(bnn)) == [
        target.site for target in sorted(bnn.targets, key=lambda t: t.key)
    ]


@pytest.mark.parametrize("method", [ps.GibbsPruning(sparsity=0.5), ps.BetaBernoulli()], ids=repr)
def test_nuts_refuses_a_density_that_is_random(method):
    bnn = ps.lift(frozen_biases(), method)
    with pytest.raises(ValueError, match=rf"{type(method).__name__} draws.*HMC and NUTS"):
        run_nuts(bnn)


def test_nuts_takes_gibbs_where_its_masks_are_not_drawn():
    bnn = ps.lift(frozen_biases(), ps.GibbsPruning(sparsity=0.5)).eval()
    assert set(run_nuts(bnn)) == {"0.weight", "2.weight"}


def test_gibbs_and_gates_are_trained_by_other_guides():
    for method in (ps.GibbsPruning(sparsity=0.5), ps.BetaBernoulli()):
        model = ps.classifier(ps.lift(mlp(), method), 30)
        svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        assert torch.isfinite(torch.tensor(svi.step(X, Y)))


# One call in a model


def twice(bnn):
    return lambda x, y=None: bnn(x) + bnn(x)


@pytest.mark.parametrize("method", [NORMAL, ps.BetaBernoulli()], ids=repr)
def test_a_network_called_twice_in_a_model_is_refused_with_the_way_out(method):
    bnn = ps.lift(mlp(), method)
    with pytest.raises(ValueError, match=r"called once in a model.*torch\.cat"):
        poutine.trace(twice(bnn)).get_trace(X)
    with pytest.raises(ValueError, match=r"torch\.cat"):
        Trace_ELBO().loss(twice(bnn), bnn.guide, X)
    twice(bnn)(X)  # without handlers, draws of two programs

    def once(x):
        first, second = bnn(torch.cat([x, x])).split(len(x))
        return first + second

    trace = poutine.trace(once).get_trace(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(trace.stochastic_nodes) == {target.site for target in bnn.targets}


def test_a_call_whose_sites_are_hidden_is_no_second_call():
    bnn = ps.lift(mlp(), NORMAL)

    def model(x):
        with poutine.block():
            bnn(x)
        return bnn(x)

    assert poutine.trace(model).get_trace(X).stochastic_nodes == ["0.weight", "2.weight"]


# Parameters are sites like Pyro's own


@pytest.mark.parametrize("part", ["model", "guide"])
def test_a_model_is_drawn_with_its_parameters(part):
    bnn = ps.lift(mlp(), NORMAL)
    program = ps.classifier(bnn, 30) if part == "model" else bnn.guide
    relations = get_model_relations(program, (X,))
    generate_graph_specification(relations, render_params=True)
    names = {name for name, _ in bnn.named_parameters() if ("bias" in name) == (part == "model")}
    assert set(relations["param_constraint"]) == names
    assert set(relations["param_constraint"].values()) == {"Real()"}
