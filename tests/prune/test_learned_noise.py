"""Models with latent variables beside the network, such as a learned noise: the guide that draws
them is the default."""

from __future__ import annotations

import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.prune import TurboVBI, connection_sensitivity, prune_batch
from pyrosparse.prune.turbo.curvature import curvature

N = 40


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, generator=generator)
    return x, x[:, :1] + 0.1 * torch.randn(N, 1, generator=generator)


def regression(method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    bnn = ps.lift(net, method)
    return bnn, ps.regressor(bnn, N)


def test_snip_takes_the_noise_of_its_guide():
    bnn, model = regression(ps.Gaussian())
    found = connection_sensitivity(model, bnn, data())
    expected = connection_sensitivity(model, bnn, data(), guide=model.guide)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_curvature_takes_the_noise_of_its_guide():
    bnn, model = regression(ps.GammaSpikeAndSlab(likelihood="curvature"))
    some = {"names": ["0.weight"], "examples": N, "seed": 0}
    found = curvature(model, bnn, data(), **some)["0.weight"]
    with torch.no_grad():
        model.noise.loc += torch.tensor(2.0).log()  # twice the noise, a quarter of h
    torch.testing.assert_close(4 * curvature(model, bnn, data(), **some)["0.weight"], found)


def test_evidence_of_batches_is_that_of_the_whole_model():
    bnn, model = regression(ps.Gaussian(posterior="normal"))
    batch = prune_batch(model, bnn, data(), draws=4, fraction=0.1)
    other, same = regression(ps.Gaussian(posterior="normal"))
    expected = prune_batch(same, other, data(), draws=4, fraction=0.1, guide=same.guide)
    assert torch.equal(batch.after.draws, expected.after.draws)


def test_turbo_vbi_learns_the_noise():
    bnn, model = regression(ps.GammaSpikeAndSlab(likelihood="curvature"))
    turbo = TurboVBI(model, bnn, torch.optim.Adam(model.parameters(), lr=1e-2))
    before = model.noise.loc.clone()
    for _ in range(3):
        turbo.step(*data())
    turbo.exchange(data())
    assert not torch.equal(before, model.noise.loc)


def test_turbo_vbi_refuses_a_guide_that_does_not_train_its_posterior():
    bnn, model = regression(ps.GammaSpikeAndSlab())
    guide = AutoNormal(model)
    guide(*data())
    adam = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-2)
    turbo = TurboVBI(model, bnn, adam, guide=guide)
    with pytest.raises(ValueError, match="does not call the lifted network's own guide"):
        turbo.step(*data())


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.Snip(epochs=2, batch_size=20),
        pytest.param(
            recipes.TurboUnitsFirst(pretrain=1, epochs=2, fine_tune=1, active=0.3, batch_size=20),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_recipes_prune_a_regression(recipe):
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    result = ps.compress(net, data(), recipe, progress=False)
    assert result.sparsity > 0.3
