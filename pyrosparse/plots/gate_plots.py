"""Plots of gates: which classes share features, and which parts of an image are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from pyrosparse.measure.active_features import ActiveFeatures
from pyrosparse.plots.style import STYLE


def class_correlations(active: Mapping[str, ActiveFeatures]) -> Figure:
    """The correlation of the gates' mean gains between classes, one panel for each target.

    active: from ``active_features`` with classes.

    Raises ValueError if there are no classes, or no targets.

    Source: Lee et al. (2019), figure 3.

    >>> import torch
    >>> gates = ActiveFeatures(torch.ones(3), torch.eye(3))
    >>> len(class_correlations({"fc1.input": gates}).axes)
    2
    """
    if not active:
        raise ValueError("there are no gates to plot")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * len(active) + 0.8, 3.4), layout="constrained")
        axes = figure.subplots(1, len(active), squeeze=False)[0]
        for panel, (name, gates) in zip(axes, active.items(), strict=True):
            image = panel.imshow(gates.class_correlation().numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
            panel.set(title=name, xlabel="class", ylabel="class" if panel is axes[0] else "")
        figure.colorbar(image, ax=list(axes), shrink=0.8, label="correlation of mean gains")
    return figure


def input_regions(
    gates: ActiveFeatures, shape: tuple[int, int], classes: Sequence[int | str] | None = None
) -> Figure:
    """The mean gain of every pixel by class, for gates on the inputs of a network for images.

    gates:   gates of the first layer, from ``active_features`` with classes.
    shape:   height and width of the images, which must be grey, as each gate has one pixel.
    classes: their names; by default numbers.

    Raises ValueError if there are no classes or the shape is not that of the gates.

    Source: Lee et al. (2019), figure 2, right.

    >>> import torch
    >>> len(input_regions(ActiveFeatures(torch.ones(4), torch.ones(2, 4)), (2, 2)).axes)
    3
    """
    if gates.class_mean is None:
        raise ValueError("the data have no classes: give (x, y) with int64 y")
    count, features = gates.class_mean.shape
    if shape[0] * shape[1] != features:
        raise ValueError(f"{features} gates are not the pixels of images of {shape}")
    names = range(count) if classes is None else classes
    columns = min(count, 5)
    rows = -(-count // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.7 * columns + 0.8, 1.9 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel in panels:
            panel.set_axis_off()
        for panel, name, gains in zip(panels, names, gates.class_mean, strict=False):
            image = panel.imshow(gains.view(shape).numpy(), vmin=0, vmax=1, cmap="viridis")
            panel.set_title(str(name))
        figure.colorbar(image, ax=list(panels), shrink=0.7, label="mean gain")
    return figure
