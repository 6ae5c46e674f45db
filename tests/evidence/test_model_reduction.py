"""Model reduction against exact evidence of linear-Gaussian models."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import pyrosparse as ps
from pyrosparse.evidence import (
    elbo,
    elbo_difference,
    group_reduction,
    model_reduction,
    reduced_posterior,
    reductions,
)
from tests.linear_gaussian import LinearGaussian
from tests.methods.gates import LogNormalGate
from tests.monte_carlo import assert_mean
from tests.nets import cnn, mlp

NOISE, PRIOR = 0.7, 1.3


class Regression:
    """y = X w + noise with unit columns of correlation rho, w ~ N(0, diag(prior^2)); float64."""

    def __init__(self, rho: float, n: int = 40, d: int = 6, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        white = torch.randn(n, d, generator=generator, dtype=torch.float64)
        common = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        self.x = math.sqrt(rho) * common + math.sqrt(1 - rho) * white
        if rho == 0:
            self.x = torch.linalg.qr(white).Q * math.sqrt(n)
        weight = torch.randn(d, generator=generator, dtype=torch.float64)
        weight *= torch.rand(d, generator=generator) < 0.5
        noise = torch.randn(n, generator=generator, dtype=torch.float64)
        self.y = self.x @ weight + NOISE * noise
        self.d = d
        self.precision = self.x.T @ self.x / NOISE**2 + torch.eye(d).double() / PRIOR**2
        self.covariance = torch.linalg.inv(self.precision)
        self.mean = self.covariance @ self.x.T @ self.y / NOISE**2
        self.mean_field = self.precision.diagonal().rsqrt()
        self.marginal = self.covariance.diagonal().sqrt()

    def log_evidence(self, scale: Tensor, loc: Tensor | float = 0.0) -> float:
        """log p(y) under w ~ N(loc, diag(scale^2)); a scale of 0 leaves a weight out."""
        identity = torch.eye(len(self.y), dtype=torch.float64)
        covariance = NOISE**2 * identity + (self.x * scale.square()) @ self.x.T
        centre = self.x @ (loc + torch.zeros(self.d, dtype=torch.float64))
        return float(MultivariateNormal(centre, covariance).log_prob(self.y))

    def change(self, gone: list[int], scale: float = 0.0, loc: float = 0.0) -> float:
        """The exact change of log evidence as the weights that go get the prior N(loc, scale^2)."""
        full = torch.full((self.d,), PRIOR, dtype=torch.float64)
        reduced, centre = full.clone(), torch.zeros_like(full)
        reduced[gone], centre[gone] = scale, loc
        return self.log_evidence(reduced, centre) - self.log_evidence(full)

    def mean_field_gap(self, left: list[int]) -> float:
        """By how much the best mean-field ELBO falls short of the log evidence, of the model with
        the weights that are left: KL(q || posterior), the means being equal."""
        precision = self.precision[left][:, left]
        return 0.5 * float(precision.diagonal().log().sum() - precision.logdet())


@pytest.mark.parametrize("width", [0.0, 1e-6, 1e-2, 0.5, PRIOR])
@pytest.mark.parametrize("loc", [0.0, 0.4])
def test_on_orthogonal_designs_it_is_the_exact_change(width: float, loc: float) -> None:
    truth = Regression(rho=0)
    change = model_reduction(
        truth.mean, truth.mean_field, PRIOR, reduced_loc=loc, reduced_scale=width
    )
    exact = [truth.change([j], width, loc) for j in range(truth.d)]
    torch.testing.assert_close(change, double(exact), rtol=1e-12, atol=1e-12)


def test_groups_of_an_orthogonal_design_are_sums() -> None:
    truth = Regression(rho=0)
    change = model_reduction(truth.mean.view(2, 3), truth.mean_field.view(2, 3), PRIOR, dim=1)
    exact = [truth.change([0, 1, 2]), truth.change([3, 4, 5])]
    torch.testing.assert_close(change, double(exact), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("group", [[2], [0, 4], [1, 2, 3, 5], list(range(6))])
def test_the_full_covariance_is_exact_at_any_correlation(rho: float, group: list[int]) -> None:
    truth = Regression(rho)
    covariance = truth.covariance[group][:, group]
    change = group_reduction(truth.mean[group], covariance, PRIOR)
    assert float(change) == pytest.approx(truth.change(group), rel=1e-11, abs=1e-11)
    scales = torch.full((len(group),), PRIOR, dtype=torch.float64)
    assert torch.equal(group_reduction(truth.mean[group], covariance, scales), change)


def test_with_exact_marginals_single_weights_are_exact_but_their_sum_is_not_the_groups() -> None:
    truth = Regression(rho=0.95)
    change = model_reduction(truth.mean, truth.marginal, PRIOR)
    exact = double([truth.change([j]) for j in range(truth.d)])
    torch.testing.assert_close(change, exact, rtol=1e-11, atol=1e-11)
    assert abs(float(change.sum()) - truth.change(list(range(truth.d)))) > 1


def test_biases_on_correlated_designs() -> None:
    exact, mean_field, refitted = [], [], []
    for seed in range(100):
        truth = Regression(rho=0.95, seed=seed)
        mean_field += model_reduction(truth.mean, truth.mean_field, PRIOR).tolist()
        exact += model_reduction(truth.mean, truth.marginal, PRIOR).tolist()  # as shown above
        gap = truth.mean_field_gap(list(range(truth.d)))
        for j in range(truth.d):
            left = [k for k in range(truth.d) if k != j]
            refitted.append(exact[j - truth.d] + gap - truth.mean_field_gap(left))
    prune = double(exact) > 0
    by_reduction, by_refitting = double(mean_field) > 0, double(refitted) > 0
    # Mean-field standard deviations are too small: too little goes, and nothing wrongly.
    assert not (by_reduction & ~prune).any()
    assert (prune & ~by_reduction).sum() > 0.3 * prune.sum()
    # The mean field misses less of a smaller model: too much goes, and nothing is kept wrongly.
    assert not (prune & ~by_refitting).any()
    assert (by_refitting & ~prune).sum() > 0.1 * by_refitting.sum()


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_of_one_weight_it_is_the_change_of_the_elbo_with_the_others_as_they_are(
    orthogonal: bool, gone: int
) -> None:
    truth = LinearGaussian(orthogonal=orthogonal)
    bnn = truth.at_mean_field_optimum()
    q = bnn.guide.entries[0].posterior()
    loc, scale = q["loc"][0].detach().clone(), q["log_scale"][0].detach().exp()
    change = reductions(bnn)["weight"][0, gone]
    left = [j for j in range(3) if j != gone]
    small = LinearGaussian(orthogonal=orthogonal)
    small.x, small.d = truth.x[:, left], 2
    closed = small.elbo(loc[left], scale[left]) - truth.elbo(loc, scale)
    assert float(change) == pytest.approx(closed, abs=1e-9)
    before = elbo(truth.model(bnn), bnn.guide, truth.data, draws=200)
    bnn.freeze({"weight": torch.arange(3).view(1, 3) != gone})
    after = elbo(truth.model(bnn), bnn.guide, truth.data, draws=200)
    assert_mean(elbo_difference(before, after).draws, change)


def test_the_joint_change_of_the_elbo_is_not_the_sum() -> None:
    truth = LinearGaussian(n=40, orthogonal=False)
    truth.x = truth.x[:, :1] + 0.1 * truth.x  # nearly the same three columns
    bnn = truth.at_mean_field_optimum()
    total = float(reductions(bnn, rows=True)["weight"])
    before = elbo(truth.model(bnn), bnn.guide, truth.data, draws=50)
    bnn.freeze({"weight": torch.zeros(1, 3, dtype=torch.bool)})
    gain = elbo_difference(before, elbo(truth.model(bnn), bnn.guide, truth.data, draws=50))
    assert abs(gain.mean - total) > 10 * gain.standard_error


@given(
    st.floats(-3, 3),
    st.floats(1e-3, 2.0),
    st.floats(-1, 1),
    st.floats(0.5, 2.0),
    st.floats(-1, 1),
    st.floats(0.05, 1.0),
)
def test_spikes_of_finite_width_are_bayes_rule(
    loc: float, scale: float, prior_loc: float, prior: float, spike_loc: float, share: float
) -> None:
    # p(D | reduced) / p(D) = integral of q(w) r(w) / p(w), and q r / p over it is the posterior.
    spike = share * prior
    arguments = {"prior_loc": prior_loc, "reduced_loc": spike_loc, "reduced_scale": spike}
    start = torch.tensor(loc, dtype=torch.float64)
    change = model_reduction(start, scale, prior, **arguments)
    new_loc, new_scale = reduced_posterior(start, scale, prior, **arguments)
    assert new_loc.dtype == change.dtype == torch.float64
    w = double([loc, spike_loc, 0.0, 1.7])
    joint = (
        Normal(start, double(scale)).log_prob(w)
        + Normal(double(spike_loc), double(spike)).log_prob(w)
        - Normal(double(prior_loc), double(prior)).log_prob(w)
    )
    expected = Normal(new_loc, new_scale).log_prob(w) + change
    torch.testing.assert_close(joint, expected, rtol=1e-9, atol=1e-7)


def test_a_narrow_spike_tends_to_zero_in_single_precision_too() -> None:
    loc, scale = torch.tensor([0.2, -0.01, 0.0]), torch.tensor([0.05, 0.02, 0.9])
    limit = model_reduction(loc, scale, 1.0)
    expected = scale.double().reciprocal().log() - (loc.double() / scale.double()).square() / 2
    torch.testing.assert_close(limit.double(), expected, rtol=1e-6, atol=1e-6)
    for width in (1e-12, 1e-8):
        torch.testing.assert_close(model_reduction(loc, scale, 1.0, reduced_scale=width), limit)
    new_loc, new_scale = reduced_posterior(loc, scale, 1.0)
    assert torch.equal(new_loc, torch.zeros(3)) and torch.equal(new_scale, torch.zeros(3))


def test_evidence_grows_with_the_log_of_the_priors_width() -> None:
    loc, scale = torch.randn(5).double(), torch.rand(5).double() + 0.1
    change = model_reduction(loc, scale, 20.0) - model_reduction(loc, scale, 2.0)
    torch.testing.assert_close(change, torch.full_like(change, math.log(10)))


def test_a_wider_prior_is_refused_where_it_has_no_posterior() -> None:
    with pytest.raises(ValueError, match="wider than the prior"):
        model_reduction(torch.zeros(2), 1.0, 0.5, reduced_scale=3.0)
    assert model_reduction(torch.zeros(()), 0.1, 0.5, reduced_scale=3.0) < 0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_scales_out_of_range_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"^scale must be positive"):
        model_reduction(torch.zeros(2), torch.tensor([1.0, bad]), 1.0)
    with pytest.raises(ValueError, match="prior_scale must be positive"):
        group_reduction(torch.zeros(2), torch.eye(2), bad)
    if bad != 0:
        with pytest.raises(ValueError, match="reduced_scale must be 0"):
            reduced_posterior(torch.zeros(2), 1.0, 2.0, reduced_scale=bad)


def test_a_matrix_that_is_no_covariance_is_refused() -> None:
    for bad in (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.full((2, 2), math.nan)):
        with pytest.raises(ValueError, match="positive definite"):
            group_reduction(torch.zeros(2), bad, 1.0)


# Of a lifted network


def test_of_a_network_every_weight_and_row_has_its_own() -> None:
    bnn = ps.lift(cnn(), ps.Gaussian(scale=0.5, posterior="normal"))
    bnn.freeze({"0.weight": torch.rand(3, 1, 3, 3) > 0.5})
    q = bnn.guide.entries[0].posterior()
    change, by_row = reductions(bnn), reductions(bnn, rows=True)
    expected = model_reduction(q["loc"], q["log_scale"].exp(), 0.5)
    expected[~bnn.guide.entries[0].mask] = 0
    torch.testing.assert_close(change["0.weight"], expected)
    torch.testing.assert_close(by_row["0.weight"], expected.sum((1, 2, 3)))
    assert by_row["5.weight"].shape == (3,) and not change["5.weight"].requires_grad


@pytest.mark.parametrize("method", [ps.Gaussian(), ps.Horseshoe()])
def test_posteriors_that_are_not_normal_are_refused_by_name(method: ps.Method) -> None:
    with pytest.raises(ValueError, match=r"no normal posterior .* over '0\.weight'"):
        reductions(ps.lift(mlp(), method))


def test_gates_are_left_out() -> None:
    net = mlp()
    normal = ps.Gaussian(posterior="normal")
    both = ps.lift(net, [(normal, ps.weights(net)), (LogNormalGate(), ps.inputs(net))])
    assert set(reductions(both)) == {"0.weight", "2.weight"}
    with pytest.raises(ValueError, match="no weights among its targets"):
        reductions(ps.lift(net, LogNormalGate(), ps.inputs(net)))


def test_a_method_of_ones_own_says_what_its_posterior_is() -> None:
    class Narrow(ps.Gaussian):
        def normal_posterior(self, target, q):
            return q["loc"], q["log_scale"].exp(), torch.full(target.shape, 0.2)

    bnn = ps.lift(nn.Linear(3, 2), Narrow(posterior="normal"))
    same = ps.lift(bnn.net, ps.Gaussian(scale=0.2, posterior="normal"))
    torch.testing.assert_close(reductions(bnn)["weight"], reductions(same)["weight"])


def double(values: float | list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
