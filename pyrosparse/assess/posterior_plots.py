"""Plots of the posteriors of gates, by arviz-plots."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from matplotlib.figure import Figure

from pyrosparse.errors import unknown_name


def gate_posteriors(tree: Any, site: str, *, units: int = 20) -> Figure:
    """The posterior density of a site's gates, a ridge a unit.

    tree:  of ``pyrosparse.to_datatree``; its gates are log odds, as they are sampled.
    site:  a variable of its posterior with one dimension, such as ``"fc2.input"``.
    units: show at most so many, at even steps of rank by posterior mean from the lowest.

    Raises ValueError on unknown sites and ones without units, ImportError without arviz-plots.

    >>> import torch, pyrosparse as ps
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> bnn = ps.lift(net, ps.BetaBernoulli())
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> tree = ps.to_datatree(bnn, ps.classifier(bnn, 10), data, draws=20)
    >>> gate_posteriors(tree, "2.input").axes[-1].get_xlabel()
    'log odds'
    """
    arviz_plots = _arviz_plots()
    shown = arviz_plots.plot_ridge(
        _selected(tree, site, units), combined=True, backend="matplotlib"
    )
    return _figure(shown)


def gate_forest(tree: Any, site: str, *, units: int = 40) -> Figure:
    """Means and intervals (50 % and 94 %) of a site's gates, a line a unit.

    tree, site, units: as for ``gate_posteriors``.

    Raises ValueError on unknown sites and ones without units, ImportError without arviz-plots.

    >>> import torch, pyrosparse as ps
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> bnn = ps.lift(net, ps.BetaBernoulli())
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> tree = ps.to_datatree(bnn, ps.classifier(bnn, 10), data, draws=20)
    >>> gate_forest(tree, "2.input").axes[-1].get_xlabel()
    'log odds'
    """
    arviz_plots = _arviz_plots()
    shown = arviz_plots.plot_forest(
        _selected(tree, site, units), combined=True, ci_probs=(0.5, 0.94), backend="matplotlib"
    )
    return _figure(shown)


def _arviz_plots() -> ModuleType:
    try:
        import arviz_plots
    except ImportError as error:
        raise ImportError(
            f"this plot needs arviz-plots: pip install 'pyrosparse[plots]' ({error})"
        ) from error
    return arviz_plots


def _selected(tree: Any, site: str, units: int) -> Any:
    """A tree of one variable, of some of its units in the order of their means."""
    from xarray import DataTree

    posterior = tree["posterior"].to_dataset()
    if site not in posterior:
        raise unknown_name("variable of the posterior", site, map(str, posterior))
    variable = posterior[site]
    if variable.ndim != 3:
        raise ValueError(
            f"{site!r} has the dimensions {', '.join(map(str, variable.dims))}; a gate has chain, "
            "draw and unit"
        )
    if units < 1:
        raise ValueError(f"units must be positive, got {units}")
    unit = variable.dims[2]
    order = variable.mean(("chain", "draw")).argsort().to_numpy()
    count = min(units, len(order))
    some = [order[round(at * (len(order) - 1) / max(count - 1, 1))] for at in range(count)]
    chosen = variable.isel({unit: some}).rename({unit: "unit"})
    return DataTree.from_dict({"posterior": chosen.to_dataset()})


def _figure(shown: Any) -> Figure:
    figure: Figure = shown.viz["figure"].item()
    figure.axes[-1].set_xlabel("log odds")
    return figure
