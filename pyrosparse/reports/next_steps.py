"""Possible next steps after a run, with the commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pyrosparse.recipes.setup import Setup
from pyrosparse.reports.remarks import guesses
from pyrosparse.reports.summary import Summary

Step = tuple[str, str]
KEEP, TAKE = "Keep more:", "Prune more:"


def next_steps(summary: Summary, setup: Setup) -> list[Step]:
    """Possible next steps for the reader of a report: (a sentence, the code or the command).

    If the network only guesses, the steps neither use it nor prune more.

    >>> toy = Summary("Toy", 9, 0, 9, 0.9, 0.3, 110, 20, [], 800, 400, 2.0, None)
    >>> for sentence, command in next_steps(toy, Setup.of({"recipe": "magnitude"})):
    ...     print(sentence)
    ...     print(command)
    Keep more:
    pyrosparse compress magnitude --sparsity 0.8
    Prune more:
    pyrosparse compress magnitude --sparsity 0.95
    """
    if guesses(summary):
        return [step for step in _other_sizes(setup) if step[0] == KEEP]
    return [*_use(summary), *_other_sizes(setup)]


def _use(summary: Summary) -> Iterator[Step]:
    if summary.compact_bytes is None:
        return
    yield (
        "Use the compact network, from this folder. It does not need the code that defined the "
        "network:",
        'import pyrosparse as ps\n\nsmall = ps.load("compact.safetensors")\n'
        'ps.export_onnx("small.onnx", small, x[:1])  # x: inputs as in training',
    )


def _other_sizes(setup: Setup) -> Iterator[Step]:
    """The same run with half and with twice the remaining size, if its knob allows it."""
    recipe, knob = setup.recipe, setup.recipe.knob
    level = getattr(recipe, knob) if knob else None
    if not isinstance(level, (int, float)) or not recipe.keeps_more:
        return
    if recipe.takes_more.startswith(recipe.keeps_more):  # the knob of a cost, not of a size
        return
    option = recipe.options()[knob]
    lower_keeps_more = recipe.keeps_more.startswith("a lower")
    for sentence, more in ((KEEP, 2.0), (TAKE, 0.5)):
        if option.share and lower_keeps_more:  # the share that is pruned
            value = 1 - more * (1 - level)
        else:
            value = level / more if lower_keeps_more else level * more
        value = float(f"{value:.6g}")
        try:
            option.check(value)
        except ValueError:
            continue
        changed = replace(recipe, **{knob: value})  # type: ignore[arg-type]
        yield sentence, replace(setup, recipe=changed).command()
