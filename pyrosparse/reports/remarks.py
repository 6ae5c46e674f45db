"""Warnings about a run's numbers, and what to try."""

from __future__ import annotations

import math

from pyrosparse.reports.summary import Summary


def remarks(summary: Summary) -> list[str]:
    """Sentences about what went wrong in a run, or saved nothing: the network guesses, nothing was
    removed, there is no compact network, zeros saved little work.

    >>> from pyrosparse.recipes import Compaction
    >>> compaction = Compaction(None, "", "nothing is left of 'fc1'", {"fc1.input": (0, 64)})
    >>> toy = Summary("Toy", 9, 0, 9, 0.1, 2.3, 23, 0, [], 300, 280, 2.0, None, compaction)
    >>> remarks(toy)
    ["There is no compact network: nothing is left of 'fc1'."]
    """
    found = [_guesses(summary), _nothing_taken(summary), _compact(summary)]
    return [one for one in found if one]


def guesses(summary: Summary) -> bool:
    """Whether a classifier is hardly better than always predicting the most frequent class.

    >>> toy = Summary("Toy", 9, 0, 90, 0.12, 2.3, 23, 0, [], 300, 280, 2.0, None, chance=0.11)
    >>> guesses(toy)
    True
    """
    accuracy = summary.test_accuracy
    return accuracy is not None and summary.chance is not None and _at_chance(summary, accuracy)


def _guesses(summary: Summary) -> str:
    """The remark that the network has learned nothing about the data, with the cause."""
    accuracy = summary.test_accuracy
    if accuracy is None or summary.chance is None or not guesses(summary):
        return ""
    found = (
        f"The network guesses: it classifies {100 * accuracy:.2f} % of the test data correctly. "
        f"Always naming the most frequent class gives {100 * summary.chance:.2f} %."
    )
    keep, before = summary.keeps_more, _accuracy_before(summary)
    if before is None:
        more = f", or {keep}" if keep else ""
        return f"{found} Try more --epochs, another --learning-rate{more}."
    if _at_chance(summary, before):
        return (
            f"{found} The dense network guesses, too: try more --epochs (and --pretrain, where "
            "the recipe has it), another --learning-rate or another --network, and check the "
            "labels."
        )
    return (
        f"{found} The dense network has {100 * before:.2f} %, so too much was pruned: try {keep} "
        "or more --epochs."
    )


def _at_chance(summary: Summary, accuracy: float) -> bool:
    """Whether an accuracy exceeds the share of the most frequent class by less than two standard
    errors, or by less than a tenth of the rest, which a network with random weights may reach."""
    assert summary.chance is not None
    rest = 1 - summary.chance
    error = math.sqrt(summary.chance * rest / summary.test)
    return accuracy <= summary.chance + max(2 * error, rest / 10)


def _accuracy_before(summary: Summary) -> float | None:
    compaction = summary.compaction
    if not summary.compared or compaction is None or compaction.report is None:
        return summary.accuracy_before
    quality = compaction.report.quality
    return None if quality is None else quality[0].accuracy


def _nothing_taken(summary: Summary) -> str:
    """The remark that nothing was pruned, for recipes that decide themselves how much to prune."""
    units = summary.compaction.units if summary.compaction is not None else {}
    if units:
        kept, of = (sum(pair[side] for pair in units.values()) for side in (0, 1))
        if kept < of:
            return ""
        return (
            f"No gate closed: all {of:,} units stay, and the network is as large as before. "
            f"To remove some, try {summary.takes_more}."
        )
    if not summary.takes_more or summary.sparsity > 0:
        return ""
    return f"No weight was pruned. To prune some, try {summary.takes_more}."


def _compact(summary: Summary) -> str:
    """Why there is no compact network, or why zeros saved little work."""
    compaction = summary.compaction
    if compaction is None:
        return ""
    if compaction.problem:
        closed = [key for key, (kept, _) in compaction.units.items() if not kept]
        advice = (
            f" All gates of {', '.join(closed)} closed: {summary.keeps_more} keeps more."
            if closed and summary.keeps_more
            else ""
        )
        return f"There is no compact network: {compaction.problem}.{advice}"
    assert compaction.report is not None
    before, after = compaction.report.total_macs
    if summary.sparsity > 0 and after > 1.5 * before * (1 - summary.sparsity):
        return (
            f"{100 * summary.sparsity:.4g} % of the weights are zero, but "
            f"{100 * after / before:.3g} % of the multiply-accumulates remain: the zeros are "
            "scattered, and only units whose weights are all zero can be cut out. The recipe "
            "beta-bernoulli removes whole units."
        )
    return ""
