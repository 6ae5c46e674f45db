"""Turbo-VBI as a callback of ``fit``, with a path to few weights and units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from pyrosparse.infer.callback import Callback
from pyrosparse.infer.momentum import forget_momentum
from pyrosparse.infer.run import Fit
from pyrosparse.infer.schedules import Schedule, check_schedule
from pyrosparse.prune.pruner import check_own_guide
from pyrosparse.prune.turbo.exchange import MessageExchange
from pyrosparse.supports.units import UnitFactor
from pyrosparse.util.globs import first_match


class TurboPruner(Callback):
    """Callback that exchanges messages with the support prior after epochs of ``fit``, and
    permanently freezes inactive weights at zero.

    units:      the unit factor, which prunes whole units; None for none.
    active:     the share of active weights as a function of progress in [0, 1], such as
                ``schedules.logarithmic(0.12, 0.0114, until=0.75)``; by default slab and spike do
                not change, and the data decide.
    contrast:   slab rate / spike rate as a function of progress, with ``active``; by default the
                method's own.
    strength:   of the unit factor, as in ``UnitFactor.tempered``, as a function of progress; by
                default 1 from the start.
    takes:      what is frozen at zero after an exchange: ``inactive`` weights and units that are
                off; all weights except the share ``active`` (``ranked``); or only weights of units
                that are off (``units``). With ``units``, ``active`` is a share of the weights that
                are not frozen.
    prune_from: the progress at which freezing starts, in [0, 1]; 1 is only at the end.
    units_until: the progress at which each layer reaches ``at_least`` units. From ``prune_from`` on
                 the number of units falls by equal factors; no more units than that go, and at the
                 end units with the lowest beliefs go too. By default ``removal`` limits how many
                 units go.
    removal:    the largest share of a layer's units that may go at one exchange, in (0, 1]. No more
                units go once the number of weights has reached the final value of ``active``.
    at_least:   the smallest number of units in each layer: one number, or numbers by glob on the
                names of layers (the first match counts; 1 without a match).
    every:      the number of epochs between exchanges.
    examples:   the number of data from which ``likelihood="curvature"`` estimates the Fisher
                information.

    Recorded each epoch: what ``MessageExchange`` returns, and ``kept``, the share of weights not
    frozen. At the end, weights without a path to the output or from the input are frozen too;
    ``Lifted.masks`` then returns the support.

    Raises ValueError for shares out of range, TypeError for numbers in place of functions; at the
    start of training what ``MessageExchange`` raises, and ValueError with ``compact_every`` or if
    the guide does not call the lifted network's own.

    Source: Xia, Tsang and Lau (2023), algorithm 1; the path and the pruning along it are ours.

    >>> TurboPruner(units=UnitFactor(cost=40.0), at_least={"conv*": 3, "*": 15}).removal
    0.11
    """

    def __init__(
        self,
        *,
        units: UnitFactor | None = None,
        active: Schedule | None = None,
        contrast: Schedule | None = None,
        strength: Schedule | None = None,
        takes: Literal["inactive", "ranked", "units"] = "inactive",
        prune_from: float = 0.1,
        units_until: float | None = None,
        removal: float = 0.11,
        at_least: int | Mapping[str, int] = 1,
        every: int = 1,
        examples: int = 5000,
    ) -> None:
        if not 0 <= prune_from <= 1:
            raise ValueError(f"prune_from is a share of training, in [0, 1], got {prune_from}")
        if takes not in ("inactive", "ranked", "units"):
            raise ValueError(f"takes must be 'inactive', 'ranked' or 'units', got {takes!r}")
        named = {"active": active, "contrast": contrast, "strength": strength}
        for name, schedule in named.items():
            if schedule is not None:
                check_schedule(name, schedule)
        if units is None and (takes == "units" or units_until is not None):
            raise ValueError(
                "takes='units' and units_until need a unit factor: pass units=UnitFactor(...)"
            )
        if takes == "ranked" and active is None:
            raise ValueError("takes='ranked' needs the share of active weights: pass active=")
        if units_until is not None and not prune_from < units_until <= 1:
            raise ValueError(
                f"units_until is a share of training, in (prune_from, 1], got {units_until} with "
                f"prune_from {prune_from}"
            )
        if not 0 < removal <= 1:
            raise ValueError(f"removal is a share of a layer's units, in (0, 1], got {removal}")
        for least in at_least.values() if isinstance(at_least, Mapping) else [at_least]:
            if int(least) != least or least < 1:
                raise ValueError(f"at_least is a number of units, 1 or more; got {least}")
        if int(every) != every or every < 1:
            raise ValueError(f"every must be a positive whole number of epochs, got {every}")
        self.units = units
        self.active = active
        self.contrast = contrast
        self.strength = strength
        self.takes = takes
        self.prune_from = prune_from
        self.units_until = units_until
        self.removal = removal
        self.at_least = at_least
        self.every = every
        self.examples = examples

    def on_start(self, run: Fit) -> None:
        if run.shrink is not None:
            raise ValueError(
                "compact_every would remove weights between which messages are exchanged: leave "
                "it out, and use ps.compact after training"
            )
        check_own_guide(run)
        # Data that shuffle themselves draw from a generator that a resumed run has put back.
        with torch.random.fork_rng(devices=[]):
            batch = next(iter(run.batches()))
        self.exchange = MessageExchange(run.lifted, units=self.units, example=(batch[0][:1],))

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        if run.epoch % self.every and run.epoch < run.epochs:
            return {}
        progress = run.epoch / run.epochs
        prunes = progress >= self.prune_from
        if self.exchange.needs_curvature:
            seed = run.seed * 1_000_003 + run.epoch
            self.exchange.estimate_curvature(
                run.model, run.data, examples=self.examples, seed=seed, guide=run.guide
            )
        active = _at(self.active, progress)
        if active is not None and self.takes == "units":
            active *= self.exchange.kept
        record = self.exchange(
            active=active,
            contrast=_at(self.contrast, progress),
            strength=1.0 if self.strength is None else self.strength(progress),
            removable=self._removable(progress),
        )
        if prunes:
            share = _at(self.active, progress)
            most = share if self.takes == "ranked" and share is not None else 1.0
            self._freeze(run, share or 0.0, most)
        return record | {"kept": self.exchange.kept}

    def on_end(self, run: Fit) -> dict[str, Any]:
        share = _at(self.active, 1.0)
        self._freeze(run, share or 0.0, share or 1.0, at_end=True)
        return {"kept": self.exchange.kept}

    def _freeze(self, run: Fit, least: float, most: float, at_end: bool = False) -> None:
        units = self.exchange.units
        at_least = {layer: _least(self.at_least, layer) for layer in units.size} if units else None
        if self.takes == "units":
            down = at_end and self.units_until is not None
            masks = self.exchange.masks_of_units(at_least if down else None)
        else:
            masks = self.exchange.masks(least, most, at_least)
        run.lifted.freeze(masks)
        forget_momentum(run.optimizer, run.lifted)

    def _removable(self, progress: float) -> dict[str, int] | None:
        """How many more units of each layer may go."""
        units = self.exchange.units
        if units is None:
            return None
        prunes = progress >= self.prune_from
        share = None if self.takes == "units" else _at(self.active, 1.0)
        if share is not None and self.exchange.kept <= share:
            prunes = False
        removable = {}
        for layer, idle in self.exchange.idle().items():
            on = int((~idle).sum())
            least = _least(self.at_least, layer)
            most = math.ceil(self.removal * on)
            if self.units_until is not None:
                share = (progress - self.prune_from) / (self.units_until - self.prune_from)
                size = units.size[layer]
                path = size * (min(least, size) / size) ** min(max(share, 0.0), 1.0)
                most, least = on, max(least, math.floor(path))
            removable[layer] = max(min(most, on - least), 0) * prunes
        return removable


def _least(at_least: int | Mapping[str, int], layer: str) -> int:
    if not isinstance(at_least, Mapping):
        return at_least
    glob = first_match(at_least, layer)
    return 1 if glob is None else at_least[glob]


def _at(schedule: Schedule | None, progress: float) -> float | None:
    return None if schedule is None else schedule(progress)
