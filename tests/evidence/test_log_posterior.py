"""Log posteriors and Bayes factors against direct computation."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer.autoguide import AutoNormal
from torch.distributions import Normal
from torch.utils.data import DataLoader, TensorDataset

import pyrosparse as ps
from pyrosparse.evidence import BayesFactor, LogPosterior, log_bayes_factor, log_posterior
from tests.linear_gaussian import LinearGaussian
from tests.nets import batch, cnn, mlp


@pytest.fixture
def data():
    return batch("mlp", 25)


def direct(net, data, scale: float) -> tuple[float, float]:
    """Log likelihood and log prior in float64."""
    net, (x, y) = net.double().eval(), data
    likelihood = -F.cross_entropy(net(x.double()), y, reduction="sum")
    flat = torch.cat([target.value.double().flatten() for target in ps.weights(net)])
    prior = Normal(torch.zeros_like(flat), scale).log_prob(flat).sum()
    return likelihood.item(), prior.item()


@pytest.mark.parametrize("posterior", ["point", "normal"])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_parts_equal_direct_computation(data, posterior, batch_size):
    net = mlp()
    bnn = ps.lift(net, ps.Gaussian(scale=0.7, posterior=posterior))
    model = ps.classifier(bnn, 25)
    result = log_posterior(model, bnn.guide, data, batch_size=batch_size)
    likelihood, prior = direct(net, data, 0.7)
    assert result.n == 25
    assert result.likelihood == pytest.approx(likelihood, rel=1e-5)
    assert result.prior == pytest.approx(prior, rel=1e-5)
    assert result.total == result.likelihood + result.prior
    assert result.likelihood_per_datum == result.likelihood / 25


def test_data_may_be_examples_a_tuple_or_a_loader(data):
    bnn = ps.lift(mlp(), ps.Gaussian())
    model = ps.classifier(bnn, 25)
    loader = DataLoader(TensorDataset(*data), batch_size=10)
    results = [
        log_posterior(model, bnn.guide, given)
        for given in (data, ps.data.Examples(*data), loader, [data])
    ]
    assert len({result.n for result in results}) == 1
    for result in results:
        assert result.likelihood == pytest.approx(results[0].likelihood, rel=1e-6)
        assert result.prior == results[0].prior


def test_network_is_evaluated_in_evaluation_mode_and_left_as_it_was():
    net = cnn()
    bnn = ps.lift(net, ps.Gaussian())
    net[1].eval()
    modes = [module.training for module in bnn.modules()]
    state = {key: value.clone() for key, value in bnn.state_dict().items()}
    x, y = batch("cnn")
    one = log_posterior(ps.classifier(bnn, 7), bnn.guide, (x, y), batch_size=2)
    two = log_posterior(ps.classifier(bnn, 7), bnn.guide, (x, y), batch_size=7)
    assert one.likelihood == pytest.approx(two.likelihood, rel=1e-6)
    assert [module.training for module in bnn.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in bnn.state_dict().items())


def test_handlers_and_random_state_around_the_call_see_nothing(data):
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal"))
    state = torch.get_rng_state()
    with pyro.poutine.trace() as capture:
        log_posterior(ps.classifier(bnn, 25), bnn.guide, data)
    assert not capture.trace.nodes
    assert torch.equal(torch.get_rng_state(), state)


def test_bayes_factor_of_two_weights_is_the_exact_difference():
    truth = LinearGaussian()
    bnn = ps.lift(truth.net(), ps.Gaussian(scale=truth.prior))
    model = truth.model(bnn)

    def exact(weight: torch.Tensor) -> torch.Tensor:
        prior = Normal(torch.zeros_like(weight), truth.prior).log_prob(weight).sum()
        likelihood = Normal(truth.x @ weight, truth.noise).log_prob(truth.y[:, 0]).sum()
        return torch.stack([likelihood, prior])

    before = log_posterior(model, bnn.guide, truth.data)
    old = bnn.net.weight[0].detach().clone()
    bnn.zero({"weight": torch.tensor([[True, False, True]])})
    after = log_posterior(model, bnn.guide, truth.data)
    change = exact(bnn.net.weight[0].detach()) - exact(old)
    factor = log_bayes_factor(before, after)
    assert factor.likelihood == pytest.approx(float(change[0]), rel=1e-10)
    # The prior rewards the zero: w^2 / 2 s^2.
    assert factor.prior == pytest.approx(float(old[1] ** 2) / (2 * truth.prior**2), rel=1e-10)
    assert factor.total == pytest.approx(float(change.sum()), rel=1e-10)
    assert factor.per_datum == factor.total / truth.n


FINITE = st.floats(-1e6, 1e6)


@given(FINITE, FINITE, FINITE, FINITE, st.integers(1, 1000))
def test_mean_divides_the_likelihood_and_leaves_the_prior(a, b, c, d, n):
    before, after = LogPosterior(a, b, n), LogPosterior(c, d, n)
    summed = log_bayes_factor(before, after, "sum")
    mean = log_bayes_factor(before, after, "mean")
    assert summed == BayesFactor(c - a, d - b, n)
    assert mean == BayesFactor((c - a) / n, d - b, n)
    back = log_bayes_factor(after, before, "sum")
    assert back.total == -summed.total


def test_log_factors_beyond_the_range_of_floats_are_exact():
    factor = log_bayes_factor(LogPosterior(0.0, 0.0, 10), LogPosterior(-5e5, 2e3, 10))
    assert factor.total == -498000.0


def test_any_pyro_model_with_an_autoguide_works(data):
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", 25, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(x @ w, scale), obs=y)

    x, y = data[0], data[0].sum(-1)
    guide = AutoNormal(model)
    guide(x, y)
    result = log_posterior(model, guide, (x, y), batch_size=10)
    at = guide.median(x, y)
    likelihood = Normal(x @ at["w"], at["scale"]).log_prob(y).sum()
    prior = Normal(0, 1).log_prob(at["w"]).sum() + dist.LogNormal(0.0, 1.0).log_prob(at["scale"])
    assert result.likelihood == pytest.approx(float(likelihood), rel=1e-5)
    assert result.prior == pytest.approx(float(prior), rel=1e-5)


def test_model_that_observes_nothing_is_refused(data):
    bnn = ps.lift(mlp(), ps.Gaussian())
    with pytest.raises(ValueError, match="observes nothing"):
        log_posterior(bnn, bnn.guide, (data[0],))


def test_no_data_are_refused():
    bnn = ps.lift(mlp(), ps.Gaussian())
    with pytest.raises(ValueError, match="no data"):
        log_posterior(ps.classifier(bnn, 25), bnn.guide, [])


def test_different_data_are_refused():
    with pytest.raises(ValueError, match="3 and 4"):
        log_bayes_factor(LogPosterior(0.0, 0.0, 3), LogPosterior(0.0, 0.0, 4))


def test_unknown_likelihood_is_refused():
    with pytest.raises(ValueError, match="'median'"):
        log_bayes_factor(LogPosterior(0.0, 0.0, 3), LogPosterior(0.0, 0.0, 3), "median")


def test_weights_that_are_not_finite_are_refused(data):
    bnn = ps.lift(mlp(), ps.Gaussian())
    with torch.no_grad():
        bnn.net[0].weight[0, 0] = torch.nan
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="is nan"):
        log_posterior(ps.classifier(bnn, 25), bnn.guide, data)


def test_prior_part_of_a_large_float32_network_is_resolved():
    net = torch.nn.Linear(1000, 500, bias=False)
    bnn = ps.lift(net, ps.Gaussian(scale=0.7))
    model = ps.classifier(bnn, n=2)
    data = (torch.randn(2, 1000), torch.tensor([0, 1]))
    before = log_posterior(model, bnn.guide, data)
    mask = torch.ones(500, 1000, dtype=torch.bool)
    mask[3, 7] = False
    gone = float(net.weight[3, 7].detach())
    bnn.zero({"weight": mask})
    after = log_posterior(model, bnn.guide, data)
    expected = gone**2 / (2 * 0.7**2)
    assert log_bayes_factor(before, after).prior == pytest.approx(expected, rel=1e-4)
