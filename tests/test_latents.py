"""Models with latent variables beside the network: learned noise, cutpoints, counts, labels."""

import copy
import math

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import pyrosparse as ps
from pyrosparse.evidence import elbo
from pyrosparse.models.latents import guide_of
from pyrosparse.models.ordinal import ordinal_logits
from tests.linear_gaussian import LinearGaussian
from tests.monte_carlo import assert_mean


def log_likelihood(model, *batch) -> torch.Tensor:
    trace = poutine.trace(model).get_trace(*batch)
    trace.compute_log_prob()
    return trace.nodes["y"]["log_prob_sum"]


def exact_noise(truth: LinearGaussian, prior: torch.distributions.Distribution):
    """Of log sigma given the data: its mean and standard deviation, weights integrated out."""
    log_noise = torch.linspace(-4, 3, 4001, dtype=torch.float64)
    identity, zero = torch.eye(truth.n).double(), torch.zeros(truth.n).double()
    gram = truth.prior**2 * truth.x @ truth.x.T
    covariance = log_noise.mul(2).exp()[:, None, None] * identity + gram
    logs = MultivariateNormal(zero, covariance).log_prob(truth.y[:, 0])
    logs = logs + prior.log_prob(log_noise.exp()) + log_noise  # the density of the logarithm
    weights = logs.softmax(0)
    mean = float((weights * log_noise).sum())
    evidence = float(logs.logsumexp(0)) + math.log(float(log_noise[1] - log_noise[0]))
    return mean, float((weights * (log_noise - mean).square()).sum()) ** 0.5, evidence


def test_learned_noise_is_the_exact_posterior_of_a_linear_gaussian_model():
    truth = LinearGaussian(n=60)
    prior = dist.LogNormal(-1.0, 1.0)
    mean, deviation, evidence = exact_noise(truth, prior)
    bnn = truth.at_mean_field_optimum()
    model = ps.regressor(bnn, truth.n).double()
    ps.fit(
        model, model.guide, truth.data, epochs=600, batch_size=60,
        learning_rate=1e-2, schedule=ps.infer.schedules.cosine(0.01), progress=False,
    )  # fmt: skip
    noise = model.noise
    # Mean field leaves out that noise and weights depend on each other, which is little with 57
    # degrees of freedom: the exact posterior of log sigma has the deviation 0.094.
    assert noise.loc.item() == pytest.approx(mean, abs=0.2 * deviation)
    assert noise.log_scale.exp().item() == pytest.approx(deviation, rel=0.1)
    found = elbo(model, model.guide, truth.data, draws=500)
    gap = evidence - found.mean
    assert -4 * found.standard_error < gap < 0.1  # nats below the evidence


def test_prior_predictive_of_learned_noise_is_the_generative_model():
    truth = LinearGaussian()
    bnn = truth.lifted()
    model = ps.regressor(bnn, truth.n, noise=dist.LogNormal(-1.0, 0.3))
    drawn = Predictive(model, num_samples=4000)(truth.x)
    square = drawn["noise"].square()
    assert_mean(square.double(), math.exp(-2 + 2 * 0.3**2))
    variance = truth.prior**2 * truth.x.square().sum(1) + math.exp(-2 + 2 * 0.3**2)
    assert_mean(drawn["y"][..., 0].square(), variance)


def test_noise_of_each_target_and_its_divergence():
    prior = dist.LogNormal(torch.zeros(2), 1.0).to_event(1)
    bnn = ps.lift(nn.Linear(3, 2), ps.Gaussian(posterior="normal"))
    model = ps.regressor(bnn, 5, noise=prior)
    latent = model.noise
    assert latent.loc.shape == (2,)
    q = poutine.trace(latent.guide).get_trace().nodes["noise"]["fn"]
    expected = kl_divergence(
        torch.distributions.Normal(latent.loc, latent.log_scale.exp()),
        torch.distributions.Normal(torch.zeros(2), 1.0),
    ).sum()
    assert torch.allclose(kl_divergence(q, prior), expected)
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    with poutine.condition(data={"noise": torch.tensor([0.5, 2.0])}):
        with torch.no_grad():
            mean = bnn.mean_forward(x)
        weight = bnn.net.weight.detach()
        with poutine.condition(data={"weight": weight}):
            found = log_likelihood(model, x, y)
    law = torch.distributions.Normal(mean, torch.tensor([0.5, 2.0]))
    assert torch.allclose(found, law.log_prob(y).sum(), atol=1e-4)
    three = ps.regressor(lambda x: x, 5, noise=dist.LogNormal(torch.zeros(3), 1.0).to_event(1))
    with pytest.raises(ValueError, match=r"over \(3,\) standard deviations"):
        three(torch.zeros(5, 2))


@pytest.mark.parametrize(
    ("prior", "error", "told"),
    [
        ("wide", TypeError, "must be a distribution"),
        (dist.Normal(0.0, 1.0), ValueError, "negative"),
        (dist.LogNormal(torch.zeros(2), 1.0), ValueError, "batch shape"),
        (dist.Poisson(1.0), ValueError, "continuous"),
    ],
)
def test_priors_of_noise_that_are_none_are_refused(prior, error, told):
    with pytest.raises(error, match=told):
        ps.regressor(nn.Linear(4, 1), 5, noise=prior)


