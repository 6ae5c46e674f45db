"""Every test, and every example in a docstring, starts from the same random state and an empty Pyro
param store."""

import os
from importlib import import_module
from typing import Any

import pyro
import pytest
import torch
from hypothesis import settings

# The same examples in every run, and no time limit on a busy machine.
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("tests")

# Tests run side by side, a process for each core: more threads would only get in one another's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture(autouse=True)
def fresh_state():
    torch.manual_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is around training and measuring: ``fit`` captures no step, which takes as
    long as a hundred small steps, and latencies are of one forward pass."""
    from pyrosparse.infer import Fit

    report = import_module("pyrosparse.measure.report")  # a function has its name
    latency = report.latency

    def shorter(nets: Any, *inputs: Any, repeats: int) -> list[float]:
        return latency(nets, *inputs, repeats=min(repeats, 1), warm_up=0)

    monkeypatch.setattr(Fit, "make_steps", lambda run: None)
    monkeypatch.setattr(report, "latency", shorter)
