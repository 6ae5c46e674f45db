"""Many draws in one pass of the network equal the same draws one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.lifting import together
from pyrosparse.prediction import ClassPrediction, RealPrediction

DRAWS = 12


def mlp(outputs: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 7),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Linear(7, 6),
        nn.ReLU(),
        nn.Linear(6, outputs),
    ).double()


def convolutions() -> nn.Module:
    net = nn.Sequential(
        nn.Unflatten(1, (1, 1, 5)),
        nn.Conv2d(1, 4, (1, 3), padding=(0, 1)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).double()
    net(torch.randn(20, 5).double())  # running statistics that are not those of the start
    return net


class Asks(nn.Module):
    """Asks for the value of a number, which no vmap allows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        return out if float(out.sum()) > 0 else 2 * out


class Compares(nn.Module):
    """Depends on what else was drawn, in a way that vmap does not see."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        Compares.calls += 1
        return self.layer(x) * Compares.calls


NORMAL = ps.Gaussian(posterior="normal", initial_scale=0.3)


def gated(net: nn.Module, method: Any) -> ps.Lifted:
    return ps.lift(net, method, ps.outputs(net))


LIFTED: dict[str, Callable[[], ps.Lifted]] = {
    "weights": lambda: ps.lift(mlp(), NORMAL),
    "horseshoe": lambda: ps.lift(mlp(), ps.Horseshoe(initial_scale=0.2)),
    "spike-and-slab": lambda: ps.lift(mlp(), ps.SpikeAndSlab()),
    "gates": lambda: gated(mlp(), ps.InformationBottleneck(initial_scale=0.3)),
    "uniform gates": lambda: gated(mlp(), ps.StructuredBayesianPruning(initial_scale=0.3)),
    "batch norm": lambda: gated(convolutions(), ps.InformationBottleneck(initial_scale=0.3)),
    "kernels": lambda: ps.lift(convolutions(), NORMAL),
}

ALONE: dict[str, Callable[[], ps.Lifted]] = {
    "gates of each datum": lambda: gated(mlp(), ps.BetaBernoulli()),
    "asks for a value": lambda: ps.lift(Asks(), NORMAL),
}


def both(monkeypatch: pytest.MonkeyPatch, program: nn.Module, lifted: ps.Lifted) -> int:
    """Compare, in batches of 4 of 7 data; returns how often the network ran together."""
    torch.manual_seed(1)
    x, runs = torch.randn(7, 5).double(), [0]
    handle = lifted.net.register_forward_pre_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
    found = ps.predict(program, x, draws=DRAWS, batch_size=4)
    handle.remove()
    state = torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(together, "_FEWEST", 10**9)
        alone = ps.predict(program, x, draws=DRAWS, batch_size=4)
    assert torch.equal(torch.get_rng_state(), state)
    if isinstance(found, ClassPrediction):
        assert isinstance(alone, ClassPrediction)
        one, other = found.log_probabilities, alone.log_probabilities
    else:
        assert isinstance(found, RealPrediction) and isinstance(alone, RealPrediction)
        one, other = found.means, alone.means
        assert torch.allclose(found.variances, alone.variances, rtol=1e-12)
    assert len(one) == DRAWS
    assert float(other.std(0).max()) > 1e-3  # the draws differ
    assert torch.allclose(one, other, rtol=0, atol=1e-12)
    return runs[0]


@pytest.mark.parametrize("name", LIFTED)
def test_draws_together_equal_draws_one_by_one(monkeypatch, name) -> None:
    torch.manual_seed(0)
    bnn = LIFTED[name]()
    assert both(monkeypatch, bnn, bnn) == 4  # the first draw and all together, in two batches


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_run_together_runs_one_by_one(monkeypatch, name) -> None:
    torch.manual_seed(0)
    bnn = ALONE[name]()
    assert both(monkeypatch, bnn, bnn) >= 2 * DRAWS


def test_a_model_with_latents_of_its_own_gets_the_outputs_of_its_draws(monkeypatch) -> None:
    torch.manual_seed(0)
    bnn = ps.lift(mlp(1), NORMAL)
    assert both(monkeypatch, ps.regressor(bnn, 7), bnn) == 4
    bnn = gated(mlp(), ps.InformationBottleneck(initial_scale=0.3))
    assert both(monkeypatch, ps.classifier(bnn, 7), bnn) == 4


def test_a_network_that_gives_something_else_together_runs_one_by_one() -> None:
    torch.manual_seed(0)
    bnn = ps.lift(Compares(), NORMAL)
    ps.predict(bnn, torch.randn(4, 5).double(), draws=DRAWS)
    assert Compares.calls == 1 + 1 + DRAWS - 1  # first, together, and the others


def test_passes_are_as_large_as_is_fast() -> None:
    cpu = torch.device("cpu")

    def one(largest: int, operations: float) -> together.Call:
        return together.Call((), {}, None, largest, operations)

    assert together.draws_a_pass([one(2**20, 1e12)], weights=False, device=cpu) == 16
    assert together.draws_a_pass([one(2**20, 1.0)], weights=True, device=cpu) == 4
    assert together.draws_a_pass([one(2**20, 1e12)], weights=True, device=cpu) == 1
    assert together.draws_a_pass([one(2**21, 1.0)], weights=True, device=cpu) == 1
    assert together.draws_a_pass([], weights=False, device=cpu) == 1
