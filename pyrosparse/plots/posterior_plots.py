"""Plots of the posteriors of gates, with arviz-plots."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyrosparse.plots.style import BLUE
from pyrosparse.util.errors import unknown_name


def gate_posteriors(tree: Any, site: str, *, units: int = 100) -> Figure:
    """The posterior of the probability that each gate of a site is open, as distribution functions:
    a step at 0 is a gate that is certainly closed, a step at 1 a gate that is certainly open.

    tree:  from ``pyrosparse.to_datatree``.
    site:  gates whose log odds are sampled, such as ``"fc2.input"`` under ``BetaBernoulli``.
    units: the largest number of gates shown, evenly spaced in rank by posterior mean.

    Raises ValueError for an unknown site and a site without units, ImportError without arviz-plots.

    >>> import torch, pyrosparse as ps
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> bnn = ps.lift(net, ps.BetaBernoulli())
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> tree = ps.to_datatree(bnn, ps.classifier(bnn, 10), data, draws=20)
    >>> len(gate_posteriors(tree, "2.input").axes[0].lines)
    3
    """
    nothing = dict.fromkeys(("point_estimate", "point_estimate_text", "credible_interval"), False)
    shown = _arviz_plots().plot_dist(
        _selected(tree, site, units),
        kind="ecdf",
        cols=["__variable__"],
        aes={"overlay_unit": ["unit"]},
        visuals=nothing | {"dist": {"color": BLUE, "alpha": 0.4}},
        backend="matplotlib",
    )
    figure = _figure(shown)
    figure.axes[-1].set_ylabel("fraction of the draws below")
    return figure


def gate_forest(tree: Any, site: str, *, units: int = 40) -> Figure:
    """Means and intervals (50 % and 94 %) of the probability that each gate of a site is open, one
    line for each unit.

    tree, site, units: as for ``gate_posteriors``.

    Raises ValueError for an unknown site and a site without units, ImportError without arviz-plots.

    >>> import torch, pyrosparse as ps
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> bnn = ps.lift(net, ps.BetaBernoulli())
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> tree = ps.to_datatree(bnn, ps.classifier(bnn, 10), data, draws=20)
    >>> gate_forest(tree, "2.input").axes[-1].get_xlabel()
    'probability that the unit passes'
    """
    shown = _arviz_plots().plot_forest(
        _selected(tree, site, units),
        combined=True,
        point_estimate="mean",
        ci_kind="eti",
        ci_probs=(0.5, 0.94),
        backend="matplotlib",
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
    """A tree with the probabilities of some of a site's units, sorted by their means."""
    # Here, not at the top: importing xarray takes half a second.
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
    passes = np.exp(-np.logaddexp(0, -chosen))  # the sigmoid, without overflow
    return DataTree.from_dict({"posterior": passes.to_dataset(name=site)})


def _figure(shown: Any) -> Figure:
    # Here, not at the top: our own figures need no pyplot.
    from matplotlib import pyplot

    figure: Figure = shown.viz["figure"].item()
    pyplot.close(figure)  # the caller has it, and pyplot would never release it
    figure.axes[-1].set_xlabel("probability that the unit passes")
    figure.axes[-1].set_xlim(-0.02, 1.02)
    figure.set_layout_engine("constrained")
    return figure
