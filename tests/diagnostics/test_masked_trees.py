"""Trees and comparisons of partly observed data: those of the known data alone."""

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.diagnostics import predictive_check
from pyrosparse.diagnostics.draws import log_likelihood
from tests.evidence.test_masked_data import KNOWN, MASKS, TRUTH, data


def known_alone(bnn):
    return ps.regressor(bnn, int(KNOWN.sum()), noise=TRUTH.noise), (TRUTH.x[KNOWN], TRUTH.y[KNOWN])


@pytest.mark.parametrize("batch_size", [7, 100])
@pytest.mark.parametrize("mask", MASKS)
def test_masked_data_are_not_in_the_tree(mask, batch_size):
    bnn = TRUTH.lifted(initial_scale=0.05)
    model, left = known_alone(bnn)
    tree = ps.to_datatree(bnn, mask(bnn), data(), draws=40, batch_size=batch_size)
    expected = ps.to_datatree(bnn, model, left, draws=40)
    places = torch.arange(20)[KNOWN].tolist()
    for group in ("log_likelihood", "posterior_predictive", "observed_data"):
        assert tree[group]["y"].coords["datum"].values.tolist() == places
        assert tree[group]["y"].shape == expected[group]["y"].shape
    assert np.array_equal(tree["constant_data"]["x"], TRUTH.x[KNOWN])
    assert np.array_equal(tree["observed_data"]["y"], TRUTH.y[KNOWN][:, 0])
    scores = tree["log_likelihood"]["y"].to_numpy()
    assert scores == pytest.approx(expected["log_likelihood"]["y"].to_numpy(), rel=1e-12)
    for name in ("lp", "log_likelihood", "log_prior", "log_q"):
        found, stats = tree["sample_stats"][name], expected["sample_stats"][name]
        assert found.to_numpy() == pytest.approx(stats.to_numpy(), rel=1e-12)
    with pytest.warns(UserWarning, match="Pareto"):  # the guide was never trained
        loo, exact = (arviz_stats.loo(one, pointwise=True, reff=1.0) for one in (tree, expected))
    assert (loo.elpd, loo.se, loo.p) == pytest.approx((exact.elpd, exact.se, exact.p), rel=1e-9)
    assert loo.n_data_points == len(places)
    assert np.allclose(loo.pareto_k, exact.pareto_k)
    check = predictive_check(tree, np.mean)
    assert check.observed == pytest.approx(float(TRUTH.y[KNOWN].mean()))
    assert float(check.replicated.abs().max()) < 10


@pytest.mark.parametrize("mask", MASKS)
def test_comparison_is_that_of_the_known_data(mask):
    bnn = TRUTH.lifted(initial_scale=0.05)
    model, left = known_alone(bnn)
    (row,) = ps.compare_models({"one": (bnn, mask(bnn))}, data(), draws=40, train=data()).rows
    (expected,) = ps.compare_models({"one": (bnn, model)}, left, draws=40, train=left).rows
    assert (row.elpd, row.se) == pytest.approx((expected.elpd, expected.se), rel=1e-12)
    assert (row.loo, row.loo_se) == pytest.approx((expected.loo, expected.loo_se), rel=1e-12)
    assert log_likelihood(mask(bnn), bnn.guide, data(), draws=3).shape == (3, int(KNOWN.sum()))


def test_models_that_mask_different_data_are_not_compared():
    bnn = TRUTH.lifted()
    x, known, y = data()

    def all_but_one(x, known, y=None):
        return MASKS[1](bnn)(x, known & (y[:, 0] != y[0, 0]), y)

    models = {"all": (bnn, MASKS[0](bnn)), "fewer": (bnn, all_but_one)}
    with pytest.raises(ValueError, match="'all' and 'fewer' mask different values for 1 of the 20"):
        ps.compare_models(models, (x, known, y), draws=3)


def test_elements_that_are_masked_within_a_datum_are_nan():
    bnn = ps.lift(nn.Conv2d(1, 3, 1), ps.Gaussian(posterior="normal"))
    x, y = torch.randn(6, 1, 2, 2), torch.randint(3, (6, 2, 2))
    known = torch.ones(6, 2, 2, dtype=torch.bool)
    known[0, 0, 0] = known[3] = False
    y[~known] = 2

    def model(x, known, y=None):
        logits = bnn(x).movedim(1, -1)
        with pyro.plate("data", 6, subsample=torch.arange(len(x))):
            return pyro.sample("y", dist.Categorical(logits=logits).mask(known).to_event(2), obs=y)

    tree = ps.to_datatree(bnn, model, (x, known, y), draws=5, batch_size=4)
    assert tree["observed_data"]["datum"].values.tolist() == [0, 1, 2, 4, 5]
    left = known.flatten(1).any(1)
    for group, shape in (("observed_data", ()), ("posterior_predictive", (1, 5))):
        missing = torch.from_numpy(np.isnan(tree[group]["y"].to_numpy()))
        assert torch.equal(missing, (~known[left]).expand(*shape, 5, 2, 2))
    seen = tree["observed_data"]["y"].to_numpy()
    assert np.array_equal(seen[~np.isnan(seen)], y[known])
    with pytest.raises(ValueError, match=r"statistic of 'y' is NaN.*np\.nanmean"):
        predictive_check(tree, np.mean)
    check = predictive_check(tree, np.nanmean)
    assert check.observed == pytest.approx(float(y[known].double().mean()))


def test_sites_that_mask_different_data_have_dimensions_of_their_own():
    bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    x, y = torch.randn(7, 4), torch.randint(3, (7,))
    known = torch.arange(7) < 4

    def model(x, known, y=None):
        logits = bnn(x)
        with pyro.plate("data", 7, subsample=torch.arange(len(x))):
            pyro.sample("some", dist.Categorical(logits=logits).mask(known), obs=y)
            pyro.sample("others", dist.Categorical(logits=logits).mask(~known), obs=y)
            pyro.factor("bonus", logits.logsumexp(-1))
            pyro.deterministic("top", logits.argmax(-1).double())

    tree = ps.to_datatree(bnn, model, (x, known, y), draws=3)
    assert tree["log_likelihood"]["some"].dims == ("chain", "draw", "some_datum")
    assert tree["log_likelihood"]["others"]["others_datum"].values.tolist() == [4, 5, 6]
    assert tree["log_likelihood"]["bonus"].sizes["bonus_datum"] == 7
    assert set(tree["observed_data"].data_vars) == {"some", "others"}
    assert np.array_equal(tree["observed_data"]["others"], y[4:])
    assert tree["constant_data"]["x"].shape == (7, 4)


def test_a_tree_of_factors_alone_has_no_data_to_check():
    bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    x, y = torch.randn(7, 4), torch.randint(3, (7,))

    def model(x, y):
        logs = bnn(x).log_softmax(-1)
        with pyro.plate("data", 7, subsample=torch.arange(len(x))):
            pyro.factor("y", logs.gather(1, y[:, None])[:, 0])

    plain = ps.to_datatree(bnn, ps.classifier(bnn, 7), (x, y), draws=4)
    tree = ps.to_datatree(bnn, model, (x, y), draws=4, batch_size=3)
    scores = plain["log_likelihood"]["y"].to_numpy()
    assert tree["log_likelihood"]["y"].to_numpy() == pytest.approx(scores, rel=1e-5)
    with pytest.raises(ValueError, match="only factors"):
        predictive_check(tree, np.mean)
