"""Plots of a run: losses, evidence, and the zeros in each layer."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pyrosparse.plots.style import BLUE, GREEN, GREY, INK, ORANGE, STYLE, by_epoch

History = Sequence[Mapping[str, Any]]


def learning_curves(history: History, *, threshold: float | None = None) -> Figure:
    """Training and validation loss by epoch, with the minimised loss, the Bayes factor and the
    sparsity.

    history:   as in ``Fit.history``; panels without data are left out.
    threshold: threshold on the Bayes factor, nats per datum; drawn as a line.

    First panel: negative log likelihood, nats per datum, after each round.
    Second, if the likelihood of the training data was not recorded: the negative ELBO that the
    optimizer minimised, nats; it is noisy, and increases with the weight of the KL divergence.
    Last: log Bayes factor of each round, nats per datum, filled if the round could prune weights,
    and on the second axis the sparsity after it. Raises ValueError if the history is empty.

    >>> len(learning_curves([{"epoch": 1, "train_nll": 0.7, "validation_nll": 0.8}]).axes)
    1
    >>> len(learning_curves([{"epoch": 1, "loss": 9.0, "validation_nll": 0.8}]).axes)
    2
    """
    epochs = _epochs(history)
    losses = _has(history, "loss") and not _has(history, "train_nll")
    pruning = _has(history, "log_bayes_factor_per_datum")
    # One marker for each epoch would hide the curve of a long run.
    marked = len(history) <= 40
    with matplotlib.rc_context(STYLE):
        size = (10, 4) if losses or pruning else (5.4, 4)
        figure = Figure(figsize=size, layout="constrained")
        left, *others = figure.subplots(1, 1 + losses + pruning, squeeze=False)[0]
        for key, label, colour, style in (
            ("train_nll", "training", BLUE, "o-"),
            ("validation_nll", "validation", ORANGE, "s--"),
        ):
            if _has(history, key):
                look = style if marked else style[1:]
                left.plot(epochs, _column(history, key), look, color=colour, label=label)
        by_epoch(left, "Learning curves", "negative log likelihood (nats per datum)")
        if left.lines:
            left.legend()
        if losses:
            look = "o-" if marked else "-"
            others[0].plot(epochs, _column(history, "loss"), look, color=BLUE)
            by_epoch(others[0], "Training loss", "negative ELBO (nats)")
        if pruning:
            _evidence_and_sparsity(others[-1], history, threshold)
    return figure


def bayes_factor_parts(history: History) -> Figure:
    """The two parts of each round's log Bayes factor, and their sum, in nats.

    history: as in ``Fit.history``. The axis is linear within a nat of zero and logarithmic
    beyond, because the parts differ by orders of magnitude. Raises ValueError if the history has
    no Bayes factors.

    >>> entry = {"epoch": 1, "log_bayes_factor_likelihood": -1.0, "log_bayes_factor_prior": 88.0}
    >>> len(bayes_factor_parts([entry | {"log_bayes_factor": 87.0}]).axes)
    1
    """
    epochs = _epochs(history)
    if not _has(history, "log_bayes_factor"):
        raise ValueError("this run recorded no Bayes factor: nothing was pruned")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color=GREY, linewidth=0.8)
        for key, label, colour, style in (
            ("log_bayes_factor_prior", "prior", GREEN, "^-"),
            ("log_bayes_factor_likelihood", "likelihood", BLUE, "o-"),
            ("log_bayes_factor", "sum: log Bayes factor", ORANGE, "s:"),
        ):
            axes.plot(epochs, _column(history, key), style, color=colour, label=label)
        axes.set_yscale("symlog", linthresh=1)
        by_epoch(axes, "What the Bayes factor is made of", "nats")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def elbo_gains(history: History) -> Figure:
    """The gain of the ELBO from each candidate set of weights, and the sparsity after it.

    history: as in ``Fit.history``, from a run with ``ReductionPruner``. Gains are in nats with
    two standard errors, filled if the weights were pruned. Raises ValueError if the history is
    empty.

    >>> entry = {"epoch": 1, "elbo_gain": 80.0, "elbo_gain_error": 9.0, "pruned": True}
    >>> len(elbo_gains([entry | {"sparsity": 0.2}]).axes)
    2
    """
    epochs = _epochs(history)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color=GREY, linewidth=0.8)
        for pruned, fill, label in ((True, GREEN, "went"), (False, "none", "refused")):
            tried = [e for e in history if "elbo_gain" in e and e["pruned"] == pruned]
            if tried:
                errors = [2 * entry["elbo_gain_error"] for entry in tried]
                axes.errorbar(
                    *(_epochs(tried), _column(tried, "elbo_gain"), errors),
                    fmt="o",
                    color=GREEN,
                    mfc=fill,
                    label=label,
                )
        axes.set_yscale("symlog", linthresh=1)
        by_epoch(axes, "What the ELBO gained by each batch", "nats")
        other = _sparsity_axis(axes, epochs, history)
        handles = [*axes.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.12, 1))
    return figure


def sparsity_by_layer(sparsities: Mapping[str, float]) -> Figure:
    """One bar for each layer: the share of its weights that is zero.

    sparsities: by name of the layer, in [0, 1]. Raises ValueError if there are none.

    >>> len(sparsity_by_layer({"fc1.weight": 0.9, "fc2.weight": 0.5}).axes[0].patches)
    2
    """
    if not sparsities:
        raise ValueError("there is no layer to show")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.9 + 0.32 * len(sparsities)), layout="constrained")
        axes = figure.add_subplot()
        bars = axes.barh(list(sparsities), list(sparsities.values()), color=BLUE, height=0.65)
        axes.bar_label(bars, [f"{value:.1%}" for value in sparsities.values()], padding=4)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.tick_params(axis="y", length=0)
        axes.set_title("Weights that are zero, by layer")
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a PNG file on white, for documents and slides.

    >>> png(sparsity_by_layer({"fc1": 0.5}))[1:4]
    b'PNG'
    """
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="png", dpi=160)
    return file.getvalue()


