"""The tree of draws against exact posteriors, and through files."""

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS
from xarray import open_datatree
from xarray.testing import assert_identical

import pyrosparse as ps
from pyrosparse.diagnostics.nuts import RecordingNUTS
from pyrosparse.evidence import elbo
from tests.linear_gaussian import LinearGaussian
from tests.monte_carlo import assert_mean
from tests.nets import batch, mlp

SAMPLED = ["log_likelihood", "log_prior", "posterior", "posterior_predictive", "sample_stats"]


def network(**options) -> tuple[ps.Lifted, ps.classifier]:
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal", **options))
    return bnn, ps.classifier(bnn, 7)


def test_draws_have_the_moments_of_the_exact_posterior():
    truth = LinearGaussian()
    bnn = truth.at_mean_field_optimum()
    tree = ps.to_datatree(bnn, truth.model(bnn), truth.data, draws=400, var_names="weight")
    draws = torch.from_numpy(tree["posterior"]["weight"].to_numpy())[0, :, 0]
    mean, covariance = truth.posterior_mean(), truth.precision().inverse()
    assert_mean(draws, mean)
    assert_mean((draws - mean).square(), covariance.diagonal())
    assert tree["posterior"]["norm"].to_numpy()[0, :, 0] == pytest.approx(draws.norm(dim=1).numpy())
    y = torch.from_numpy(tree["posterior_predictive"]["y"].to_numpy())[0]
    predicted = truth.x @ mean
    assert_mean(y, predicted)
    variance = truth.noise**2 + ((truth.x @ covariance) * truth.x).sum(1)
    assert_mean((y - predicted).square(), variance)


def test_log_densities_are_those_of_the_elbo_and_of_the_exact_evidence():
    truth = LinearGaussian()
    bnn = truth.at_mean_field_optimum()
    stats = ps.to_datatree(bnn, truth.model(bnn), truth.data, draws=5)["sample_stats"]
    # log p(D, w) - log q(w) is the log evidence for every w, where q is the posterior.
    evidence = (stats["lp"] - stats["log_q"]).to_numpy()
    assert evidence == pytest.approx(truth.log_evidence(), rel=1e-10)
    bnn, model = network(initial_scale=0.3)
    tree = ps.to_datatree(bnn, model, batch("mlp"), draws=5, seed=4)
    stats = tree["sample_stats"]
    expected = elbo(model, bnn.guide, batch("mlp"), draws=5, seed=4).draws.numpy()
    assert (stats["lp"] - stats["log_q"]).to_numpy()[0] == pytest.approx(expected, rel=1e-6)
    parts = stats["log_prior"] + stats["log_likelihood"]
    assert parts.to_numpy() == pytest.approx(stats["lp"].to_numpy(), rel=1e-12)
    summed = tree["log_likelihood"]["y"].sum("datum").to_numpy()
    assert summed == pytest.approx(stats["log_likelihood"].to_numpy(), rel=1e-5)


def test_names_dimensions_and_coordinates():
    bnn, model = network()
    x, y = batch("mlp")
    tree = ps.to_datatree(bnn, model, (x, y), draws=3)
    assert sorted(tree.children) == sorted([*SAMPLED, "constant_data", "guide", "observed_data"])
    posterior = tree["posterior"]
    assert set(posterior.data_vars) == {"norm"}
    assert tree["constant_data"]["active"].to_numpy().tolist() == [1.0, 1.0]
    assert posterior["norm"].dims == ("chain", "draw", "layer")
    assert posterior["layer"].values.tolist() == ["0.weight", "2.weight"]
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "datum")
    assert np.array_equal(tree["observed_data"]["y"], y)
    assert np.array_equal(tree["constant_data"]["x"], x)
    guide = tree["guide"]
    assert guide["0.weight.loc"].dims == ("chain", "0.weight.loc_unit", "0.weight.loc_input")
    assert np.array_equal(guide["0.weight.loc"][0], bnn.net[0].weight.detach())
    assert guide["0.weight.scale"].to_numpy() == pytest.approx(0.01)
    assert np.array_equal(guide["2.bias"][0], bnn.net[2].bias.detach())


def test_weights_come_when_they_are_asked_for_and_biases_always():
    net = mlp()
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"), on=ps.weights(net, "*"))
    model = ps.classifier(bnn, 7)
    tree = ps.to_datatree(bnn, model, batch("mlp"), draws=2)
    assert set(tree["posterior"].data_vars) == {"norm", "0.bias", "2.bias"}
    tree = ps.to_datatree(bnn, model, batch("mlp"), draws=2, var_names=["2.*", "0.bias"])
    assert tree["posterior"]["2.weight"].shape == (1, 2, 3, 5)
    assert "0.weight" not in tree["posterior"].data_vars


