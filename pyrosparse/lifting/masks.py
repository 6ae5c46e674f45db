"""Masks: what stays of each target, with the gain at which it stays."""

from __future__ import annotations

import torch
from torch import Tensor


class Masks(dict[str, Tensor]):
    """The masks of the targets by name, each with the shape of its target.

    The mask of a weight
    (``fc1.weight``) is boolean: True if the weight stays. The mask of a gate (``fc1.input``,
    ``fc1.output``) is a floating-point gain: 0 if the feature is pruned, E[gate] if it stays.

    >>> import torch
    >>> Masks({"fc1.weight": torch.tensor([[True, False], [False, False]])}).sparsity
    0.75
    """

    @property
    def kept(self) -> int:
        """The number of elements that stay, over all targets."""
        return sum(int(mask.count_nonzero()) for mask in self.values())

    @property
    def size(self) -> int:
        """The number of elements, over all targets."""
        return sum(mask.numel() for mask in self.values())

    @property
    def sparsity(self) -> float:
        """The share of elements that is pruned, over all targets, in [0, 1]."""
        return 1.0 - self.kept / self.size if self.size else 0.0

    def __repr__(self) -> str:
        return (
            f"Masks of {len(self)} targets: {self.kept:,} of {self.size:,} elements stay, sparsity "
            f"{self.sparsity:.2%}"
        )

    def table(self) -> str:
        """A text table: per target, elements kept, elements in all, and sparsity."""
        width = max(len(name) for name in ("target", *self))
        rows = [f"{'target':<{width}}  {'kept':>9}  {'of':>9}  sparsity"]
        for name, mask in self.items():
            kept = int(mask.count_nonzero())
            sparsity = Masks({name: mask}).sparsity
            rows.append(f"{name:<{width}}  {kept:>9}  {mask.numel():>9}  {sparsity:.2%}")
        return "\n".join(rows)


def largest(scores: Tensor, count: int) -> Tensor:
    """The boolean mask of the ``count`` largest scores (exactly: ties by position).

    scores: floating point, any shape; count is cut to [0, scores.numel()].

    >>> import torch
    >>> largest(torch.tensor([0.1, 3.0, 2.0]), 2)
    tensor([False,  True,  True])
    """
    count = min(max(count, 0), scores.numel())
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().topk(count).indices] = True
    return mask.view(scores.shape)
