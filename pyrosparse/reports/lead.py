"""The beginning of a report: its title, and the run in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyrosparse.recipes import Pretraining, find
from pyrosparse.reports.summary import Summary

# The names of options in papers.
_NAMES = {"kl_scale": "gamma"}


def title(summary: Summary, settings: Mapping[str, Any]) -> str:
    """The network, the data and the recipe, in a few words."""
    text = f"{settings['network']} on {summary.dataset}, {settings['recipe']}"
    if summary.compaction is not None and summary.compaction.units:
        return f"{text}{_level(settings)}"
    return f"{text}, {100 * summary.sparsity:.4g} % sparse" if summary.sparsity else text


def answer(summary: Summary) -> str:
    """Accuracy and size of the network, each with its baseline, in one sentence.

    >>> toy = Summary("Toy", 9, 0, 9, 0.9, 0.3, 110, 20, [], 800, 400, 2.0, None)
    >>> answer(toy)
    '90.00 % with 110 parameters, of which 20 are not zero.'
    """
    compaction = summary.compaction
    report = compaction.report if compaction is not None else None
    now = _quality(summary)
    if report is None:
        text = (
            f"{now} with {summary.parameters:,} parameters, of which "
            f"{summary.nonzero_parameters:,} are not zero"
        )
        dense = summary.accuracy_before
        return text + (f"; the dense network {100 * dense:.2f} %." if dense is not None else ".")
    whole, left = report.parameters
    if report.quality is None or not summary.compared:
        return f"{now} with {left:,} of {whole:,} parameters."
    before, after = (
        f"RMSE {one.rmse:.4f}" if summary.values else f"{100 * one.accuracy:.2f} %"
        for one in report.quality
    )
    return f"{after} with {left:,} of {whole:,} parameters; the dense network {before}."


def _quality(summary: Summary) -> str:
    """The quality of the network, in one number."""
    if summary.values is not None:
        return f"RMSE {summary.values['rmse']:.4f}"
    if summary.test_accuracy is not None:
        return f"{100 * summary.test_accuracy:.2f} %"
    return f"NLL {summary.test_nll:.4f}"


def size(summary: Summary) -> str:
    """Which of the sizes in a report counts, and why the others differ; empty without a compact
    network."""
    compaction = summary.compaction
    if compaction is None or compaction.report is None or summary.compact_bytes is None:
        return ""
    left = compaction.report.parameters[1]
    text = (
        f"The size that counts is that of the compact network: {left:,} parameters, in a file of "
        f"{summary.compact_bytes:,} bytes."
    )
    more = (
        f" The sparse file ({summary.sparse_bytes:,} bytes) holds the network at its old shape, "
        "without its zeros: small on disk, and as slow as the dense network."
    )
    if left > summary.nonzero_parameters:
        more += (
            f" Only {summary.nonzero_parameters:,} parameters are not zero, but single zeros "
            "cannot be cut out of a layer."
        )
    elif left < summary.nonzero_parameters:
        more += (
            f" It stores more parameters ({summary.nonzero_parameters:,} are not zero): some "
            "belong to units that the compact network does without."
        )
    return text + more


def sentence(
    summary: Summary, settings: Mapping[str, Any], weights: Mapping[str, Any] | None
) -> str:
    """What the run did, and the accuracy of the network.

    weights: the ``file`` from which the run started; None if it started from random weights.
    """
    start = f" from the weights in {weights['file']}" if weights else ""
    what = (
        _gates_sentence(summary, settings)
        if summary.compaction is not None and summary.compaction.units
        else "without pruning"
        if not summary.sparsity
        else f"with {settings['recipe']} pruning, until {100 * summary.sparsity:.4g} % of its "
        f"{summary.prunable:,} prunable weights were zero"
    )
    epochs = f"{settings['epochs']} epoch" + "s" * (settings["epochs"] != 1)
    if settings.get("fine_tune"):
        what += f" and the rest fine-tuned for {settings['fine_tune']} more"
    before = _epochs_before(settings)
    if before and not weights:
        start = f", after {before} of pretraining,"
    return (
        f"The network {settings['network']} was trained on {summary.dataset} for {epochs}{start} "
        f"{what}. {_right(summary)}"
    )


def _right(summary: Summary) -> str:
    if summary.test_accuracy is None:
        return (
            f"On the {summary.test:,} test data it has {_quality(summary)}, in the unit of the "
            f"targets in training, and an NLL of {summary.test_nll:.4f} nats per datum."
        )
    return (
        f"It classifies {100 * summary.test_accuracy:.2f} % of the {summary.test:,} test data "
        "correctly."
    )


def _epochs_before(settings: Mapping[str, Any]) -> int:
    start = settings.get("start")
    if start:
        return int(start.get("epochs", Pretraining().epochs))
    return settings.get("pretrain") or 0


def _gates_sentence(summary: Summary, settings: Mapping[str, Any]) -> str:
    assert summary.compaction is not None
    kept, of = (sum(pair[side] for pair in summary.compaction.units.values()) for side in (0, 1))
    return (
        f"with gates on its units ({settings['recipe']}{_level(settings)}); "
        f"{kept:,} of the {of:,} units stayed"
    )


def _level(settings: Mapping[str, Any]) -> str:
    """The knob of a recipe with gates, and its value: ``, gamma 4``."""
    knob = find(settings["recipe"]).knob
    if not knob:
        return ""
    level = settings[knob]
    if isinstance(level, Mapping):
        told = ", ".join(f"{value:g} for {pattern}" for pattern, value in level.items())
    else:
        told = f"{level:g}"
    return f", {_NAMES.get(knob, knob)} {told}"