def test_unknown_names_are_refused_with_the_nearest():
    bnn, model = network()
    with pytest.raises(ValueError, match=r"'0.weigth'; did you mean '0.weight'"):
        ps.to_datatree(bnn, model, batch("mlp"), var_names="0.weigth")


def test_a_tree_over_the_limit_is_refused_with_its_size():
    bnn, model = network()
    # 20 + 15 weights of 4 bytes are asked for a million times.
    with pytest.raises(ValueError, match=r"would take .*log_likelihood|posterior.*raise `limit`"):
        ps.to_datatree(bnn, model, batch("mlp"), var_names="*", draws=10**8)
    tree = ps.to_datatree(bnn, model, batch("mlp"), draws=4, limit=10**5)
    size = sum(part.nbytes for part in (tree[group].to_dataset() for group in tree.children))
    with pytest.raises(ValueError, match="more than the limit"):
        ps.to_datatree(bnn, model, batch("mlp"), draws=4, limit=size // 2)


def test_active_is_the_fraction_that_is_not_frozen():
    bnn, model = network()
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[:2] = True
    bnn.freeze({"0.weight": mask})
    tree = ps.to_datatree(bnn, model, batch("mlp"), draws=3, var_names="0.weight")
    assert tree["constant_data"]["active"].to_numpy() == pytest.approx([0.4, 1.0])
    # Where the chains differ it is no constant.
    other, other_model = network()
    tree = ps.to_datatree([bnn, other], [model, other_model], batch("mlp"), draws=3)
    assert tree["posterior"]["active"].to_numpy()[:, 0] == pytest.approx(
        np.array([[0.4, 1.0], [1.0, 1.0]])
    )
    tree = ps.to_datatree(bnn, model, batch("mlp"), draws=3, var_names="0.weight")
    assert np.array_equal(tree["guide"]["0.weight.mask"][0], mask)


def test_gates_and_scales_of_other_methods():
    net = mlp()
    bnn = ps.lift(net, ps.BetaBernoulli())
    tree = ps.to_datatree(bnn, ps.classifier(bnn, 7), batch("mlp"), draws=3)
    assert tree["posterior"]["2.input"].dims == ("chain", "draw", "2.input_unit")
    assert "norm" not in tree["posterior"].data_vars
    assert tree["guide"]["2.input.log_a"].shape == (1, 5)
    bnn = ps.lift(net, ps.Horseshoe())
    tree = ps.to_datatree(bnn, ps.classifier(bnn, 7), batch("mlp"), draws=3)
    assert set(tree["posterior"].data_vars) == {
        "norm",
        "0.weight_global",
        "2.weight_global",
    }


def test_several_runs_are_chains_with_draws_of_their_own():
    runs = [network(initial_scale=0.3) for _ in range(3)]
    bnns, models = [run[0] for run in runs], [run[1] for run in runs]
    tree = ps.to_datatree(bnns, models, batch("mlp"), draws=4, var_names="*")
    assert tree["posterior"].sizes["chain"] == 3
    assert np.array_equal(tree["guide"]["0.weight.loc"][2], bnns[2].net[0].weight.detach())
    draws, loc = tree["posterior"]["0.weight"], tree["guide"]["0.weight.loc"].to_numpy()
    assert len(np.unique((draws.to_numpy() - loc[:, None])[:, :, 0, 0])) == 12
    with pytest.raises(ValueError, match="one model for each lifted network: got 1 models for 3"):
        ps.to_datatree(bnns, models[:1], batch("mlp"))
    net = mlp()
    other = ps.lift(net, ps.Gaussian(posterior="normal"), on=ps.weights(net, "0.*"))
    with pytest.raises(ValueError, match="runs of one network"):
        ps.to_datatree([bnns[0], other], models[:2], batch("mlp"))


def test_a_seed_repeats_and_nothing_of_the_caller_is_disturbed():
    bnn, model = network(initial_scale=0.3)
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    with pyro.poutine.trace() as capture:
        first, again, other = (
            ps.to_datatree(bnn, model, batch("mlp"), draws=3, seed=seed) for seed in (0, 0, 1)
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)
    assert bnn.training and not capture.trace.nodes
    for group in SAMPLED:
        one, same = (tree[group].to_dataset().drop_attrs() for tree in (first, again))
        assert_identical(one, same)
    assert not np.intersect1d(first["posterior"]["norm"], other["posterior"]["norm"]).size


def test_batches_give_what_the_whole_gives():
    bnn, model = network(initial_scale=0.3)
    whole = ps.to_datatree(bnn, model, batch("mlp"), draws=3)["log_likelihood"]["y"].to_numpy()
    loader = [tuple(part[i : i + 2] for part in batch("mlp")) for i in range(0, 7, 2)]
    for options in ({"data": batch("mlp"), "batch_size": 3}, {"data": loader}):
        parts = ps.to_datatree(bnn, model, draws=3, **options)["log_likelihood"]["y"].to_numpy()
        assert parts == pytest.approx(whole, rel=1e-5)


def test_mcmc_of_the_same_model_gives_the_same_tree():
    truth = LinearGaussian(d=2)
    bnn = truth.lifted()
    model = truth.model(bnn)
    mcmc = MCMC(NUTS(model), num_samples=60, warmup_steps=40, num_chains=1, disable_progbar=True)
    mcmc.run(*truth.data)
    tree = ps.to_datatree(bnn, model, truth.data, mcmc=mcmc, draws=60, var_names="*")
    svi = ps.to_datatree(bnn, model, truth.data, draws=60, var_names="*")
    for group in SAMPLED:
        assert set(svi[group].data_vars) - set(tree[group].data_vars) <= {"log_q"}
        assert set(tree[group].data_vars) - set(svi[group].data_vars) <= {"diverging"}
        for name, variable in tree[group].data_vars.items():
            if name != "diverging":
                assert variable.dims == svi[group][name].dims
    draws = tree["posterior"]["weight"].to_numpy()
    assert np.array_equal(draws[0], mcmc.get_samples()["weight"])
    weight = torch.from_numpy(draws[0, 7, 0])
    covariance = truth.precision().inverse()
    posterior = torch.distributions.MultivariateNormal(truth.posterior_mean(), covariance)
    # Bayes' rule at one draw: log p(D, w) = log p(w | D) + log p(D).
    expected = float(posterior.log_prob(weight)) + truth.log_evidence()
    assert float(tree["sample_stats"]["lp"][0, 7]) == pytest.approx(expected, rel=1e-9)
    assert "guide" not in tree.children
    some = ps.to_datatree(bnn, model, truth.data, mcmc=mcmc, draws=10, var_names="*")
    assert (
        np.isin(some["posterior"]["weight"], draws).all() and some["posterior"].sizes["draw"] == 10
    )


def test_models_that_observe_nothing_or_score_by_element_are_refused():
    bnn, model = network()
    with pytest.raises(ValueError, match="observes nothing"):
        ps.to_datatree(bnn, model, (batch("mlp")[0],))

    def by_element(x, y):
        pyro.sample("y", pyro.distributions.Normal(bnn(x), 1.0), obs=y)

    with pytest.raises(ValueError, match="one for each datum"):
        ps.to_datatree(bnn, by_element, (torch.ones(7, 4), torch.ones(7, 3)))
    with pytest.raises(ValueError, match="no data"):
        ps.to_datatree(bnn, model, iter([]))


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_files_give_back_the_tree(kind, tmp_path):
    pytest.importorskip({"netcdf": "h5netcdf", "zarr": "zarr"}[kind])
    bnn, model = network()
    tree = ps.to_datatree(bnn, model, batch("mlp"), draws=3, var_names="*")
    if kind == "netcdf":
        tree.to_netcdf(tmp_path / "tree", engine="h5netcdf")
    else:
        tree.to_zarr(tmp_path / "tree", zarr_format=2)
    with open_datatree(tmp_path / "tree", engine={"netcdf": "h5netcdf"}.get(kind, kind)) as back:
        back.load()
    assert set(back.children) == set(tree.children)
    for group in tree.children:
        assert_identical(back[group].to_dataset(), tree[group].to_dataset())


def test_prior_groups_are_the_generative_model():
    truth = LinearGaussian()
    bnn = truth.at_mean_field_optimum()
    options = {"draws": 3, "prior_draws": 400, "var_names": "weight"}
    tree = ps.to_datatree(bnn, truth.model(bnn), truth.data, **options)
    weights = torch.from_numpy(tree["prior"]["weight"].to_numpy())[0, :, 0]
    assert_mean(weights, 0.0)
    assert_mean(weights.square(), truth.prior**2)
    y = torch.from_numpy(tree["prior_predictive"]["y"].to_numpy())[0]
    variance = truth.noise**2 + truth.prior**2 * truth.x.square().sum(1)
    assert_mean(y.square(), variance)
    # The noise is new for every draw, the weights are those of the same draw.
    assert_mean((y - weights @ truth.x.T).square(), truth.noise**2)
    assert set(tree["prior"].data_vars) == set(tree["posterior"].data_vars)
    point = ps.lift(mlp(), ps.VariationalDropout())
    with pytest.raises(ValueError, match="improper"):
        ps.to_datatree(point, ps.classifier(point, 7), batch("mlp"), draws=1, prior_draws=2)


def test_log_priors_by_site_are_those_of_the_draws():
    truth = LinearGaussian()
    bnn = truth.lifted()
    model = ps.regressor(bnn, truth.n)
    tree = ps.to_datatree(bnn, model, truth.data, draws=4, var_names="*")
    found = tree["log_prior"]
    assert set(found.data_vars) == {"weight", "noise"}
    weight = torch.from_numpy(tree["posterior"]["weight"].to_numpy())
    expected = torch.distributions.Normal(0.0, truth.prior).log_prob(weight).sum((2, 3))
    assert found["weight"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-6)
    total = found["weight"] + found["noise"]
    assert total.to_numpy() == pytest.approx(tree["sample_stats"]["log_prior"].to_numpy())


def test_all_draws_in_one_dimension_and_where_they_are_from():
    runs = [network(initial_scale=0.3) for _ in range(2)]
    options = {"draws": 3, "prior_draws": 2, "var_names": "0.weight"}
    bnns, models = [run[0] for run in runs], [run[1] for run in runs]
    tree = ps.to_datatree(bnns, models, batch("mlp"), sample_dims="sample", **options)
    chains = ps.to_datatree(bnns, models, batch("mlp"), **options)
    for group in [*SAMPLED, "prior", "prior_predictive"]:
        for name, variable in tree[group].data_vars.items():
            assert variable.dims[0] == "sample" and "chain" not in variable.dims
            expected = chains[group][name].to_numpy()
            assert np.array_equal(variable, expected.reshape(-1, *expected.shape[2:]))
        assert tree[group].attrs["inference_library"] == "pyro"
        assert tree[group].attrs["inference_library_version"] == pyro.__version__
    with pytest.raises(ValueError, match="sample_dims"):
        ps.to_datatree(bnns, models, batch("mlp"), draws=1, sample_dims="draw")


def test_nuts_says_where_it_diverged_and_with_what_energy():
    truth = LinearGaussian(d=2)
    bnn = truth.lifted()
    model = truth.model(bnn)
    kernel = RecordingNUTS(model, max_tree_depth=3)
    mcmc = MCMC(kernel, num_samples=30, warmup_steps=20, disable_progbar=True)
    mcmc.run(*truth.data)
    stats = ps.to_datatree(bnn, model, truth.data, mcmc=mcmc, draws=30)["sample_stats"]
    assert stats["diverging"].dtype == bool and stats["diverging"].shape == (1, 30)
    assert int(stats["diverging"].sum()) == len(mcmc._diagnostics[0]["divergences"])
    depth = stats["tree_depth"].to_numpy()
    assert depth.min() >= 1 and depth.max() <= 3
    # The energy is the potential energy at the start of a step and a chi-squared with 2 degrees.
    kinetic = stats["energy"].to_numpy()[0, 1:] + stats["lp"].to_numpy()[0, :-1]
    assert kinetic.min() > 0
    assert_mean(torch.from_numpy(kinetic), 1.0)
    few = ps.to_datatree(bnn, model, truth.data, mcmc=mcmc, draws=10)["sample_stats"]
    assert np.isin(few["energy"], stats["energy"]).all() and few["energy"].shape == (1, 10)


def test_a_recording_sampler_draws_what_pyros_draws():
    truth = LinearGaussian(d=2)
    draws = []
    for kind in (NUTS, RecordingNUTS):
        torch.manual_seed(0)
        bnn = truth.at_mean_field_optimum()
        mcmc = MCMC(kind(truth.model(bnn)), 5, warmup_steps=5, disable_progbar=True)
        mcmc.run(*truth.data)
        draws.append(mcmc.get_samples()["weight"])
    torch.testing.assert_close(*draws)  # captured gradients: up to rounding
