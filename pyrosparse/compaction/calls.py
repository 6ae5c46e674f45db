"""What a node of a graph calls."""

from __future__ import annotations

from torch import fx


def call_name(node: fx.Node) -> str:
    """The name of the function or method that a node calls.

    >>> import torch
    >>> graph = fx.Graph()
    >>> x = graph.placeholder("x")
    >>> call_name(graph.call_function(torch.relu, (x,))), call_name(graph.call_method("sum", (x,)))
    ('relu', 'sum')
    """
    return str(getattr(node.target, "__name__", node.target))
