"""Units are cut on trial: where the network then computes something else they are put back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyrosparse.compaction.check import OTHERS, difference, random_like, tolerance_of
from pyrosparse.compaction.in_place.counts import ATTEMPTS, Counts, Sizes, set_counts
from pyrosparse.compaction.in_place.edit import Edit, cut_unit
from pyrosparse.compaction.in_place.layers import weight_of
from pyrosparse.compaction.in_place.probe import Constants
from pyrosparse.compaction.in_place.units import Unit
from pyrosparse.compaction.other_sizes import other_sizes
from pyrosparse.util.modes import forget


class Judge:
    """What a network computes, on an example and other inputs, to compare others with.

    reference: the network; inputs: the example.
    """

    def __init__(self, reference: nn.Module, inputs: tuple[Any, ...]) -> None:
        generator = torch.Generator().manual_seed(OTHERS)
        self.tolerance = tolerance_of(reference)
        self.cases: list[tuple[tuple[Any, ...], Any]] = []
        with torch.no_grad():
            self.cases.append((inputs, reference(*inputs)))
            other = random_like(inputs, generator)
            with contextlib.suppress(Exception):  # its integers may mean something
                self.cases.append((other, reference(*other)))
            self.cases += other_sizes(reference, inputs)

    @property
    def largest(self) -> tuple[Any, ...]:
        """Of the inputs those with the most elements."""
        return max(self.cases, key=lambda case: _elements(case[0]))[0]

    def why_not(self, net: nn.Module) -> str | None:
        """How a network differs from the reference; None where it does not."""
        forget(net)
        for inputs, expected in self.cases:
            try:
                with torch.no_grad():
                    found = difference(expected, net(*inputs))
            except Exception as error:  # whatever a forward raises on layers of other sizes
                text = " ".join(str(error).split())
                return f"without them it fails: {text[:160]}"
            if found > self.tolerance:
                return f"without them it computes something else, by {found:.1e} of its outputs"
        return None


@dataclass(frozen=True)
class Trials:
    """The cutting of units in a network that a judge looks at after every attempt.

    net:       the network, with layers of full size.
    called:    the same as the judge calls it.
    constants: of what enters each layer.
    choose:    of a unit, which blocks stay.
    cuts:      how the sizes of units changed that were cut.
    """

    net: nn.Module
    called: nn.Module
    judge: Judge
    constants: Mapping[str, Constants]
    choose: Callable[[Unit], Tensor]
    cuts: list[Sizes] = field(default_factory=list)

    def run(self, units: Sequence[Unit]) -> dict[str, str]:
        """Cut all units that can be cut; of the others why they stay, by the layers' names.

        All are cut at once. If the network then computes something else, those of one kind are
        tried together, and at last each by itself.
        """
        if not units or self._cut(units, ATTEMPTS[0]) is None:
            return {}
        kinds: dict[Any, list[Unit]] = {}
        for unit in units:
            kinds.setdefault((_pattern(unit), unit.blocks), []).append(unit)
        stays: dict[str, str] = {}
        for alike in kinds.values():
            why = self._by_attempts(alike)
            if why is not None and len(alike) > 1:
                for unit in alike:
                    stays |= _reasons(unit, self._by_attempts([unit]))
            else:
                stays |= _reasons(alike[0], why)
        return stays

    def _by_attempts(self, units: Sequence[Unit]) -> str | None:
        first = None
        for counts in ATTEMPTS:
            why = self._cut(units, counts)
            if why is None:
                return None
            first = first or why
        return first

    def _cut(self, units: Sequence[Unit], counts: Counts) -> str | None:
        edits: list[Edit] = []
        cuts: list[Sizes] = []
        try:
            for unit in units:
                edit, sizes = self._cut_one(unit, counts)
                edits.append(edit)
                cuts.append(sizes)
            why = self.judge.why_not(self.called)
        except (RuntimeError, IndexError) as error:
            why = f"its weights cannot be cut alike: {error}"
        if why is not None:
            for edit in reversed(edits):
                edit.undo()
        else:
            self.cuts.extend(cuts)
        return why

    def _cut_one(self, unit: Unit, counts: Counts) -> tuple[Edit, Sizes]:
        """Take blocks out of the layers of a unit, and set the numbers beside them."""
        kept = self.choose(unit)
        before = _widths(self.net, unit)
        edit = cut_unit(self.net, unit, kept, self.constants)
        after = _widths(self.net, unit)
        widths = {old: new for old, new in zip(before, after, strict=True) if old != new}
        parts = kept.view(unit.blocks, unit.parts)
        blocks = (unit.blocks, int(parts.any(1).sum()))
        sizes = Sizes(widths, blocks, (unit.parts, int(parts.sum(1).max())))
        set_counts(edit, self.net, unit.members, sizes, counts)
        return edit, sizes


def _widths(net: nn.Module, unit: Unit) -> list[int]:
    consumers = [weight_of(net.get_submodule(name)).shape[1] for name in unit.consumers]
    return consumers + [len(weight_of(net.get_submodule(name))) for name in unit.producers]


def _pattern(unit: Unit) -> tuple[str, ...]:
    return tuple(re.sub(r"\d+", "*", name) for name in unit.members)


def _reasons(unit: Unit, why: str | None) -> dict[str, str]:
    return {} if why is None else dict.fromkeys(unit.consumers, why)


def _elements(inputs: Any) -> int:
    return sum(x.numel() for x in tree_leaves(inputs) if isinstance(x, Tensor))
