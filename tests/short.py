"""Short runs, for tests of what is around training, measuring and drawing."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

from pyrosparse.infer import Fit


@contextmanager
def short_runs() -> Iterator[None]:
    """Within, ``fit`` captures no step, which takes as long as a hundred small steps, latencies are
    of one forward pass, gates are not drawn for a forest of them, and no figure is made an image.
    """
    report = import_module("pyrosparse.measure.report")  # a function has its name
    plots = import_module("pyrosparse.plots.plots")
    latency = report.latency

    def shorter(nets: Any, *inputs: Any, repeats: int) -> list[float]:
        return latency(nets, *inputs, repeats=min(repeats, 1), warm_up=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "make_steps", lambda run: None)
        patch.setattr(report, "latency", shorter)
        patch.setattr("pyrosparse.reports.figures._gate_forests", lambda result: {})
        patch.setattr(plots, "png", lambda figure: b"")
        patch.setattr(plots, "svg", lambda figure: "<svg></svg>")
        yield
