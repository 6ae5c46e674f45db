"""Plots of structured pruning: kernels before and after, supports, messages, convergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from pyrosparse.plots.style import BLUE, GREEN, GREY, ORANGE, STYLE

PRIOR, EVIDENCE = "prior log-odds", "evidence log-odds"


def kernels_before_and_after(
    before: Tensor, after: Tensor, *, columns: int | None = None
) -> Figure:
    """The kernels of a convolution as images, before and after pruning, on one colour scale.

    before, after: weights of the same shape, (out, in, height, width) floating point. Exact zeros
                   are pruned weights, drawn in grey.
    columns:       the number of kernels in a row; by default the number of inputs, and for a single
                   input the number that makes the image about square. Kernels are in the order of
                   the weight: inputs first.

    Each panel is one image of all kernels, with a blank line (NaN) between neighbours.

    Raises ValueError if the shapes differ or are not those of a convolution, if a weight is not
    finite, and if columns is not positive.

    Source: Xia, Tsang and Lau (2023), figure 8.

    >>> before = torch.ones(6, 1, 5, 5)
    >>> len(kernels_before_and_after(before, before.tril()).axes)
    3
    """
    pair = [_matrix("weights", weight, dims=(4,)) for weight in (before, after)]
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"the weights before and after must be of one shape, got {tuple(before.shape)} and "
            f"{tuple(after.shape)}: give the masked network, because a compact network has lost "
            "kernels"
        )
    outputs, inputs = pair[0].shape[:2]
    if columns is None:
        columns = inputs if inputs > 1 else math.ceil(math.sqrt(outputs))
    if columns < 1:
        raise ValueError(f"columns must be positive, got {columns}")
    largest = float(torch.stack(pair).abs().max()) or 1.0
    mosaics = [_mosaic(weight.flatten(0, 1), columns) for weight in pair]
    height, width = mosaics[0].shape
    side = 4.6
    with matplotlib.rc_context(STYLE):
        size = (2 * side + 1.2, min(max(side * height / width, 1.2), 3 * side) + 0.9)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.08))
        panels = list(figure.subplots(1, 2))
        for panel, name, weight, mosaic in zip(
            panels, ("before", "after"), pair, mosaics, strict=True
        ):
            image = panel.imshow(mosaic.numpy(), vmin=-largest, vmax=largest, cmap="RdBu_r")
            zeros = torch.where(mosaic == 0, 0.0, math.nan)
            panel.imshow(zeros.numpy(), cmap=ListedColormap([GREY]))
            panel.set_axis_off()
            panel.set_title(f"{name}: {float((weight == 0).double().mean()):.1%} pruned")
        figure.colorbar(image, ax=panels, shrink=0.8, label="weight")
        figure.legend(handles=[Patch(color=GREY, label="pruned")], loc="outside lower center")
    return figure


def messages(rounds: Sequence[Mapping[str, Any]]) -> Figure:
    r"""The messages about a weight matrix's support, and its posterior, by turbo iteration.

    rounds: one mapping for each iteration, with ``iteration``, a number, and two matrices of
            log-odds, (rows, columns) floating point, all of the same shape: ``evidence log-odds``,
            from module A to module B, and ``prior log-odds``, from B to A.

    One column for each iteration; from the top the probabilities of the two messages and of the
    posterior,

    .. math:: \mathrm{logit}\, p(s = 1) = \text{prior log-odds} + \text{evidence log-odds} .

    Raises ValueError if there is no iteration, an entry is missing, a matrix has another shape or
    NaN, and if two messages contradict each other with certainty (inf and -inf).

    Source: Xia, Tsang and Lau (2023), figure 11.

    >>> rounds = [{"iteration": 1, "prior log-odds": torch.zeros(4, 3),
    ...            "evidence log-odds": torch.ones(4, 3)}]
    >>> len(messages(rounds).axes)
    4
    """
    if not rounds:
        raise ValueError("there is no iteration to show")
    columns = [_messages_of(entry) for entry in rounds]
    shapes = {tuple(matrix.shape) for column in columns for matrix in column}
    if len(shapes) > 1:
        found = ", ".join(map(str, sorted(shapes)))
        raise ValueError(f"the messages must be matrices of one shape, got {found}")
    labels = ("evidence\n(A to B)", "prior\n(B to A)", "posterior")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.9 * len(rounds) + 1.6, 5.6), layout="constrained")
        panels = figure.subplots(3, len(rounds), squeeze=False)
        for number, (entry, column) in enumerate(zip(rounds, columns, strict=True)):
            for row, matrix in enumerate(column):
                image = _probabilities(panels[row, number], matrix.sigmoid())
            panels[0, number].set_title(f"iteration {entry['iteration']}")
        for panel, label in zip(panels[:, 0], labels, strict=True):
            panel.set_ylabel(label)
        figure.colorbar(image, ax=list(panels.flatten()), shrink=0.8, label="probability")
    return figure


def supports(probabilities: Mapping[str, Tensor]) -> Figure:
    """The probability that each weight is in the support, one image for each layer.

    probabilities: by name of the layer, in [0, 1], (outputs, ...) floating point; for a convolution
                   the inputs and positions of its kernels are side by side.

    Raises ValueError if there are none, if one has no dimension, and if a value is not in [0, 1].

    >>> len(supports({"fc1": torch.rand(4, 3), "fc2": torch.rand(2, 4)}).axes)
    3
    """
    if not probabilities:
        raise ValueError("there is no layer to show")
    images = {}
    for name, given in probabilities.items():
        values = _matrix(name, given, dims=(1, 2, 3, 4, 5))
        if ((values < 0) | (values > 1)).any():
            raise ValueError(
                f"{name!r} has values from {float(values.min()):.4g} to {float(values.max()):.4g}: "
                "probabilities are in [0, 1] (of log-odds take .sigmoid())"
            )
        images[name] = values.flatten(1) if values.dim() > 1 else values[None]
    columns = min(len(images), 4)
    rows = -(-len(images) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.7 * columns + 1, 2.7 * rows), layout="constrained")
        panels = [figure.add_subplot(rows, columns, 1 + number) for number in range(len(images))]
        for panel, (name, values) in zip(panels, images.items(), strict=True):
            image = _probabilities(panel, values)
            panel.set_title(name)
            panel.set(xlabel="inputs", ylabel="outputs")
        figure.colorbar(image, ax=panels, shrink=0.8, label="probability of support")
    return figure


def convergence(history: Sequence[Mapping[str, Any]]) -> Figure:
    """The convergence of a turbo algorithm: one panel for each recorded quantity, by iteration.

    history: one mapping for each iteration, with ``iteration`` and any of these quantities, in some
             iterations or in all: ``loss``; ``change``, the relative change of the support's prior,
             on a logarithmic axis; ``kept``, the share of weights that are more probably in the
             support than not; ``accuracy``, in [0, 1].

    Raises ValueError if there is no iteration, if one has no number, and if none of these
    quantities was recorded.

    Source: Xia, Tsang and Lau (2023), figure 10.

    >>> history = [{"iteration": 1, "loss": 3.0}, {"iteration": 2, "loss": 2.0, "change": 0.1}]
    >>> [panel.get_ylabel() for panel in convergence(history).axes]
    ['loss', 'relative change']
    """
    if not history:
        raise ValueError("the history is empty: there is no iteration to show")
    if not all("iteration" in entry for entry in history):
        raise ValueError("every entry of the history needs its number, 'iteration'")
    known = {
        "loss": ("Loss", "loss", BLUE),
        "change": ("Change of the prior", "relative change", ORANGE),
        "kept": ("Weights in the support", "share of the weights", GREEN),
        "accuracy": ("Accuracy", "accuracy", BLUE),
    }
    recorded = [key for key in known if any(key in entry for entry in history)]
    if not recorded:
        raise ValueError(
            f"the history has none of {', '.join(known)}; it has {', '.join(history[0])}"
        )
    iterations = [entry["iteration"] for entry in history]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(recorded), 3.2), layout="constrained")
        panels = figure.subplots(1, len(recorded), squeeze=False, sharex=True)[0]
        for panel, key in zip(panels, recorded, strict=True):
            title, label, colour = known[key]
            values = [float(entry.get(key, math.nan)) for entry in history]
            panel.plot(iterations, values, "o-", color=colour)
            panel.set(title=title, xlabel="iteration", ylabel=label)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            if key in ("kept", "accuracy"):
                panel.yaxis.set_major_formatter(PercentFormatter(1))
            elif key == "change" and any(value > 0 for value in values):
                panel.set_yscale("log")
    return figure


def _probabilities(panel: Axes, values: Tensor) -> Any:
    panel.set(xticks=[], yticks=[])
    # Square panels, whatever the shape: layers with 10 outputs and 4096 inputs are common.
    return panel.imshow(values.numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")


def _messages_of(entry: Mapping[str, Any]) -> list[Tensor]:
    if missing := [key for key in ("iteration", PRIOR, EVIDENCE) if key not in entry]:
        raise ValueError(f"an iteration lacks {', '.join(map(repr, missing))}")
    evidence, prior = (
        _matrix(f"{key} of iteration {entry['iteration']}", entry[key], dims=(2,), finite=False)
        for key in (EVIDENCE, PRIOR)
    )
    if evidence.shape != prior.shape:
        raise ValueError(
            f"the messages of iteration {entry['iteration']} must be of one shape, got "
            f"{tuple(evidence.shape)} and {tuple(prior.shape)}"
        )
    posterior = evidence + prior
    if posterior.isnan().any():
        raise ValueError(
            f"the messages of iteration {entry['iteration']} contradict each other: one is inf "
            "where the other is -inf"
        )
    return [evidence, prior, posterior]


def _matrix(name: str, given: Any, dims: tuple[int, ...], finite: bool = True) -> Tensor:
    """A tensor to draw, float64 on the CPU; infinite log-odds are certainties."""
    values = torch.as_tensor(given).detach().cpu().double()
    if values.dim() not in dims or not values.numel():
        wanted = " or ".join(map(str, dims))
        raise ValueError(
            f"{name!r} must have {wanted} dimensions and be not empty, got {tuple(values.shape)}"
        )
    if not (values.isfinite() if finite else ~values.isnan()).all():
        raise ValueError(f"{name!r} has values that are {'not finite' if finite else 'NaN'}")
    return values


def _mosaic(kernels: Tensor, columns: int) -> Tensor:
    """Kernels (n, height, width) arranged in a grid, with NaN between them."""
    count, height, width = kernels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    tiles = kernels.new_full((rows * columns, height + 1, width + 1), math.nan)
    tiles[:count, :height, :width] = kernels
    grid = tiles.view(rows, columns, height + 1, width + 1).transpose(1, 2)
    return grid.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]
