"""The figures of a run: those for which its history and its networks have data."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrosparse.data import Examples
from pyrosparse.diagnostics import calibration, to_datatree
from pyrosparse.measure import active_features, regression_quality
from pyrosparse.methods import BetaBernoulli
from pyrosparse.plots import (
    calibration_plots,
    gate_plots,
    input_plots,
    plots,
    posterior_plots,
    regression_plots,
    size_plots,
    support_plots,
)
from pyrosparse.recipes import Result
from pyrosparse.reports.predictions import predictions


def figures(result: Result, found: Mapping[str, Tensor] | None = None) -> dict[str, Figure]:
    """The plots of a run by the names of their files.

    found: the networks' predictions on the test data; by default ``predictions`` computes them.

    >>> import pyrosparse as ps
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3))
    >>> data = torch.ones(9, 4), torch.arange(9) % 3
    >>> result = ps.compress(net, data, ps.recipes.Magnitude(epochs=2), progress=False)
    >>> list(figures(result))
    ['reliability_diagram', 'learning_curves', 'bayes_factor_parts', 'sparsity_by_layer']
    """
    history, units = result.history, result.compaction.units
    drawn: dict[str, Figure] = {}
    drawn |= _reliability(result, predictions(result) if found is None else found)
    drawn |= _intervals(result)
    drawn |= _kept_inputs(result)
    if {"train_nll", "validation_nll"} & history[-1].keys():
        drawn["learning_curves"] = plots.learning_curves(history, threshold=_threshold(result))
    if units:
        drawn["kept_units"] = size_plots.kept_units(history, units)
        drawn |= _gates_by_class(result) if result.compaction.active else _gate_forests(result)
    for stage in result.stages:
        if any("change" in entry for entry in stage.history):
            drawn |= _support(result, stage.history)
    if any("elbo_gain" in entry for entry in history):
        drawn["elbo_gains"] = plots.elbo_gains(history)
    if "log_bayes_factor" in history[-1]:
        drawn["bayes_factor_parts"] = plots.bayes_factor_parts(history)
    if result.sparsity and not units:
        weights = {name: result.net.get_parameter(name) for name in result.prunable}
        shares = {name: float((one == 0).float().mean()) for name, one in weights.items()}
        drawn["sparsity_by_layer"] = plots.sparsity_by_layer(shares)
    return drawn


def _threshold(result: Result) -> float | None:
    """The threshold on the evidence, in nats per datum, if the recipe has one."""
    threshold: float | None = getattr(result.recipe, "threshold", None)
    per_datum = getattr(result.recipe, "per_datum", True)
    return threshold if threshold is None or per_datum else threshold / result.data.n


def _reliability(result: Result, found: Mapping[str, Tensor]) -> dict[str, Figure]:
    """Calibration on the test data, of the original network (if there is one) and of the result."""
    if not found:
        return {}
    calibrations = {name: calibration(one, result.data.judged.y) for name, one in found.items()}
    return {"reliability_diagram": calibration_plots.reliability_diagram(calibrations)}


def _intervals(result: Result) -> dict[str, Figure]:
    """The calibration of predicted values, under the posterior."""
    if "rmse" not in result.quality:
        return {}
    found = regression_quality(result.model, result.guide, result.data.judged, draws=100)
    judged = {"posterior": found}
    return {
        "pit_histograms": regression_plots.pit_histograms(judged),
        "interval_coverage": regression_plots.interval_coverage(judged),
    }


def _kept_inputs(result: Result) -> dict[str, Figure]:
    """The pixels that the network reads, if a layer has a separate weight for each pixel and some
    pixels are not read."""
    data = result.data.judged
    if not isinstance(data, Examples) or data.x.dim() != 4 or not result.prunable:
        return {}
    first = result.net.get_parameter(result.prunable[0])
    shape = data.x.shape[1:]
    if first.dim() != 2 or first.shape[1] != shape.numel() or shape[0] > 4:
        return {}
    kept = (first != 0).any(0).view(shape)
    return {} if kept.all() else {"kept_inputs": input_plots.kept_inputs(kept)}


def _support(result: Result, history: list[dict[str, Any]]) -> dict[str, Figure]:
    """The convergence of the support, and the kernels before and after pruning."""
    names = {"epoch": "iteration", "validation_accuracy": "accuracy"}
    renamed = [{names.get(key, key): value for key, value in entry.items()} for entry in history]
    drawn = {"convergence": support_plots.convergence(renamed)}
    nets = result.original, result.net
    pairs = [[net.get_parameter(name) for net in nets] for name in result.prunable]
    kernels = [pair for pair in pairs if pair[0].dim() == 4 and min(pair[0].shape[2:]) > 1]
    if kernels:
        drawn["kernels"] = support_plots.kernels_before_and_after(*kernels[0])
    return drawn


def _gate_forests(result: Result) -> dict[str, Figure]:
    """The posterior of each gate, if the extra ``plots`` is installed."""
    data = result.data.train
    if importlib.util.find_spec("arviz_plots") is None or not isinstance(data, Examples):
        return {}
    # The plot shows probabilities: sites of other methods are not log odds.
    entries = result.posterior.guide.entries
    sites = [one.target.site for one in entries if isinstance(one.method, BetaBernoulli)]
    if not sites:
        return {}
    few = data.subset(torch.arange(1))  # gates need no data
    tree = to_datatree(result.posterior, result.model, few)
    return {
        f"gate_forest-{site}": posterior_plots.gate_forest(tree, site, units=20) for site in sites
    }


def _gates_by_class(result: Result) -> dict[str, Figure]:
    """Gates that depend on the input, by class."""
    data, classes = result.data.judged, result.data.classes
    if not classes or not isinstance(data, Examples):
        return {}
    active = active_features(result.posterior, data, classes=len(classes))
    drawn = {"class_correlations": gate_plots.class_correlations(active)}
    first = next(iter(active.values()))
    channels, height, width = data.x.shape[1:] if data.x.dim() == 4 else (0, 0, 0)
    if channels == 1 and len(first.frequency) == height * width:
        drawn["input_regions"] = gate_plots.input_regions(first, (height, width), classes)
    return drawn
