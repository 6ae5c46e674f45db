"""Captured steps that inductor compiles, and what they take in memory."""

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from pyrosparse.captured import CapturedSVI, compilation
from pyrosparse.captured.graph import _as_function as make_program
from tests.benchmarks.svi_step import measure_memory

compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="inductor needs a C++ compiler"
)


def make(**options) -> CapturedSVI:
    torch.manual_seed(0)
    # No bias before the batch normalisation: its gradient would be rounding noise alone.
    layers = nn.Linear(90, 80, bias=False), nn.BatchNorm1d(80), nn.ReLU(), nn.Linear(80, 3)
    net = nn.Sequential(*layers)
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"))
    elbo = TraceMeanField_ELBO()
    return CapturedSVI(ps.classifier(bnn, 30), bnn.guide, adam, elbo, **options)


def adam(parameters) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters.values(), lr=1e-3, fused=True)


def train(svi: CapturedSVI, steps: int = 30) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 90, generator=generator)
    y = torch.randint(3, (30,), generator=generator)
    torch.manual_seed(2)
    return [svi.step(x, y) for _ in range(steps)]


@pytest.mark.slow  # the compiler takes 20 seconds
@compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of what inductor imports
def test_compiled_steps_train_as_others_do():
    plain, compiled = make(), make(compile=True)
    losses, expected = train(compiled), train(plain)
    assert compilation.INDUCTOR in compiled.explain()
    assert losses == pytest.approx(expected, rel=1e-6)
    found, reference = (svi.model.network.state_dict() for svi in (compiled, plain))
    for name, value in found.items():
        torch.testing.assert_close(value, reference[name], rtol=1e-5, atol=1e-5, msg=name)


def test_a_compiled_program_takes_the_place_of_the_graphs_own(monkeypatch):
    runs = 0

    def counted(graph, inputs):
        run = make_program(graph)

        def program(inputs):
            nonlocal runs
            runs += 1
            return run(inputs)

        return program

    monkeypatch.setattr(compilation, "compiled", counted)
    svi = make(compile=True)
    losses = train(svi)
    assert compilation.INDUCTOR in svi.explain()
    assert runs >= 29  # all but the first, which is eager
    assert losses == train(make())


@pytest.mark.parametrize("fault", ["raises", "wrong"])
def test_what_cannot_be_compiled_runs_as_a_graph_and_says_so(monkeypatch, fault):
    def broken(graph, inputs):
        if fault == "raises":
            raise RuntimeError("no compiler")
        run = make_program(graph)
        return lambda inputs: [result * 1.001 for result in run(inputs)]

    monkeypatch.setattr(compilation, "compiled", broken)
    reason = "RuntimeError: no compiler" if fault == "raises" else "differs in the loss"
    svi = make(compile=True)
    with pytest.warns(UserWarning, match=reason):
        losses = train(svi)
    assert svi.fallback is None and "compiled" not in svi.explain()
    assert losses == train(make())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["point", "mean field, weights", "mean field, activations"])
def test_peak_of_a_captured_step_is_not_above_that_of_an_eager_one(method):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        captured, eager = pool.map(
            measure_memory, [f"784-100-10/{method}"] * 2, ["captured", "pyro"]
        )
    assert captured.peak <= eager.peak