def test_heteroscedastic_likelihood_by_hand():
    outputs, y = torch.randn(6, 4), torch.randn(6, 2)
    model = ps.heteroscedastic_regressor(lambda x: outputs, 12)
    squares = ((y - outputs[:, :2]) / outputs[:, 2:].exp()).square()
    expected = -(squares / 2 + outputs[:, 2:] + 0.5 * math.log(2 * math.pi)).sum() * 2
    assert torch.allclose(log_likelihood(model, torch.zeros(6, 1), y), expected)
    with pytest.raises(ValueError, match="a mean and the logarithm"):
        ps.heteroscedastic_regressor(lambda x: outputs[:, :3], 12)(torch.zeros(6, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_poisson_likelihood_by_hand(dtype):
    log_rate, y = torch.randn(6, 1), torch.tensor([0, 1, 2, 5, 0, 3]).to(dtype)[:, None]
    rate = log_rate.exp()
    factorials = torch.tensor([math.log(math.factorial(int(k))) for k in y])[:, None]
    expected = (y * log_rate - rate - factorials).sum() * 2
    model = ps.counts(lambda x: log_rate, 12)
    assert torch.allclose(log_likelihood(model, torch.zeros(6, 1), y), expected)


def test_labels_of_several_kinds_by_hand():
    logits = torch.randn(6, 3)
    y = torch.randint(2, (6, 3))
    chosen = torch.where(y == 1, logits.sigmoid(), 1 - logits.sigmoid())
    model = ps.multilabel(lambda x: logits, 12)
    found = log_likelihood(model, torch.zeros(6, 1), y)
    assert torch.allclose(found, 2 * chosen.log().sum())
    with pytest.raises(ValueError, match="use classifier"):
        model(torch.zeros(6, 1), y[:, 0])


def test_ordinal_likelihood_by_hand():
    predictor, cutpoints = torch.randn(6).double(), torch.tensor([-1.0, 0.2, 1.5]).double()
    below = torch.cat(
        [torch.zeros(6, 1), (cutpoints - predictor[:, None]).sigmoid(), torch.ones(6, 1)], 1
    )
    expected = below.diff(dim=1)
    logits = ordinal_logits(predictor, cutpoints)
    assert torch.allclose(logits.exp(), expected)
    y = torch.tensor([0, 1, 2, 3, 3, 0])
    model = ps.ordinal(lambda x: predictor[:, None], 12, classes=4)
    with poutine.condition(data={"cutpoints": cutpoints}):
        found = log_likelihood(model, torch.zeros(6, 1), y)
    assert torch.allclose(found, 2 * expected[torch.arange(6), y].log().sum())
    # Far from all cutpoints a difference of probabilities would be zero, and its logarithm -inf.
    far = ordinal_logits(torch.tensor([40.0]), cutpoints.float())
    assert torch.allclose(far[0], torch.tensor([-41.0, -39.8, -38.5, 0.0]), atol=0.5)


def test_default_cutpoints_make_all_classes_as_probable_and_are_learned():
    prior = ps.ordinal(nn.Linear(2, 1), 5, classes=5).cutpoints
    with torch.no_grad():
        median = dist.transforms.OrderedTransform()(prior.loc)
    # The medians of the draws, with their error: 1001 draws of deviation 1.
    assert torch.allclose(median, (torch.arange(1, 5) / 5).logit(), atol=0.3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator)
    cuts = torch.tensor([-1.0, 0.5])
    logistic = torch.rand(400, generator=generator).logit()
    y = ((2 * x[:, 0] + logistic)[:, None] > cuts).sum(1)
    bnn = ps.lift(nn.Linear(2, 1, bias=False), ps.Gaussian(scale=3.0, posterior="normal"))
    model = ps.ordinal(bnn, 400, classes=3)
    ps.fit(
        model, model.guide, (x, y), epochs=300, batch_size=400, learning_rate=0.02, progress=False
    )
    with torch.no_grad():
        found = dist.transforms.OrderedTransform()(model.cutpoints.loc)
    assert torch.allclose(found, cuts, atol=0.35)  # errors of 400 data are 0.13
    assert bnn.net.weight.detach()[0].tolist() == pytest.approx([2.0, 0.0], abs=0.5)


def test_the_guide_is_complete_and_goes_where_the_model_goes():
    bnn = ps.lift(nn.Linear(3, 1), ps.Gaussian(posterior="normal"))
    model = ps.regressor(bnn, 5)
    assert guide_of(model, bnn) is model.guide
    names = {name for name, _ in model.named_parameters()}
    assert {"noise.loc", "noise.log_scale"} <= names
    twin = copy.deepcopy(model)
    assert twin.guide.lifted is twin.network is not bnn
    twin.double()
    assert twin.noise.prior.loc.dtype == torch.float64
    with torch.no_grad():
        twin.noise.loc.fill_(2.0)
    model.load_state_dict(twin.float().state_dict())
    assert model.noise.loc.item() == 2.0
    data = (torch.randn(5, 3), torch.randn(5, 1))
    assert math.isfinite(elbo(model, model.guide, data, draws=2).mean)


def test_recipes_learn_the_noise_and_hand_it_over():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, generator=generator)
    y = x[:, :1] + 0.2 * torch.randn(300, 1, generator=generator)
    recipe = ps.recipes.ModelReduction(epochs=60, batch_size=60, learning_rate=2e-2, scale=1.0)
    result = ps.compress(
        nn.Linear(3, 1), (x, y), recipe, model=ps.regressor, dense=False, progress=False
    )
    noise = result.model.noise.loc.exp().item()
    assert noise == pytest.approx(0.2, rel=0.3)
    law = torch.distributions.Normal(result.net(result.data.test[0]).detach(), noise)
    expected = -float(law.log_prob(result.data.test[1]).mean())
    assert result.quality["nll"] == pytest.approx(expected, abs=0.05)
