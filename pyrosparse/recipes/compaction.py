"""The compact network at the end of a run, and what it costs; or why there is none."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from pyrosparse.compaction import CompactionError, compact
from pyrosparse.lifting.masks import Masks
from pyrosparse.measure import PaperCounts, Report, report


@dataclass(frozen=True)
class Compaction:
    """What a compact network costs, or why there is none; JSON values.

    report:  its costs beside those of the network it is compared with, and how well both
             networks predict the test data; None where there is no compact
             network.
    account: what was taken away, layer by layer, as a text; "" where there is no compact network.
    problem: why there is none, or "".
    units:   by gate, (kept, of) units; empty where the recipe has no gates.
    active:  by gate, how many units a test datum needs on average; empty where all need the same.
    counts:  the cost before, and that of the active units, as the beta-Bernoulli paper counts.

    >>> Compaction(None, "", "it cannot be traced", {"fc1.input": (40, 64)}).kept
    '40'
    """

    report: Report | None
    account: str
    problem: str
    units: dict[str, tuple[int, int]]
    active: Mapping[str, float] = field(default_factory=dict)
    counts: tuple[PaperCounts, PaperCounts] | None = None

    @property
    def kept(self) -> str:
        """The units that the gates keep, in their order: ``137-90-37``; "" without gates."""
        return "-".join(str(kept) for kept, _ in self.units.values())

    def figures(self) -> dict[str, Any]:
        """Its numbers by name: ``kept``, ``units``, ``problem``, and all of the report."""
        own: dict[str, Any] = {"kept": self.kept, "units": self.units, "problem": self.problem}
        if self.active:
            own["active"] = dict(self.active)
        if self.counts is not None:
            own["active_counts"] = [asdict(one) for one in self.counts]
        if self.report is None:
            return own
        own |= asdict(self.report)
        if self.report.quality is not None and hasattr(self.report.quality[0], "figures"):
            own["quality"] = [one.figures() for one in self.report.quality]
        return own


def compacted(
    net: nn.Module,
    original: nn.Module,
    example: tuple[Any, ...],
    *,
    masks: Masks | None = None,
    gates: Mapping[str, nn.Module] | None = None,
    reported: Mapping[str, Any] | None = None,
    **known: Any,
) -> tuple[nn.Module | None, Compaction]:
    """Make the compact form of a network, where there is one, and measure it.

    net:      with exact zeros, or the network that masks are of; it is left as it is.
    original: what the compact network is compared with.
    example:  what both are called with, for one datum.
    masks, gates: as for ``compact``.
    reported: what ``report`` judges both networks by; None where it cannot.
    known:    ``active`` and ``counts``, as in ``Compaction``.

    Both are timed in torch's own memory layout, which is how ``load`` gives a network back.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = net[0].weight.data[:2].zero_()
    >>> small, compaction = compacted(net, net, (torch.ones(1, 4),))
    >>> compaction.report.structure
    '1-2'
    """
    names = [key for key in masks or () if key not in dict(net.named_parameters())]
    units = {key: (int(masks[key].count_nonzero()), masks[key].numel()) for key in names if masks}
    try:
        small = compact(net, masks, example, gates=gates)
    except (ValueError, CompactionError) as error:
        # The training is not lost because of it, and says so.
        return None, Compaction(None, "", str(error), units, **known)
    small = _plain(small)
    measured = report(_plain(original), small, example, **reported or {})
    return small, Compaction(measured, str(small.account), "", units, **known)


def _plain(net: Any) -> Any:
    return copy.deepcopy(net).eval().to(memory_format=torch.contiguous_format)
