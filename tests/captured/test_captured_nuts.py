"""NUTS with captured gradients."""

import copy
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch import nn

import pyrosparse as ps
from pyrosparse.captured import CapturedNUTS
from pyrosparse.captured.nuts import CapturedPotential
from tests.linear_gaussian import LinearGaussian


@pytest.fixture(autouse=True)
def double():
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(usual)


def regression():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"), ps.weights(net, "*"))
    x = torch.randn(30, 3)
    return ps.regressor(bnn.eval(), 30), (x, x.sum(1, keepdim=True) + torch.randn_like(x[:, :1]))


def draws(kernel, data, warmup=3, number=3):
    torch.manual_seed(1)
    mcmc = MCMC(kernel, number, warmup_steps=warmup, disable_progbar=True)
    mcmc.run(*data)
    return mcmc.get_samples()


def test_draws_are_those_of_pyro():
    model, data = regression()
    # Short trajectories: rounding grows along them.
    eager = draws(NUTS(model, max_tree_depth=3), data)
    kernel = CapturedNUTS(model, max_tree_depth=3)
    captured = draws(kernel, data)
    assert kernel.captured.fallback is None
    assert sum(one.runs for [one] in kernel.captured.captured.values()) > 10
    assert eager.keys() == captured.keys()
    for name, values in eager.items():
        assert torch.allclose(captured[name], values, rtol=1e-6, atol=1e-8)


def test_draws_have_the_moments_of_the_exact_posterior():
    truth = LinearGaussian(d=2)
    bnn = truth.lifted()
    weights = draws(CapturedNUTS(truth.model(bnn)), truth.data, 100, 600)["weight"].flatten(1)
    mean, covariance = truth.posterior_mean(), truth.precision().inverse()
    # 600 draws, of which NUTS makes at least half as many independent ones; 4 standard errors.
    variances = covariance.diagonal()
    assert ((weights.mean(0) - mean).abs() < 4 * (variances / 300).sqrt()).all()
    error = ((variances[:, None] * variances + covariance**2) / 300).sqrt()
    assert ((weights.T.cov() - covariance).abs() < 4 * error).all()


def test_the_energy_and_its_gradient_are_those_of_the_model():
    model, data = regression()
    kernel = CapturedNUTS(model)
    kernel.setup(5, *data)
    captured, eager = kernel.potential_fn, NUTS(model)
    assert isinstance(captured, CapturedPotential)
    eager.setup(5, *data)
    for seed in range(4):
        torch.manual_seed(seed)
        point = {name: torch.randn_like(one) for name, one in kernel.initial_params.items()}
        found = {name: one.clone().requires_grad_() for name, one in point.items()}
        truth = {name: one.clone().requires_grad_() for name, one in point.items()}
        energy, expected = captured(found), eager.potential_fn(truth)
        (2 * energy).backward()
        (2 * expected).backward()
        torch.testing.assert_close(energy, expected)
        for name in point:
            torch.testing.assert_close(found[name].grad, truth[name].grad)
        with torch.no_grad():
            torch.testing.assert_close(captured(point), expected)
    assert captured.fallback is None and sum(map(len, captured.captured.values())) == 1


def test_a_change_in_the_model_is_seen():
    spread = {"scale": 1.0}

    def model():
        pyro.sample("a", dist.Normal(0.0, spread["scale"]))

    kernel = CapturedNUTS(model)
    kernel.setup(5)
    energies = []
    for scale in (1.0, 1.0, 2.0):
        spread["scale"] = scale
        energy = kernel.potential_fn({"a": torch.ones((), requires_grad=True)})
        energies.append(energy.item())
    expected = [-float(dist.Normal(0.0, scale).log_prob(torch.ones(()))) for scale in (1, 1, 2)]
    assert energies == pytest.approx(expected)


def test_a_model_that_branches_on_its_values_runs_eagerly_with_the_reason():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(0.0, 1.0 if a > 0 else 2.0))

    kernel = CapturedNUTS(model)
    with pytest.warns(UserWarning, match="CapturedNUTS takes eager steps.*reads a tensor's value"):
        captured = draws(kernel, (), 5, 5)
    assert "reads a tensor's value" in kernel.captured.fallback
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eager = draws(NUTS(model), (), 5, 5)
    assert all(torch.equal(captured[name], eager[name]) for name in eager)


def test_it_takes_a_potential_function_and_several_chains():
    start = {"a": torch.zeros(2)}
    kernel = CapturedNUTS(potential_fn=lambda z: (z["a"] ** 2).sum() / 2)
    mcmc = MCMC(kernel, 20, warmup_steps=10, initial_params=start, disable_progbar=True)
    torch.manual_seed(0)
    mcmc.run()
    assert kernel.captured.fallback is None and mcmc.get_samples()["a"].shape == (20, 2)
    with pytest.raises(ValueError, match="leave it out"):
        CapturedNUTS(copy.copy, jit_compile=True)


def test_a_finished_run_is_pickled_and_copied_like_one_of_pyro():
    model, data = regression()
    mcmc = MCMC(CapturedNUTS(model, max_tree_depth=2), 3, warmup_steps=3, disable_progbar=True)
    mcmc.run(*data)
    for other in (pickle.loads(pickle.dumps(mcmc)), copy.deepcopy(mcmc)):
        draws, expected = other.get_samples(), mcmc.get_samples()
        assert all(torch.equal(draws[name], expected[name]) for name in expected)
        potential = other.kernel.potential_fn
        point = {name: value.detach() for name, value in mcmc.kernel.captured.point.items()}
        assert potential is not mcmc.kernel.potential_fn and not potential.captured
        torch.testing.assert_close(potential(point), mcmc.kernel.potential_fn(point))
