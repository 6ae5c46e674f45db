"""Inputs of other sizes than the example: other batch sizes, lengths and image sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from pyrosparse.compaction.calls import call_name

_READ = (
    "arange", "eye", "expand", "full", "interpolate", "linspace", "narrow", "nelement", "new_full",
    "new_ones", "new_zeros", "numel", "ones", "repeat", "reshape", "size", "squeeze", "unflatten",
    "upsample", "view", "zeros",
)  # fmt: skip
Axes = frozenset[tuple[int, int]]  # pairs of a tensor's index and one of its dimensions


def reads_sizes(graph: fx.Graph) -> bool:
    """Whether a network computes with sizes of tensors, or receives sizes to create tensors.

    >>> reads_sizes(fx.symbolic_trace(lambda x: x.relu()).graph)
    False
    >>> reads_sizes(fx.symbolic_trace(lambda x: x.sum(1) / x.size(1)).graph)
    True
    """

    def reads(node: fx.Node) -> bool:
        if node.op not in ("call_function", "call_method"):
            return False
        if node.target is getattr:
            return node.args[1] in ("shape", "nbytes")
        return call_name(node) in _READ

    return any(map(reads, graph.nodes))


def other_sizes(
    run: Callable[..., Any], inputs: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Inputs of other sizes that a network accepts, each with the network's result.

    Dimensions of equal length in the example change first together, and then one by one: the batch,
    the length, both sides of an image. For each, the next larger and the next smaller sizes are
    tried until the network accepts one; 1 is among them. The values of the inputs are repeated.

    run:    the network.
    inputs: its inputs.

    >>> [x.shape for (x,), _ in other_sizes(torch.nn.Linear(3, 2), (torch.ones(2, 3),))]
    [torch.Size([3, 3]), torch.Size([1, 3])]
    """
    leaves, _ = tree_flatten(inputs)
    expected = _leading(run(*_copied(inputs)))
    grown: dict[tuple[int, int], int] = {}
    for axes in _groups(leaves):
        size = max(leaves[n].shape[dim] for n, dim in axes)
        for tried in (larger(size), smaller(size)):
            for other in tried:
                found = _taken(run, inputs, dict.fromkeys(axes, other), expected)
                if found is not None:
                    yield found
                    if other > size:
                        grown |= {axis: other for axis in axes if axis not in grown}
                    break
    if len(set(grown.values())) > 1:
        found = _taken(run, inputs, grown, expected)
        if found is not None:
            yield found


def _taken(
    run: Callable[..., Any],
    inputs: tuple[Any, ...],
    sizes: dict[tuple[int, int], int],
    expected: list[int],
) -> tuple[tuple[Any, ...], Any] | None:
    """Inputs with other sizes, and the network's result; None if it does not accept them."""
    leaves, spec = tree_flatten(inputs)
    batches = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
    batch = any(dim == 0 for _, dim in sizes)
    for (n, dim), size in sizes.items():
        places = torch.arange(size, device=leaves[n].device) % leaves[n].shape[dim]
        leaves[n] = leaves[n].index_select(dim, places)
    other = tree_unflatten(leaves, spec)
    try:
        result = run(*_copied(other))
    except Exception:  # a network may raise anything on a size that it does not accept
        return None
    # A larger image that counts as several: view(-1, 400) accepts it by chance.
    pairs = zip(expected, _leading(result), strict=False)
    mixed = any(before in batches and before != after for before, after in pairs)
    return None if mixed and not batch else (other, result)


def _groups(leaves: Iterable[Any]) -> Iterator[Axes]:
    every = [
        (n, dim, size)
        for n, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) and leaf.numel()
        for dim, size in enumerate(leaf.shape)
    ]
    groups = [{(n, d) for n, d, s in every if s == size} for size in {s for _, _, s in every}]
    groups += [{(n, d) for n, d, s in every if (d, s) == (dim, size)} for _, dim, size in every]
    groups += [{(n, dim)} for n, dim, _ in every]
    seen: set[Axes] = set()
    for group in sorted(map(frozenset, groups), key=lambda group: (-len(group), sorted(group))):
        if group not in seen:
            seen.add(group)
            yield group


def larger(size: int) -> list[int]:
    """Larger sizes to try, the next first.

    >>> larger(3), smaller(4)
    ([4, 5, 7], [1, 2, 3])
    """
    return [size + step for step in (1, 2, 4, 8, 32) if step <= max(size, 4)]


def smaller(size: int) -> list[int]:
    """Smaller sizes to try."""
    return [other for other in dict.fromkeys((1, size // 2, size - 1)) if 0 < other < size]


def _leading(result: Any) -> list[int]:
    return [x.shape[0] for x in tree_leaves(result) if isinstance(x, Tensor) and x.dim()]


def _copied(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    leaves, spec = tree_flatten(inputs)
    copied: tuple[Any, ...] = tree_unflatten(
        [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec
    )
    return copied