def svg(figure: Figure) -> str:
    """A figure as an SVG element for a page, with text and axes in the page's own colour.

    >>> svg(sparsity_by_layer({"fc1": 0.5}))[:4]
    '<svg'
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    # Numbered ids repeat in every figure, which a page must not have; nothing refers to them.
    text = re.sub(r' id="\w+_\d+"', "", text[text.index("<svg") :])
    return text.replace(INK, "currentColor")


def _evidence_and_sparsity(axes: Axes, history: History, threshold: float | None) -> None:
    epochs, factors = _epochs(history), _column(history, "log_bayes_factor_per_datum")
    axes.plot(epochs, factors, "-", color=GREEN, label="log Bayes factor")
    for pruned, fill, label in ((True, GREEN, "pruned"), (False, "none", "gate closed")):
        points = [
            (epoch, factor)
            for epoch, factor, entry in zip(epochs, factors, history, strict=True)
            if bool(entry.get("pruned", True)) == pruned
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=GREEN, mfc=fill, label=label)
    if threshold is not None:
        axes.axhline(threshold, color=GREY, linestyle="--", linewidth=1, label="threshold")
    by_epoch(axes, "Evidence and sparsity", "log Bayes factor (nats per datum)")
    other = _sparsity_axis(axes, epochs, history)
    handles = [*axes.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
    # Below the axes: every corner of the panel may be occupied.
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=len(handles),
        columnspacing=1.0,
        handletextpad=0.4,
        fontsize=9,
    )


def _sparsity_axis(axes: Axes, epochs: list[int], history: History) -> Axes:
    other = axes.twinx()
    other.spines.right.set_visible(True)
    other.plot(epochs, _column(history, "sparsity"), "-", color=ORANGE, label="sparsity")
    other.set_ylim(0, 1.02)
    other.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    other.set_ylabel("sparsity")
    return other


def _epochs(history: History) -> list[int]:
    if not history:
        raise ValueError("the history is empty: there is no epoch to show")
    return [entry["epoch"] for entry in history]


def _has(history: History, key: str) -> bool:
    return any(key in entry for entry in history)


def _column(history: History, key: str) -> list[float]:
    return [entry.get(key, float("nan")) for entry in history]
