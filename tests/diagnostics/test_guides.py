"""Diagnostics draw all latent variables from the guide that they are given, against exact answers.

With the exact posterior as the guide, log p(D, w) - log q(w) is the log evidence for every draw.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import nn

import pyrosparse as ps
from pyrosparse.diagnostics import (
    khat,
    log_probabilities,
    predictive_check,
    predictive_quality,
    rhat,
    simulation_calibration,
)
from pyrosparse.evidence import elbo, evaluate, log_posterior
from tests.linear_gaussian import LinearGaussian, set_posterior
from tests.monte_carlo import assert_mean
from tests.nets import batch, mlp
from tests.outside_latent import OutsideLatent


@pytest.fixture(autouse=True)
def _no_parameters():
    pyro.clear_param_store()


def auto(kind: str, case: OutsideLatent):
    """An autoguide that is the exact posterior of weight and ``b``."""
    loc, scale = case.loc, case.scale
    if kind == "list":
        guide = AutoGuideList(case.model)
        guide.append(case.bnn.guide)
        part = AutoNormal(poutine.block(case.model, expose=["b"]))
        guide.append(part)
        guide(*case.data)
        with torch.no_grad():
            part.locs.b.copy_(loc[-1])
            part.scales.b = scale[-1]
        return guide
    if kind == "normal":
        guide = AutoNormal(case.model)
        guide(*case.data)
        with torch.no_grad():
            guide.locs.b.copy_(loc[-1])
            guide.scales.b = scale[-1]
            guide.locs.weight.copy_(loc[None, :-1])
            guide.scales.weight = scale[None, :-1]
        return guide
    guide = AutoMultivariateNormal(case.model) if kind == "multivariate" else None
    guide = guide or AutoDiagonalNormal(case.model)
    guide(*case.data)
    order = [2, 0, 1]  # b is sampled first
    with torch.no_grad():
        guide.loc.copy_(loc[order])
        guide.scale = scale[order]
        if kind == "multivariate":
            guide.scale_tril = torch.eye(3, dtype=torch.float64)
    return guide


def guide_of(kind: str, case: OutsideLatent):
    if kind == "function":
        return case.guide
    if kind == "module":

        class Whole(pyro.nn.PyroModule):
            def forward(self, x, y=None):
                case.guide(x, y)

        return Whole()
    with pyro.validation_enabled(False):
        torch.set_default_dtype(torch.float64)
        try:
            return auto(kind, case)
        finally:
            torch.set_default_dtype(torch.float32)


GUIDES = ["function", "module", "list", "normal", "diagonal", "multivariate"]


@pytest.mark.parametrize("kind", GUIDES)
def test_the_guide_that_is_given_is_drawn_from(kind):
    case = OutsideLatent()
    guide = guide_of(kind, case)
    # The draws are made before the data are looked at; batches are in the densities alone.
    for batch_size, number in ((1000, 200), (5, 20)):
        tree = ps.to_datatree(
            case.bnn,
            case.model,
            case.data,
            guide=guide,
            draws=number,
            var_names="*",
            batch_size=batch_size,
        )
        stats = tree["sample_stats"]
        evidence = (stats["lp"] - stats["log_q"]).to_numpy()
        assert evidence == pytest.approx(case.truth.log_evidence(), rel=1e-9)
        draws = torch.from_numpy(tree["posterior"]["b"].to_numpy())[0]
        assert_mean(draws, case.loc[-1])
        assert_mean((draws - case.loc[-1]).square(), case.scale[-1] ** 2)
        assert set(tree["posterior"].data_vars) == {"norm", "weight", "b"}
        found = elbo(case.model, guide, case.data, draws=4, batch_size=batch_size).draws
        assert found.tolist() == pytest.approx([case.truth.log_evidence()] * 4, rel=1e-9)


def test_the_tensors_of_the_guide_that_is_given_are_in_the_tree():
    case = OutsideLatent()
    tree = ps.to_datatree(case.bnn, case.model, case.data, guide=case.guide, draws=2)["guide"]
    assert set(tree.data_vars) == {"weight.loc", "weight.scale", "weight.mask", "b_loc"}
    assert float(tree["b_loc"][0]) == float(case.loc[-1])
    guide = guide_of("normal", case)
    tree = ps.to_datatree(case.bnn, case.model, case.data, guide=guide, draws=2)["guide"]
    assert "weight.loc" not in tree.data_vars  # of the guide that was not asked
    assert np.array_equal(tree["AutoNormal.locs.weight"][0], case.loc[None, :-1])
    assert np.allclose(tree["AutoNormal.scales.b"][0], case.scale[-1])


ASKED = {
    "to_datatree": lambda c: ps.to_datatree(c.bnn, c.model, c.data, draws=3),
    "compare_models": lambda c: ps.compare_models({"one": (c.bnn, c.model)}, c.data, draws=3),
    "elbo": lambda c: elbo(c.model, c.bnn.guide, c.data),
    "khat": lambda c: khat(c.model, c.bnn.guide, c.data, draws=30),
    "evaluate": lambda c: evaluate(c.model, c.bnn.guide, c.data),
    "log_posterior": lambda c: log_posterior(c.model, c.bnn.guide, c.data),
    "reduce": lambda c: ps.prune.reduce_model(c.model, c.bnn, c.data),
}


@pytest.mark.parametrize("name", ASKED)
def test_latent_variables_that_the_guide_leaves_to_the_prior_are_refused_by_name(name):
    with pytest.raises(ValueError, match=r"does not draw 'b', latent in the model.*guide=\.\.\."):
        ASKED[name](OutsideLatent())


def test_comparison_and_loo_are_exact_with_the_guide_that_is_given():
    case = OutsideLatent(n=60)
    whole = case.truth.at_mean_field_optimum()
    models = {"outside": (case.bnn, case.model), "inside": (whole, case.truth.model(whole))}
    result = ps.compare_models(
        models, case.data, guide={"outside": case.guide}, draws=400, train=case.data
    )
    rows = {row.name: row for row in result.rows}
    x, y = case.data
    covariance = case.truth.precision().inverse()
    leverage = ((x @ covariance) * x).sum(1) / case.truth.noise**2
    # Leave-one-out of a linear-Gaussian model in closed form, by Sherman and Morrison.
    mean = y[:, 0] - (y[:, 0] - x @ case.loc) / (1 - leverage)
    variance = case.truth.noise**2 / (1 - leverage)
    exact = torch.distributions.Normal(mean, variance.sqrt()).log_prob(y[:, 0]).sum()
    for name in models:
        assert rows[name].loo == pytest.approx(float(exact), abs=4 * 0.12)
    assert rows["outside"].elpd == pytest.approx(rows["inside"].elpd, abs=0.5)
    with pytest.raises(ValueError, match="'outsid'; did you mean 'outside'"):
        ps.compare_models(models, case.data, guide={"outsid": case.guide})
    with pytest.raises(TypeError, match="guides by name"):
        ps.compare_models(models, case.data, guide=case.guide)


def test_lists_of_runs_take_lists_of_guides():
    cases = [OutsideLatent() for _ in range(2)]
    bnns, models = [case.bnn for case in cases], [case.model for case in cases]
    guides = [case.guide for case in cases]
    tree = ps.to_datatree(bnns, models, cases[0].data, guide=guides, draws=100)
    assert dict(tree["posterior"]["b"].sizes) == {"chain": 2, "draw": 100}
    assert float(rhat(tree, "posterior")["b"]) < 1.1
    check = predictive_check(tree, np.mean)
    row = cases[0].truth.x.mean(0)
    assert float(check.replicated.mean()) == pytest.approx(float(row @ cases[0].loc), abs=0.1)
    with pytest.raises(ValueError, match="one guide for each lifted network: got 1 guides for 2"):
        ps.to_datatree(bnns, models, cases[0].data, guide=guides[:1])
    with pytest.raises(ValueError, match=r"guides of one kind: .*AutoNormal\.locs\.b"):
        other = [guides[0], guide_of("normal", cases[1])]
        ps.to_datatree(bnns, models, cases[0].data, guide=other, draws=2)


def test_sites_of_a_guide_that_the_model_does_not_have_are_refused():
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal"))

    def guide(x, y=None):
        bnn.guide(x, y)
        pyro.sample("more", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="the guide draws more, which are not latent variables"):
        elbo(ps.classifier(bnn, 7), guide, batch("mlp"))


def test_discrete_latent_variables_are_refused_by_name_unless_the_guide_draws_them():
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal"))
    x, y = batch("mlp")

    def model(x, y=None):
        sharp = pyro.sample("sharp", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        logits = bnn(x) * (1 + sharp)
        with pyro.plate("data", 7):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(x, y=None):
        bnn.guide(x, y)
        pyro.sample("sharp", dist.Bernoulli(0.9))

    with pytest.raises(ValueError, match=r"'sharp'.*by enumeration"):
        ps.to_datatree(bnn, model, (x, y), draws=3)
    tree = ps.to_datatree(bnn, model, (x, y), guide=guide, draws=400)
    assert_mean(torch.from_numpy(tree["posterior"]["sharp"].to_numpy())[0].double(), 0.9)
    with pytest.raises(ValueError, match="'sharp' from Bernoulli, which is discrete"):
        evaluate(model, guide, (x, y))


def local_model(bnn, n):
    def model(x, y=None):
        mean = bnn(x)
        with pyro.plate("data", n, subsample=torch.arange(len(x))):
            shift = pyro.sample("shift", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("y", dist.Normal(mean[:, 0] + shift, 0.5), obs=y)

    def guide(x, y=None):
        bnn.guide(x, y)
        with pyro.plate("data", n, subsample=torch.arange(len(x))):
            pyro.sample("shift", dist.Normal(0.8 * (y - bnn.net(x)[:, 0]), 0.5))

    return model, guide


def test_latent_variables_of_single_data_need_all_data_in_one_batch():
    bnn = ps.lift(nn.Linear(4, 1), ps.Gaussian())
    model, guide = local_model(bnn, 7)
    x, y = torch.randn(7, 4), torch.randn(7)
    tree = ps.to_datatree(bnn, model, (x, y), guide=guide, draws=3)
    assert tree["posterior"]["shift"].shape == (1, 3, 7)
    stats = tree["sample_stats"]
    expected = elbo(model, guide, (x, y), draws=3).draws
    assert (stats["lp"] - stats["log_q"]).to_numpy()[0] == pytest.approx(expected.numpy(), rel=1e-6)
    calls = [
        lambda data, size: ps.to_datatree(bnn, model, data, guide=guide, draws=3, batch_size=size),
        lambda data, size: elbo(model, guide, data, batch_size=size),
        lambda data, size: log_posterior(model, guide, data, batch_size=size),
    ]
    for call in calls:
        for data, size in (((x, y), 3), ((x[:4], y[:4]), 7)):
            with pytest.raises(ValueError, match="'shift' is a latent variable of each datum"):
                call(data, size)
    with pytest.raises(ValueError, match="has seen the datum"):
        ps.compare_models({"one": (bnn, model)}, (x, y), guide={"one": guide})


def test_imputed_data_are_refused_with_the_way_out():
    bnn = ps.lift(nn.Linear(4, 1), ps.Gaussian())

    def model(x, y=None, known=None):
        mean = bnn(x)[:, 0]
        with pyro.plate("data", 7):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y, obs_mask=known)

    data = (torch.randn(7, 4), torch.randn(7), torch.arange(7) < 4)
    with pytest.raises(ValueError, match=r"'y_unobserved'.*poutine\.mask in place of obs_mask"):
        ps.to_datatree(bnn, model, data, draws=3)


def test_a_guide_that_takes_a_subsample_does_not_choose_the_data():
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal"))
    x, y = batch("mlp", 40)

    def guide(x, y=None):
        with pyro.plate("data", 40, subsample_size=3):
            pass
        bnn.guide(x, y)

    model = ps.classifier(bnn, 40)
    tree = ps.to_datatree(bnn, model, (x, y), guide=guide, draws=2, batch_size=15)
    assert tree["log_likelihood"]["y"].sizes["datum"] == 40
    assert torch.equal(torch.from_numpy(tree["observed_data"]["y"].to_numpy()), y)


def test_networks_of_functions_are_in_evaluation_mode():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    bnn = ps.lift(net, ps.Gaussian())

    def model(x, y=None):
        logits = bnn(x)
        with pyro.plate("data", 20):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(x, y=None):
        bnn.guide(x, y)

    data = batch("mlp", 20)
    expected = nn.functional.cross_entropy(net.eval()(data[0]), data[1]).item()
    net.train()
    assert evaluate(model, guide, data)["nll"] == pytest.approx(expected, rel=1e-5)
    assert -elbo(model, guide, data, draws=2).draws.std() == 0
    assert all(module.training for module in net.modules())
    assert net[1].num_batches_tracked == 0


def test_predictive_probabilities_of_another_guide():
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal"))
    x, y = batch("mlp")
    model = ps.classifier(bnn, 7)
    guide = AutoDelta(model)
    guide(x, y)
    with torch.no_grad():
        for name, value in guide.named_parameters():
            value.fill_(0.3 if "weight" in name else 0.0)
    weights = {"0.weight": torch.full((5, 4), 0.3), "2.weight": torch.full((3, 5), 0.3)}
    expected = torch.func.functional_call(bnn.net, weights, x).double().log_softmax(1)
    found = log_probabilities(bnn, x, guide=guide, draws=2)
    assert torch.allclose(found, expected, atol=1e-6)
    table = predictive_quality({"auto": bnn, "own": bnn}, (x, y), guide={"auto": guide}, draws=2)
    assert torch.allclose(table["auto"].log_density, expected.gather(1, y[:, None])[:, 0])
    assert not torch.allclose(table["own"].log_density, table["auto"].log_density)
    part = AutoDelta(poutine.block(model, hide=["2.weight"]))
    part(x, y)
    with pytest.raises(ValueError, match=r"does not draw '2\.weight'"):
        log_probabilities(bnn, x, guide=part, draws=2)
    with pytest.raises(ValueError, match="Sequential is not lifted"):
        log_probabilities(bnn.net, x, guide=guide)
    with pytest.raises(ValueError, match="must be \\(x, y\\); got 1 parts"):
        predictive_quality({"own": bnn}, [(x,)])


def test_simulation_calibration_takes_autoguides():
    truth = LinearGaussian()

    def infer(x, y):
        bnn = truth.lifted()
        precision = truth.precision()
        loc = torch.linalg.solve(precision, x.T @ y[:, 0] / truth.noise**2)
        guide = AutoDiagonalNormal(truth.model(bnn))
        torch.set_default_dtype(torch.float64)
        try:
            guide(x, y)
        finally:
            torch.set_default_dtype(torch.float32)
        with torch.no_grad():
            guide.loc.copy_(loc)
            guide.scale = precision.diagonal().rsqrt()
        return guide

    model = truth.model(truth.lifted())
    result = simulation_calibration(model, infer, truth.x, simulations=100, draws=31)
    assert set(result.ranks) == {"weight"}
    assert result.p_value > 0.001


def test_reduction_judges_by_the_guide_that_is_given():
    case = OutsideLatent()
    with torch.no_grad():
        set_posterior(case.bnn, torch.tensor([case.loc[0], 0.0]).double(), case.scale[:-1])
    batch = ps.prune.prune_batch(case.model, case.bnn, case.data, guide=case.guide, draws=8)
    assert batch is not None and torch.isfinite(batch.gain.draws).all()
    case = OutsideLatent()
    with pytest.raises(ValueError, match="does not call the lifted network's own"):
        ps.prune.reduce_model(case.model, case.bnn, case.data, guide=guide_of("normal", case))


def test_half_precision_comes_as_float32():
    for dtype in (torch.bfloat16, torch.float16):
        bnn = ps.lift(mlp().to(dtype), ps.Gaussian(posterior="normal"))
        x, y = batch("mlp")
        tree = ps.to_datatree(bnn, ps.classifier(bnn, 7), (x.to(dtype), y), draws=3, var_names="*")
        for group, name in (
            ("posterior", "0.weight"),
            ("posterior", "norm"),
            ("log_likelihood", "y"),
            ("guide", "0.weight.loc"),
            ("constant_data", "x"),
        ):
            assert tree[group][name].dtype == np.float32
        assert np.array_equal(tree["constant_data"]["x"], x.to(dtype).float())
        assert np.array_equal(tree["guide"]["0.weight.loc"][0], bnn.net[0].weight.float().detach())
        drawn = tree["posterior"]["0.weight"].to_numpy()[0]
        norms = np.linalg.norm(drawn.reshape(3, -1), axis=1)
        assert tree["posterior"]["norm"].to_numpy()[0, :, 0] == pytest.approx(norms, rel=1e-5)
