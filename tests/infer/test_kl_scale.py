"""The weight on the KL divergence."""

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyrosparse as ps
from pyrosparse.infer import kl_scale
from tests.linear_gaussian import LinearGaussian, set_posterior
from tests.nets import batch, mlp


def latent_scaled(program, scale: float):
    """The same weight, spelled with Pyro's own scale on the latent sites alone."""

    def scaled(x, y=None):
        with poutine.scale(scale=scale):
            return program(x)

    return scaled


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("scale", [0.01, 0.5, 1.0, 3.0])
def test_only_latent_sites_are_scaled(elbo, scale):
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal", initial_scale=0.2))
    x, y = batch("mlp")
    scaled = ps.classifier(latent_scaled(bnn, scale), 70)
    losses = []
    with torch.no_grad():
        for model, guide in (
            (kl_scale(scale)(ps.classifier(bnn, 70)), kl_scale(scale)(bnn.guide)),
            (scaled, latent_scaled(bnn.guide, scale)),
        ):
            torch.manual_seed(1)
            losses.append(elbo().loss(model, guide, x, y))
        torch.manual_seed(1)
        with kl_scale(scale=scale):
            losses.append(elbo().loss(ps.classifier(bnn, 70), bnn.guide, x, y))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_loss_is_the_energy_plus_the_weighted_divergence(scale):
    truth = LinearGaussian()
    bnn = truth.lifted()
    loc, deviation = torch.tensor([0.3, 0.4, -1.0]).double(), torch.full((3,), 0.2).double()
    set_posterior(bnn, loc, deviation)

    def loss(weight: float) -> float:
        torch.manual_seed(1)
        with kl_scale(scale=weight), torch.no_grad():
            return TraceMeanField_ELBO().loss(truth.model(bnn), bnn.guide, *truth.data)

    ratio = deviation / truth.prior
    kl = (0.5 * (ratio.square() + (loc / truth.prior).square() - 1) - ratio.log()).sum()
    assert loss(1.0) - loss(scale) == pytest.approx((1 - scale) * kl.item(), rel=1e-9)
