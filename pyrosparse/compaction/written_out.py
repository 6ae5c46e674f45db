"""What networks write in several ways, written in the one that has rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from pyrosparse.compaction.patterns import write_patterns_out
from pyrosparse.compaction.rules.sizes import write_sizes_out
from pyrosparse.compaction.trace import shapes


def written_out(
    net: nn.Module, graph: fx.Graph, example: tuple[Any, ...]
) -> dict[fx.Node, torch.Size]:
    """Change a graph's ``einsum``, ``view(x.shape)`` and the like; returns its tensors' shapes.

    Raises TraceError as ``shapes`` does.
    """
    found = shapes(net, graph, example)
    if write_patterns_out(graph, net, found) | _write_addcmul_out(graph):
        found = shapes(net, graph, example)
    write_sizes_out(graph, found)
    return found


def _write_addcmul_out(graph: fx.Graph) -> bool:
    """Put a product and a sum in place of each ``addcmul``; returns whether there was one."""
    wrote = False
    for node in list(graph.nodes):
        if node.target in ("addcmul", torch.addcmul) and len(node.args) == 3:
            added, first, second = node.args
            with graph.inserting_before(node):
                new = graph.call_function(torch.mul, (first, second))
                if node.kwargs.get("value", 1) != 1:
                    new = graph.call_function(torch.mul, (new, node.kwargs["value"]))
                new = graph.call_function(torch.add, (added, new))
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            wrote = True
    return wrote
