"""Regression before and after compression in one table: error, likelihood, CRPS, coverage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyrosparse.diagnostics.guides import guides_by_name
from pyrosparse.diagnostics.table import text_table
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.lifting.lift import Lifted
from pyrosparse.measure import RegressionQuality, regression_quality
from pyrosparse.measure.regression import LEVELS
from pyrosparse.measure.report import point_quality
from pyrosparse.models.latents import guide_of


class RegressionQualities(dict[str, RegressionQuality]):
    """Scores by the name of the model; printed as a table."""

    def __repr__(self) -> str:
        shown = [f"{name} {one.elpd:.1f} +- {one.elpd_se:.1f}" for name, one in self.items()]
        return f"RegressionQualities, elpd in nats: {', '.join(shown)}"

    def __str__(self) -> str:
        names = ["model", "RMSE", "NLL", "CRPS", *(f"{100 * level:g} %" for level in LEVELS)]
        rows = []
        for name, one in self.items():
            scores = [f"{value:.4f}" for value in (one.rmse, one.nll, one.crps)]
            covered = [f"{100 * one.coverage(level):.1f} %" for level in LEVELS]
            rows.append([name, *scores, *covered])
        return text_table(names, rows) + "\nthe last columns: how much the central intervals cover"


def regression_qualities(
    models: Mapping[str, Any],
    data: Any,
    *,
    guide: Mapping[str, Callable[..., Any]] | None = None,
    draws: int = 100,
    seed: int = 0,
    batch_size: int = 1000,
) -> RegressionQualities:
    """RMSE, negative log likelihood, CRPS and interval coverage of several models.

    models: by name, Pyro models with a ``network`` that observe values, such as ``regressor`` and
            ``counts``. A model around a lifted network averages over draws of its posterior; around
            any other (``ps.models.around(model, small)``) it predicts with that network's weights.
    data:   test data, as for ``compare_models``; the same for all.
    guide:  the guides with which the models were trained, by the name of the model; by default the
            model's own if it learns more than the network, otherwise the lifted network's.

    Raises ValueError as ``pyrosparse.measure.regression_quality`` does, and if a guide has no
    model.

    >>> import torch, pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 1), ps.Gaussian(posterior="normal"))
    >>> data = (torch.randn(10, 4), torch.randn(10, 1))
    >>> found = regression_qualities({"line": ps.regressor(bnn, 10, noise=1.0)}, data, draws=5)
    >>> str(found).split()[:4]
    ['model', 'RMSE', 'NLL', 'CRPS']
    """
    data = Repeated.of(data)
    guides = guides_by_name(guide, models)
    found = RegressionQualities()
    for name, model in models.items():
        network = getattr(model, "network", None)
        if name not in guides and not isinstance(network, Lifted):
            found[name] = point_quality(model, data, batch_size)
            continue
        drawn_from = guides[name] if name in guides else guide_of(model, network)
        options: dict[str, Any] = {"draws": draws, "seed": seed, "batch_size": batch_size}
        found[name] = regression_quality(model, drawn_from, data, **options)
    return found
