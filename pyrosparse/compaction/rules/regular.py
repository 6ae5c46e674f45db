"""Masks whose groups keep the same number of members, for grouped convolutions and heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def level(preference: Tensor, count: int) -> Tensor:
    """In each row the ``count`` elements with the highest preference, the first if they are equal.

    >>> level(torch.tensor([[0, 1, 0], [1, 0, 1]]), 2)
    tensor([[ True,  True, False],
            [ True, False,  True]])
    """
    order = preference.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(preference, dtype=torch.bool).scatter(1, order, True)


def round_up(count: int, multiple: int, most: int) -> int:
    """The next multiple of a number, but at most ``most``.

    >>> round_up(9, 8, 100), round_up(9, 8, 12)
    (16, 12)
    """
    return min(-(-count // multiple) * multiple, most)


def regular(mask: Tensor, sizes: Sequence[int]) -> Tensor:
    """The mask with the fewest additional elements that form a block: for example, sizes (2, 3) are
    reduced to (2, 2).

    mask: (a * b * ...,) bool, elements in row-major order of the sizes (a, b, ...). In the result
    all remaining parts have the same number of members, at each level.

    >>> regular(torch.tensor([1, 1, 0, 0, 0, 0, 0, 0, 1]).bool(), (3, 3)).int().tolist()
    [1, 1, 0, 0, 0, 0, 1, 0, 1]
    """
    blocks = mask.view(*sizes)
    kept = torch.ones((), dtype=torch.bool)
    for depth, size in enumerate(sizes):
        used = blocks.flatten(depth + 1).any(-1) if depth + 1 < len(sizes) else blocks
        if depth:
            rows = used.view(-1, size)
            used = level(rows.int(), int(rows.sum(1).max())).view(used.shape)
        kept = used & kept[..., None]
    return kept.flatten()


def block(mask: Tensor, sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes of the elements that a mask from ``regular`` keeps.

    >>> block(torch.tensor([1, 1, 0, 0, 0, 0, 1, 0, 1]).bool(), (3, 3))
    (2, 2)
    """
    blocks = mask.view(*sizes)
    counts = []
    for _ in sizes:
        kept = blocks.flatten(1).any(1) if blocks.dim() > 1 else blocks
        counts.append(int(kept.sum()))
        blocks = blocks[kept][0] if kept.any() else blocks[0]
    return tuple(counts)
