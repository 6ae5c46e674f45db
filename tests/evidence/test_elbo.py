"""ELBOs against exact evidence and against their closed form."""

import pyro
import pytest
import torch

import pyrosparse as ps
from pyrosparse.evidence import ElboEstimate, elbo, elbo_difference
from tests.linear_gaussian import LinearGaussian, set_posterior
from tests.monte_carlo import assert_mean
from tests.nets import batch, mlp


@pytest.mark.parametrize("batch_size", [5, 1000])
def test_with_the_exact_posterior_every_draw_is_the_log_evidence(batch_size):
    truth = LinearGaussian(orthogonal=True)
    bnn = truth.at_mean_field_optimum()
    estimate = elbo(truth.model(bnn), bnn.guide, truth.data, batch_size=batch_size)
    expected = torch.full((16,), truth.log_evidence(), dtype=torch.float64)
    torch.testing.assert_close(estimate.draws, expected, rtol=1e-10, atol=0)
    assert estimate.mean == pytest.approx(truth.log_evidence(), rel=1e-10)
    assert estimate.standard_error < 1e-10


@pytest.mark.parametrize("estimator", ["weights", "activations"])
def test_elbo_equals_its_closed_form(estimator):
    truth = LinearGaussian(orthogonal=False)
    bnn = truth.lifted(estimator=estimator)
    loc, scale = torch.tensor([0.3, 0.4, -1.0]).double(), torch.tensor([0.4, 0.3, 0.5]).double()
    set_posterior(bnn, loc, scale)
    estimate = elbo(truth.model(bnn), bnn.guide, truth.data, draws=100)
    assert_mean(estimate.draws, truth.elbo(loc, scale))
    spread = estimate.draws.std() / 100**0.5
    assert estimate.standard_error == pytest.approx(float(spread), rel=1e-12)
    assert estimate.mean < truth.log_evidence()


def test_difference_of_exact_posteriors_is_the_log_bayes_factor_of_a_pruned_input():
    truth = LinearGaussian(orthogonal=True)
    full = truth.at_mean_field_optimum()
    columns = torch.tensor([0, 2])
    pruned = ps.lift(
        torch.nn.Linear(2, 1, bias=False).double(),
        ps.Gaussian(scale=truth.prior, posterior="normal"),
    )
    mean, deviation = truth.posterior_mean(), truth.precision().diagonal().rsqrt()
    set_posterior(pruned, mean[columns], deviation[columns])
    data = (truth.x[:, columns], truth.y)
    difference = elbo_difference(
        elbo(truth.model(full), full.guide, truth.data),
        elbo(truth.model(pruned), pruned.guide, data),
    )
    exact = truth.log_evidence(columns) - truth.log_evidence()
    assert difference.mean == pytest.approx(exact, rel=1e-9)


def test_common_random_numbers_make_a_difference_precise():
    truth = LinearGaussian(orthogonal=False)
    bnn = truth.lifted()
    loc, scale = torch.tensor([0.3, 0.4, -1.0]).double(), torch.tensor([0.4, 0.3, 0.5]).double()
    estimates = []
    for shift in (0.0, 0.01):
        set_posterior(bnn, loc + shift, scale)
        estimates.append(elbo(truth.model(bnn), bnn.guide, truth.data, draws=50))
    difference = elbo_difference(*estimates)
    assert difference.standard_error < 0.1 * min(e.standard_error for e in estimates)
    assert_mean(difference.draws, truth.elbo(loc + 0.01, scale) - truth.elbo(loc, scale))


def test_seeds_repeat_and_different_seeds_share_no_draw():
    truth = LinearGaussian(orthogonal=False)
    bnn = truth.lifted(initial_scale=0.5)
    first, again, other = (
        elbo(truth.model(bnn), bnn.guide, truth.data, draws=8, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first.draws, again.draws)
    assert not set(first.draws.tolist()) & set(other.draws.tolist())


@pytest.mark.parametrize("as_examples", [True, False])
def test_subsets_of_the_data_leave_the_estimate_unbiased(as_examples):
    truth = LinearGaussian(orthogonal=False)
    bnn = truth.lifted()
    loc, scale = torch.tensor([0.3, 0.4, -1.0]).double(), torch.tensor([0.4, 0.3, 0.5]).double()
    set_posterior(bnn, loc, scale)
    data = ps.data.Examples(*truth.data) if as_examples else truth.data
    estimate = elbo(truth.model(bnn), bnn.guide, data, draws=300, subset=4)
    assert_mean(estimate.draws, truth.elbo(loc, scale))
    point = ps.lift(truth.net(), ps.Gaussian(scale=truth.prior))
    all_of_it, whole = (
        elbo(truth.model(point), point.guide, data, draws=2, subset=subset) for subset in (99, None)
    )
    torch.testing.assert_close(all_of_it.draws, whole.draws)


def test_common_random_numbers_share_the_subsets_too():
    truth = LinearGaussian(orthogonal=False)
    bnn = truth.lifted()
    loc, scale = torch.tensor([0.3, 0.4, -1.0]).double(), torch.tensor([0.4, 0.3, 0.5]).double()
    estimates = []
    for shift in (0.0, 0.01):
        set_posterior(bnn, loc + shift, scale)
        estimates.append(elbo(truth.model(bnn), bnn.guide, truth.data, draws=50, subset=6))
    assert elbo_difference(*estimates).standard_error < 0.1 * estimates[0].standard_error


def test_subsets_of_what_is_no_tensor_and_empty_ones_are_refused():
    bnn = ps.lift(mlp(), ps.Gaussian())
    for data, subset, message in (([batch("mlp")], 3, "tensors"), (batch("mlp"), 0, "1 or more")):
        with pytest.raises(ValueError, match=message):
            elbo(ps.classifier(bnn, 7), bnn.guide, data, subset=subset)


def test_callers_random_state_mode_and_handlers_are_left_alone():
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal", estimator="activations"))
    state = torch.get_rng_state()
    with pyro.poutine.trace() as capture:
        elbo(ps.classifier(bnn, 7), bnn.guide, batch("mlp"))
    assert torch.equal(torch.get_rng_state(), state)
    assert bnn.training
    assert not capture.trace.nodes


def test_point_guide_has_no_standard_error():
    bnn = ps.lift(mlp(), ps.Gaussian())
    model = ps.classifier(bnn, 7)
    estimate = elbo(model, bnn.guide, batch("mlp"), draws=3)
    assert estimate.standard_error == 0
    total = ps.evidence.log_posterior(model, bnn.guide, batch("mlp")).total
    assert estimate.mean == pytest.approx(total, rel=1e-9)


def test_one_draw_is_refused():
    bnn = ps.lift(mlp(), ps.Gaussian())
    with pytest.raises(ValueError, match="at least 2 draws"):
        elbo(ps.classifier(bnn, 7), bnn.guide, batch("mlp"), draws=1)


def test_no_data_are_refused():
    bnn = ps.lift(mlp(), ps.Gaussian())
    with pytest.raises(ValueError, match="no data"):
        elbo(ps.classifier(bnn, 7), bnn.guide, [])


def test_draws_that_are_not_finite_are_refused():
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal"))
    with torch.no_grad():
        bnn.net[0].weight[0, 0] = torch.nan
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="not finite"):
        elbo(ps.classifier(bnn, 7), bnn.guide, batch("mlp"))


def test_different_numbers_of_draws_are_refused():
    with pytest.raises(ValueError, match="2 and 3 draws"):
        elbo_difference(ElboEstimate(torch.zeros(2)), ElboEstimate(torch.zeros(3)))
