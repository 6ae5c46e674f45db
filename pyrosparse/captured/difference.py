"""Whether two programs for a step agree up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

LOSS_TOLERANCE = 1e-4
"""Relative difference of a loss that rounding does not explain."""

GRADIENT_TOLERANCE = 0.02
"""Relative difference of a gradient, in the Euclidean norm, that rounding does not explain.

Rounding is enough for a unit to fall on the other side of a ReLU's kink or a pool's maximum, which
moves the gradient of the layers before it by one datum's share.
"""


def difference(
    names: list[str],
    expected: list[Tensor | None],
    found: list[Tensor | None],
    *,
    usual_loss: float = 0.0,
) -> str | None:
    """The name of the first result that differs by more than rounding, and the difference.

    names: ``loss`` and the names of the gradients.
    usual_loss: the size of earlier losses; a loss near zero is still a sum of large terms.
    """
    gradients = [one for one in expected[1:] if one is not None]
    largest = max((float(one.norm()) for one in gradients), default=0.0)
    for name, one, other in zip(names, expected, found, strict=False):
        if one is None or other is None:
            given = one if one is not None else other
            if given is not None and bool(given.count_nonzero()):
                return f"the gradient of {name}, which one of them does not have"
            continue
        size, error = float(one.norm()), float((one - other).norm())
        if name == "loss":
            what, allowed = "the loss", LOSS_TOLERANCE * max(size, usual_loss)
        else:
            what = f"the gradient of {name}"
            allowed = GRADIENT_TOLERANCE * max(size, 1e-4 * largest)
        same = torch.equal(one.isnan(), other.isnan()) if error != error else error <= allowed
        if not same:
            return f"{what} (by {error:.3g}, of {size:.3g})"
    return None
