"""Every test, and every example in a docstring, starts from the same random state and an empty Pyro
param store."""

import gc
import os
from collections.abc import Iterator

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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is made while tests are collected stays until the end: 740 000 objects, in which Python
    would look for garbage again and again."""
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


@pytest.fixture(autouse=True)
def fresh_state():
    torch.manual_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
