"""Pruning in programs that are functions, with latent variables of groups and their own guide."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.prune import (
    BayesFactorPruner,
    Pruner,
    ReductionPruner,
    TurboPruner,
    connection_sensitivity,
)

N = 60
GENERATOR = torch.Generator().manual_seed(0)
X, GROUPS = torch.randn(N, 4, generator=GENERATOR), torch.arange(N) % 3
Y = X[:, 0] + GROUPS


def hierarchical(*networks: ps.Lifted) -> tuple[Any, Any]:
    """The sum of networks and of an effect of each group."""

    def model(x: Tensor, groups: Tensor, y: Tensor) -> None:
        with pyro.plate("groups", 3):
            effects = pyro.sample("effects", dist.Normal(0.0, 3.0))
        mean = sum(network(x).squeeze(-1) for network in networks) + effects[groups]
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=y)

    rest = AutoNormal(poutine.block(model, expose=["effects"]))

    def guide(x: Tensor, groups: Tensor, y: Tensor) -> None:
        rest(x, groups, y)
        for network in networks:
            network.guide(x)

    return model, guide


def lifted(method: ps.Method, name: str = "") -> ps.Lifted:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return ps.lift(net, method, name=name) if name else ps.lift(net, method)


def left(bnn: ps.Lifted) -> int:
    """How many weights are neither zero nor frozen at zero."""
    return sum(
        int((entry.mask * bnn.net.get_parameter(entry.target.name)).count_nonzero())
        for entry in bnn.guide.entries
    )


def train(model: Any, guide: Any, *callbacks: ps.infer.Callback, **options: Any) -> ps.infer.Fit:
    options = {"epochs": 3, "batch_size": 20, "progress": False} | options
    return ps.fit(model, guide, (X, GROUPS, Y), callbacks=callbacks, **options)


NORMAL = ps.Gaussian(posterior="normal")


@pytest.mark.parametrize(
    ("method", "pruner"),
    [
        (NORMAL, Pruner("magnitude", 0.5)),
        (NORMAL, Pruner("snip", 0.5)),
        (NORMAL, BayesFactorPruner("magnitude", 0.5)),
        (NORMAL, ReductionPruner(fraction=0.5, warmup=1)),
        (ps.GammaSpikeAndSlab(), TurboPruner(active=lambda progress: 0.5)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_network_is_pruned_and_the_rest_is_trained(method, pruner):
    bnn = lifted(method)
    model, guide = hierarchical(bnn)
    before = train(model, guide, epochs=1)
    effects = next(p for name, p in before.parameters.items() if "effects" in name).clone()
    assert left(bnn) == 40
    run = train(model, guide, pruner)
    assert left(bnn) <= 20
    assert run.lifted is bnn
    trained = next(p for name, p in run.parameters.items() if "effects" in name)
    assert not torch.equal(trained, effects)


def test_a_network_in_evaluation_mode_is_trained_in_training_mode():
    bnn = lifted(NORMAL).eval()
    modes = []
    bnn.net.register_forward_pre_hook(lambda *_: modes.append(bnn.net.training))
    model, guide = hierarchical(bnn)
    train(model, guide, capture=False, epochs=1)
    assert all(modes[-3:])


def test_of_two_networks_none_is_taken_for_the_one():
    model, guide = hierarchical(lifted(NORMAL, "a"), lifted(NORMAL, "b"))
    train(model, guide, epochs=1)
    with pytest.raises(TypeError, match="guide and model use 2"):
        train(model, guide, Pruner("magnitude", 0.5))


@pytest.mark.parametrize("method", [NORMAL, ps.GammaSpikeAndSlab()], ids=repr)
def test_weights_of_which_another_guide_draws_are_not_pruned(method):
    bnn = lifted(method)
    model = ps.regressor(bnn, N, noise=0.3)
    pruner = TurboPruner() if method is not NORMAL else Pruner("magnitude", 0.5)
    guide = AutoNormal(model)
    with pytest.raises(ValueError, match="own guide"):
        ps.fit(model, guide, (X, Y[:, None]), epochs=1, callbacks=[pruner], progress=False)


def test_weights_of_which_another_guide_draws_are_not_scored():
    bnn = lifted(NORMAL)
    model = ps.regressor(bnn, N, noise=0.3)
    guide = AutoNormal(model)
    with pytest.raises(ValueError, match="does not call the lifted network's own guide"):
        connection_sensitivity(model, bnn, (X, Y[:, None]), guide=guide)
