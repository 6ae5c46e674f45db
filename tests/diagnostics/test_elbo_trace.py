"""The test of convergence: its size on traces that stand still, its power on those that do not."""

import pytest
import torch

import pyrosparse as ps
from pyrosparse.diagnostics import elbo_trace
from tests.nets import batch, mlp


def autoregressive(steps: int, memory: float) -> list[float]:
    noise, value, values = torch.randn(steps + 100).tolist(), 0.0, []
    for shock in noise:
        value = memory * value + shock
        values.append(value)
    return values[100:]


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_a_trace_that_stands_still_is_rarely_said_to_rise(memory):
    traces = [elbo_trace(autoregressive(400, memory)) for _ in range(300)]
    wrong = sum(not trace.converged for trace in traces) / 300
    # z is standard normal: above 2 with probability 0.0228, here within 4 standard errors.
    assert wrong < 0.0228 + 4 * (0.0228 / 300) ** 0.5
    assert sum(trace.z for trace in traces) / 300 == pytest.approx(0, abs=4 / 300**0.5)


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_a_trace_that_rises_is_found(memory):
    for _ in range(20):
        losses = [x - 0.05 * step for step, x in enumerate(autoregressive(400, memory))]
        trace = elbo_trace(losses)
        assert not trace.converged
        assert trace.gain == pytest.approx(5.0, abs=4 * trace.standard_error)


def test_the_history_of_fit_counts_from_the_end_of_the_warm_up():
    bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal"))
    run = ps.fit(
        ps.classifier(bnn, 7), bnn.guide, batch("mlp"), epochs=60, kl_warmup=15, progress=False
    )
    assert len(elbo_trace(run.history).elbo) == 45
    assert float(elbo_trace(run.history).elbo[-1]) == -run.history[-1]["loss"]


def test_short_and_broken_traces_are_refused():
    with pytest.raises(ValueError, match="there are 39 values"):
        elbo_trace([1.0] * 39)
    with pytest.raises(ValueError, match="there are 0 values"):
        elbo_trace([])
    with pytest.raises(ValueError, match="1 of the losses"):
        elbo_trace([1.0] * 50 + [torch.nan])
    assert elbo_trace([1.0] * 50).converged
