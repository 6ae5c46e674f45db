"""Models and guides that fit cannot train together are refused before the first step."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrosparse as ps

X = torch.linspace(-1, 1, 12)[:, None]
DATA = (X, X * 2)


def train(model, guide, data=DATA, **options):
    return ps.fit(model, guide, data, epochs=1, progress=False, capture=False, **options)


def test_data_in_place_of_the_guide_are_named():
    model = ps.regressor(ps.lift(nn.Linear(1, 1), ps.Gaussian()), 12)
    with pytest.raises(TypeError, match=r"guide must be callable, got Tensor.*model\.guide"):
        ps.fit(model, *DATA, epochs=1)


@pytest.mark.parametrize("elbo", [None, Trace_ELBO(), TraceEnum_ELBO()])
def test_a_guide_without_a_latent_variable_of_the_likelihood_is_refused(elbo):
    bnn = ps.lift(nn.Linear(1, 1), ps.Gaussian())
    model = ps.regressor(bnn, 12)
    with pytest.raises(ValueError, match=r"does not draw 'noise'.*model\.guide"):
        train(model, bnn.guide, elbo=elbo)
    if not isinstance(elbo, TraceEnum_ELBO):  # it warns where there is nothing to sum out
        train(model, model.guide, elbo=elbo)


def mixture(x, y):
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        which = pyro.sample("which", dist.Bernoulli(0.5)).long()
        pyro.sample("y", dist.Normal(slopes[which] * x[:, 0], 0.1), obs=y[:, 0])


def test_discrete_variables_need_an_elbo_that_sums_them_out():
    guide = AutoNormal(pyro.poutine.block(mixture, hide=["which"]))
    with pytest.raises(ValueError, match=r"does not draw 'which'.*TraceEnum_ELBO"):
        train(mixture, guide, elbo=Trace_ELBO())
    with pytest.raises(ValueError, match=r"does not draw 'which'.*TraceEnum_ELBO"):
        train(config_enumerate(mixture), guide)
    train(config_enumerate(mixture), guide, elbo=TraceEnum_ELBO(max_plate_nesting=1))


def test_data_that_are_partly_observed_need_a_mask():
    bnn = ps.lift(nn.Linear(1, 1), ps.Gaussian())

    def model(x, y):
        mean = bnn(x)
        with pyro.plate("data", len(x)):
            law = dist.Normal(mean[:, 0], 0.1)
            pyro.sample("y", law, obs=y[:, 0], obs_mask=x[:, 0] > 0)

    with pytest.raises(ValueError, match=r"'y_unobserved'.*poutine\.mask"):
        train(model, bnn.guide)
