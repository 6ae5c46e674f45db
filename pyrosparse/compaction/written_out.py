"""What networks write in several ways, written in the one that has rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from pyrosparse.compaction.patterns import write_patterns_out
from pyrosparse.compaction.rules import write_sizes_out
from pyrosparse.compaction.trace import shapes


def written_out(
    net: nn.Module, graph: fx.Graph, example: tuple[Any, ...]
) -> dict[fx.Node, torch.Size]:
    """Change a graph's ``einsum``, ``view(x.shape)`` and the like; returns its tensors' shapes.

    Raises TraceError as ``shapes`` does.
    """
    found = shapes(net, graph, example)
    if write_patterns_out(graph, net, found):
        found = shapes(net, graph, example)
    write_sizes_out(graph, found)
    return found
