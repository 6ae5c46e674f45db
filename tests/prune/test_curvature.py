"""The diagonal of the Fisher information, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.prune.turbo.curvature import curvature
from tests.monte_carlo import assert_mean
from tests.prune.turbo_case import N, data, lifted


def means(bnn: ps.Lifted, model, batch: tuple[Tensor, ...], groups: int = 40) -> Tensor:
    """Means of five independent estimates each: single ones are squares, and skewed."""
    n = len(batch[0])
    draws = [
        curvature(model, bnn, [batch] * 5, ["weight"], examples=5 * n, seed=seed)["weight"] / 5
        for seed in range(groups)
    ]
    return torch.stack(draws)


def test_curvature_of_a_regression():
    bnn = ps.lift(nn.Linear(6, 2), ps.GammaSpikeAndSlab(likelihood="curvature")).double()
    x = data()[0].double()
    y = torch.zeros(N, 2).double()
    drawn = means(bnn, ps.regressor(bnn, N, noise=0.5), (x, y))
    expected = x.square().sum(0) / 0.25
    assert_mean(drawn, expected.expand(2, 6))


def test_curvature_of_a_softmax_layer():
    bnn = ps.lift(nn.Linear(6, 3), ps.GammaSpikeAndSlab(likelihood="curvature")).double()
    x, y = data()
    x = x.double()
    drawn = means(bnn, ps.classifier(bnn, N), (x, y))
    p = bnn.mean_forward(x).softmax(1).detach()
    assert_mean(drawn, (p * (1 - p)).T @ x.square())


def test_curvature_of_some_data_is_scaled_to_all():
    bnn = ps.lift(nn.Linear(6, 1), ps.GammaSpikeAndSlab(likelihood="curvature")).double()
    x = torch.ones(200, 6).double()
    model, some = ps.regressor(bnn, 200, noise=1.0), {"names": ["weight"], "examples": 50}
    draws = [curvature(model, bnn, (x, x[:, :1]), seed=seed, **some) for seed in range(100)]
    assert_mean(torch.stack([h["weight"] for h in draws]), 200.0)


def test_curvature_leaves_the_generator_alone():
    bnn = lifted(likelihood="curvature")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*data()), batch_size=20, shuffle=True
    )
    state = torch.get_rng_state()
    curvature(ps.classifier(bnn, N), bnn, loader, ["0.weight"], examples=N, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_curvature_needs_observations():
    bnn = lifted(likelihood="curvature")
    with pytest.raises(ValueError, match="observes nothing"):
        curvature(bnn, bnn, (data()[0],), ["0.weight"], examples=N, seed=0)
