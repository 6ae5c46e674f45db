"""Networks sharded by FSDP2, here over a group of one process: gates work, the rest is refused."""

from collections.abc import Iterator

import pyro
import pytest
import torch
import torch.distributed as dist
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import pyrosparse as ps
from pyrosparse.evidence import evaluate


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(8) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def shard(net: nn.Sequential) -> nn.Sequential:
    mesh = init_device_mesh("cpu", (1,))
    for place in (0, 2):
        fully_shard(net[place], mesh=mesh)
    return net


def gates(net: nn.Module, steps: int = 3) -> tuple[ps.Lifted, list[float]]:
    """Some steps by hand, and what they left."""
    bnn = ps.lift(net, ps.BetaBernoulli())
    model, elbo = ps.classifier(bnn, len(X)), TraceMeanField_ELBO()
    adam = torch.optim.Adam(bnn.parameters(), lr=0.01)
    losses = []
    for step in range(steps):
        pyro.set_rng_seed(step)
        losses.append(elbo.loss_and_grads(model, bnn.guide, X, Y))
        adam.step()
        adam.zero_grad()
    losses.append(evaluate(model, bnn.guide, (X, Y))["nll"])
    return bnn, losses


def test_gates_train_on_sharded_layers_as_on_whole_ones() -> None:
    sharded, losses = gates(shard(network()))
    whole, expected = gates(network())
    assert losses == pytest.approx(expected, rel=1e-12)
    masks = sharded.masks()
    for key, mask in whole.masks().items():
        torch.testing.assert_close(masks[key], mask, rtol=1e-12, atol=1e-12)
    sharded.freeze(masks)


def test_methods_of_weights_are_refused() -> None:
    with pytest.raises(TypeError, match=r"needs them whole: 0.weight \(DTensor\).*method of gates"):
        ps.lift(shard(network()), ps.Gaussian())
    net = network()
    bnn = ps.lift(net, ps.Gaussian())
    shard(net)
    with pytest.raises(TypeError, match="needs them whole"):
        TraceMeanField_ELBO().loss(ps.classifier(bnn, len(X)), bnn.guide, X, Y)


def test_fit_is_refused() -> None:
    bnn = ps.lift(shard(network()), ps.BetaBernoulli())
    with pytest.raises(TypeError, match=r"every rank has whole: .*fully_shard.*docs/scale.md"):
        ps.fit(ps.classifier(bnn, len(X)), bnn.guide, (X, Y), epochs=1, progress=False)


def test_compact_is_refused() -> None:
    net = shard(network())
    with pytest.raises(TypeError, match=r"compact reads whole weights: 0.*Gather"):
        ps.compact(net, ps.lift(net, ps.BetaBernoulli()).masks(), X[:1])


def test_captured_steps_are_eager_ones() -> None:
    bnn = ps.lift(shard(network()), ps.BetaBernoulli())
    svi = ps.captured.CapturedSVI(
        ps.classifier(bnn, len(X)),
        bnn.guide,
        lambda parameters: torch.optim.Adam(parameters.values(), lr=0.01),
        TraceMeanField_ELBO(),
    )
    with pytest.warns(UserWarning, match="takes eager steps: .*sharded"):
        losses = [svi.step(X, Y) for _ in range(3)]
    assert svi.eager_steps == 3
    assert torch.tensor(losses).isfinite().all()
