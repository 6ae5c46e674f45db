"""Penalties as priors: in the ELBO, out of the likelihood, and without draws of their own."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal

from pyrosparse.distributions import ImproperPriorWarning, Penalty, Point


def lasso(weight: torch.Tensor) -> torch.Tensor:
    return -3 * weight.abs()


def model() -> None:
    weight = pyro.sample("w", Penalty(lasso, torch.zeros(2)))
    pyro.sample("y", dist.Normal(weight, 1.0).to_event(1), obs=torch.tensor([1.0, 2.0]))


def guide() -> None:
    weight = pyro.param("loc", lambda: torch.tensor([0.5, -1.0]))
    pyro.sample("w", Point(weight))


@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO()], ids=["trace", "mean field"])
def test_elbo_is_likelihood_less_penalty(elbo):
    likelihood = dist.Normal(torch.tensor([0.5, -1.0]), 1.0).log_prob(torch.tensor([1.0, 2.0]))
    with torch.no_grad():
        loss = elbo.loss(model, guide)
    assert loss == pytest.approx(3 * 1.5 - float(likelihood.sum()))


def test_scale_weights_it_and_no_site_is_observed():
    trace = poutine.trace(
        poutine.replay(poutine.scale(model, 0.5), poutine.trace(guide).get_trace())
    )
    trace = trace.get_trace()
    trace.compute_log_prob()
    assert not trace.nodes["w"]["is_observed"]
    assert trace.nodes["w"]["log_prob_sum"].item() == pytest.approx(-0.5 * 3 * 1.5)


def test_draws_are_announced_as_none_of_the_prior():
    with pytest.warns(ImproperPriorWarning, match="Penalty is no distribution"):
        poutine.trace(model).get_trace()


def test_autoguide_starts_without_a_warning():
    auto = AutoNormal(model)
    assert torch.isfinite(torch.tensor(Trace_ELBO().loss(model, auto)))


@pytest.mark.parametrize("batch", [(), (4,), (3, 4)])
def test_shapes_follow_plates(batch):
    expanded = Penalty(lasso, torch.zeros(2, 5)).expand(batch)
    assert isinstance(expanded, Penalty) and expanded.batch_shape == batch
    value = torch.randn(*batch, 2, 5)
    assert torch.allclose(expanded.log_prob(value), -3 * value.abs().sum((-2, -1)))
    assert expanded.log_prob(torch.ones(2, 5)).shape == batch
    with pytest.warns(ImproperPriorWarning):
        assert expanded.sample((7,)).shape == (7, *batch, 2, 5)
