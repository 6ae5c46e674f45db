"""CapturedSVI trains models that are not pyrosparse's as Pyro's own SVI does."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch import Tensor

from pyrosparse.captured import CapturedSVI
from tests.captured.foreign_models import BUILDERS

STEPS = 60

# What runs eagerly: TraceGraph_ELBO has no differentiable loss; the others branch on a draw.
NOT_CAPTURED = {"score-graph", "branching", "stopping"}

# Where rounding grows too much for single precision. With a last bit changed in the parameters
# after one step, all eager, later losses of the Gaussian process move by 1.4e-6 (Cholesky factors);
# the mixture multiplies its logits by 1e4. In double precision the bounds are tighter instead.
DOUBLE = {"gaussian-process", "gaussian-process-sparse", "mixture-guide-zeros"}
LOSS_BOUND = {torch.float32: 1e-6, torch.float64: 1e-11}
STATE_BOUND = {torch.float32: 1e-5, torch.float64: 1e-11}


@dataclass(frozen=True)
class Run:
    """What a training run leaves behind; ``traces`` counts how often model and guide ran."""

    svi: Any
    traces: int
    losses: list[float] = field(repr=False)
    state: dict[str, Tensor] = field(repr=False)
    evaluation: float


@pytest.fixture
def train(monkeypatch):
    """Trains a foreign model from its start, in the precision that it needs."""
    usual = torch.get_default_dtype()

    def run(name: str, kind: Callable[..., Any]) -> Run:
        torch.set_default_dtype(torch.float64 if name in DOUBLE else torch.float32)
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        problem = BUILDERS[name]()
        svi = kind(problem.model, problem.guide, Adam({"lr": 0.01}), problem.elbo)
        traces = 0
        get_traces = type(problem.elbo)._get_traces

        def counted(elbo, *args):
            nonlocal traces
            traces += 1
            return get_traces(elbo, *args)

        with monkeypatch.context() as patch:
            patch.setattr(type(problem.elbo), "_get_traces", counted)
            losses = [svi.step(*batch) for batch in islice(cycle(problem.batches), STEPS)]
        state = dict(pyro.get_param_store().named_parameters())
        for module in problem.modules:
            state |= dict(module.named_buffers())
        state = {key: tensor.detach().clone() for key, tensor in state.items()}
        pyro.set_rng_seed(1)
        return Run(svi, traces, losses, state, svi.evaluate_loss(*problem.batches[0]))

    yield run
    torch.set_default_dtype(usual)


def assert_equal_runs(run: Run, reference: Run, dtype: torch.dtype) -> None:
    typical = median(map(abs, reference.losses))
    losses, expected_losses = (
        [*run.losses, run.evaluation],
        [*reference.losses, reference.evaluation],
    )
    for step, (loss, expected) in enumerate(zip(losses, expected_losses, strict=True)):
        assert isinstance(loss, float)
        bound = LOSS_BOUND[dtype] * max(abs(expected), typical)
        assert abs(loss - expected) <= bound, f"step {step}: {loss}, expected {expected}"
    assert run.state.keys() == reference.state.keys()
    for name, value in run.state.items():
        expected = reference.state[name]
        assert value.dtype == expected.dtype and value.shape == expected.shape, name
        error = ((value - expected).abs() / expected.abs().clamp(min=1)).max().item()
        assert error <= STATE_BOUND[dtype], f"{name}: {error}"


@pytest.mark.parametrize("name", BUILDERS)
def test_trains_as_svi_does(name: str, train):
    eager = train(name, SVI)
    assert eager.traces == STEPS
    assert all(map(math.isfinite, eager.losses)) and len(set(eager.losses)) > STEPS / 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        captured = train(name, CapturedSVI)
    messages = [str(warning.message) for warning in caught]
    reason = captured.svi.fallback
    if name in NOT_CAPTURED:
        assert reason and len(messages) == 1 and reason in messages[0]
        assert captured.losses == eager.losses
        assert all(torch.equal(value, eager.state[key]) for key, value in captured.state.items())
    else:
        assert reason is None and messages == []
        # Model and guide run a few times at the start of either of at most two batch shapes.
        assert captured.traces < STEPS / 5
    assert_equal_runs(captured, eager, torch.float64 if name in DOUBLE else torch.float32)
