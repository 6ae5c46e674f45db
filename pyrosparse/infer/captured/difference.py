"""Whether two ways to take a step agree up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Relative difference of a loss or gradient that rounding does not explain."""


def difference(
    names: list[str],
    expected: list[Tensor | None],
    found: list[Tensor | None],
    *,
    usual_loss: float = 0.0,
) -> str | None:
    """The name of the first result that differs by more than rounding, with by how much.

    names: ``loss`` and those of the gradients.
    usual_loss: the size of losses earlier on; a loss near zero is still a sum of large terms.
    """
    gradients = [one for one in expected[1:] if one is not None and one.numel()]
    largest = max((float(one.abs().max()) for one in gradients), default=0.0)
    for name, one, other in zip(names, expected, found, strict=False):
        if one is None or other is None:
            given = one if one is not None else other
            if given is not None and bool(given.count_nonzero()):
                return f"the gradient of {name}, which one of them does not have"
            continue
        if not one.numel():
            continue
        size = float(one.abs().max())
        error = float((one - other).abs().max())
        usual = usual_loss if name == "loss" else 0.01 * largest
        allowed = TOLERANCE * max(size, usual)
        same = torch.equal(one.isnan(), other.isnan()) if error != error else error <= allowed
        if not same:
            what = "the loss" if name == "loss" else f"the gradient of {name}"
            return f"{what} (by {error:.3g}, of {size:.3g})"
    return None
