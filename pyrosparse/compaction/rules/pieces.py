"""A tensor split into pieces along its features: ``chunk``, ``split``, ``unbind``."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from pyrosparse.compaction.rules.rule import Flow, arguments

CALLS: dict[Any, str] = {
    "chunk": "chunk",
    torch.chunk: "chunk",
    "tensor_split": "tensor_split",
    torch.tensor_split: "tensor_split",
    "split": "split",
    torch.split: "split",
    "unbind": "unbind",
    torch.unbind: "unbind",
}


def write_as_slice(flow: Flow, node: fx.Node) -> None:
    """Read a piece of a tensor from the tensor itself: ``x.chunk(2, 1)[1]`` is ``x[:, n // 2 :]``.

    Only for pieces along features whose number is the network's own; others do not change.
    """
    call = node.args[0] if node.target is operator.getitem else None
    if not isinstance(call, fx.Node) or call.target not in CALLS or not call.args:
        return
    x, number, kind = call.args[0], node.args[1], CALLS[call.target]
    defaults = {"input": None, "dim": 0} if kind == "unbind" else {"input": x, "by": 0, "dim": 0}
    given = arguments(call, **defaults)
    if set(given) != set(defaults) or not isinstance(given["dim"], int):
        return
    if not isinstance(x, fx.Node) or x not in flow.wanted or not isinstance(number, int):
        return
    dim = given["dim"] % len(flow.shapes[x])
    dims = flow.heads[x].dims if x in flow.heads else (flow.features[x].dim,)
    ends = _ends(kind, given.get("by"), flow.shapes[x][dim])
    if dim not in dims or ends is None or not -len(ends) <= number < len(ends):
        return
    end = ends[number]
    start = ends[number % len(ends) - 1] if number % len(ends) else 0
    piece = start if kind == "unbind" else slice(start, end)
    node.args = (x, (*[slice(None)] * dim, piece))


def _ends(kind: str, by: Any, total: int) -> list[int] | None:
    """The ends of the pieces, None if unknown."""
    if kind == "unbind":
        return list(range(1, total + 1))
    if isinstance(by, (list, tuple)) and all(isinstance(size, int) for size in by):
        return [sum(by[: n + 1]) for n in range(len(by))]
    if not isinstance(by, int) or by < 1:
        return None
    if kind == "tensor_split":  # the first pieces are one longer than the others
        return [total // by * n + min(n, total % by) for n in range(1, by + 1)]
    size = -(-total // by) if kind == "chunk" else by
    return [min(end, total) for end in range(size, total + size, size)]
