"""The compact network at the end of a run, and what it costs; or why there is none."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pyrosparse.compact import CompactionError, CompactNet, Report, compact, report
from pyrosparse.data import DataSet
from pyrosparse.masks import Masks


@dataclass(frozen=True)
class Compaction:
    """What a compact network costs, or why there is none; JSON values.

    report:  its costs beside those of the network it is compared with, and both networks' test
             accuracy, likelihood and calibration; None where there is no compact network.
    account: what was taken away, layer by layer, as a text; "" where there is no compact network.
    problem: why there is none, or "".
    units:   by gate, (kept, of) units; empty where the method has no gates.

    >>> Compaction(None, "", "it cannot be traced", {"fc1.input": (40, 64)}).kept
    '40'
    """

    report: Report | None
    account: str
    problem: str
    units: dict[str, tuple[int, int]]

    @property
    def kept(self) -> str:
        """The units that the gates keep, in their order: ``137-90-37``; "" without gates."""
        return "-".join(str(kept) for kept, _ in self.units.values())

    def figures(self) -> dict[str, Any]:
        """Its numbers by name: ``kept``, ``units``, ``problem``, and all of the report."""
        own = {"kept": self.kept, "units": self.units, "problem": self.problem}
        return own | (asdict(self.report) if self.report is not None else {})


def compacted(
    net: nn.Module, original: nn.Module, data: DataSet, *, masks: Masks | None = None
) -> tuple[CompactNet | None, Compaction]:
    """Make the compact form of a network, where there is one, and measure it.

    net:      with exact zeros, or the network that masks are of; it is left as it is.
    original: what the compact network is compared with.
    data:     whose test data both are judged on.
    masks:    as for ``compact``.

    Both are timed in torch's own memory layout, which is how ``load`` gives a network back.

    >>> from pyrosparse import data, networks
    >>> digits = data.load("digits")
    >>> net = networks.fcn(digits.image_shape, hidden=(8,))
    >>> _ = net.fc1.weight.data[:5].zero_()
    >>> small, compaction = compacted(net, net, digits)
    >>> compaction.report.structure
    '3-10'
    """
    gates = [key for key in masks or () if key not in dict(net.named_parameters())]
    units = {key: (int(masks[key].count_nonzero()), masks[key].numel()) for key in gates if masks}
    example = data.train.x[:1]
    try:
        small = compact(net, masks, example)
    except (ValueError, CompactionError) as error:
        # The training is not lost because of it, and says so.
        return None, Compaction(None, "", str(error), units)
    small = _plain(small)
    measured = report(_plain(original), small, example, data=data.test)
    return small, Compaction(measured, str(small.account), "", units)


def _plain(net: Any) -> Any:
    return copy.deepcopy(net).eval().to(memory_format=torch.contiguous_format)
