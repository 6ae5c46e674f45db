"""Plots of the inputs that a network reads."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from pyrosparse.plots.style import GREY, STYLE


def kept_inputs(kept: Tensor) -> Figure:
    """The pixels of an image that a network still reads, one panel for each channel.

    kept: bool, (channels, height, width).

    Raises ValueError for another shape.

    Source: Lee et al. (2019), figure 2, left.

    >>> import torch
    >>> len(kept_inputs(torch.ones(1, 8, 8, dtype=torch.bool)).axes)
    1
    """
    if kept.dim() != 3 or not kept.numel():
        raise ValueError(
            f"(channels, height, width) are needed; got a shape of {tuple(kept.shape)}"
        )
    channels = len(kept)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.8 * channels + 0.4, 3.2), layout="constrained")
        for number, (panel, pixels) in enumerate(
            zip(figure.subplots(1, channels, squeeze=False)[0], kept, strict=True)
        ):
            panel.imshow(pixels.cpu().numpy(), vmin=0, vmax=1, cmap="Blues")
            share = f"{int(pixels.sum()):,} of {pixels.numel():,} pixels"
            panel.set_title(share if channels == 1 else f"channel {number}: {share}", fontsize=9)
            panel.set(xticks=[], yticks=[])
            panel.spines[["top", "right"]].set_visible(True)
            panel.spines[:].set_color(GREY)
    return figure
