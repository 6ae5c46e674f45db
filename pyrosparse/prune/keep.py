"""What stays, of scores and at a wanted sparsity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from pyrosparse.distributions.precision import at_least_float32
from pyrosparse.lifting.masks import Masks, largest
from pyrosparse.structures import Structure, blocks, check, ratio, spread
from pyrosparse.structures import largest as largest_of_groups

Scope = Literal["tensor", "global"]


def keep_largest(
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    scope: Scope = "tensor",
    at_least: int = 1,
    structure: Structure = "weight",
) -> Masks:
    r"""Masks that keep the blocks with the largest scores, and prune round(n sparsity) of n blocks.

    The score of a block is the sum over its elements, so with magnitudes and ``filter`` it is the
    :math:`l_1` norm of a filter.

    scores:    by name, floating point, with the weights' shapes; -inf is pruned first.
    sparsity:  the share that is pruned, in [0, 1).
    scope:     apply the share to each tensor (``tensor``), or to all together (``global``).
    at_least:  the smallest number of blocks that each tensor keeps.
    structure: what is pruned together, as in ``pyrosparse.structures``. For ``n:m`` the sparsity is
               1 - n/m, in each group of each tensor.

    Returns boolean masks of the same shapes. Raises ValueError on a sparsity outside [0, 1) or not
    of the structure, on unknown structures and scopes, and on NaN scores.

    >>> import torch
    >>> scores = {"w": torch.tensor([[3.0, 1.0], [2.0, 2.5]])}
    >>> keep_largest(scores, 0.5)["w"]
    tensor([[ True, False],
            [False,  True]])
    >>> keep_largest(scores, 0.5, structure="filter")["w"]
    tensor([[False, False],
            [ True,  True]])
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    if scope not in ("tensor", "global"):
        raise ValueError(f"scope must be 'tensor' or 'global', got {scope!r}")
    check(structure)
    for name, score in scores.items():
        refuse_nan(name, score)
    if isinstance(structure, str) and (group := ratio(structure)) is not None:
        _check_group(sparsity, scope, structure, *group)
        return Masks({name: largest_of_groups(one, structure) for name, one in scores.items()})
    sums = {name: _sums(score, structure) for name, score in scores.items()}
    kept = _kept(sums, sparsity, scope)
    for name, mask in kept.items():
        if int(mask.count_nonzero()) < at_least:
            kept[name] = largest(sums[name], at_least)
    return Masks({n: spread(m, structure, tuple(scores[n].shape)) for n, m in kept.items()})


def refuse_nan(name: str, tensor: Tensor) -> None:
    """Raise ValueError where a tensor has NaN, which has no rank."""
    if tensor.isnan().any():
        raise ValueError(
            f"{int(tensor.isnan().sum())} elements of {name!r} are NaN, so they cannot be ranked: "
            "the training has diverged; train again with a lower learning rate"
        )


def _kept(scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> dict[str, Tensor]:
    if scope == "tensor":
        return {n: largest(s, s.numel() - round(s.numel() * sparsity)) for n, s in scores.items()}
    flat = torch.cat([score.flatten() for score in scores.values()])
    together = largest(flat, flat.numel() - round(flat.numel() * sparsity))
    parts = together.split([score.numel() for score in scores.values()])
    return {n: part.view(scores[n].shape) for n, part in zip(scores, parts, strict=True)}


def _sums(score: Tensor, structure: Structure) -> Tensor:
    """The score of each block, (blocks, 1); of single weights as it is."""
    if structure == "weight":
        return score
    return at_least_float32(blocks(score, structure)).sum(1, keepdim=True)


def _check_group(sparsity: float, scope: Scope, structure: str, n: int, m: int) -> None:
    if scope == "global":
        raise ValueError(
            f"structure={structure!r} keeps the same number in every group: scope must be 'tensor'"
        )
    if not math.isclose(sparsity, 1 - n / m, abs_tol=1e-9):
        raise ValueError(
            f"the sparsity of structure={structure!r} must be 1 - {n}/{m} = {1 - n / m:g}, got "
            f"{sparsity:g}"
        )
