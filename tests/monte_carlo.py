"""Comparing Monte Carlo with truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def assert_mean(draws: Tensor, expected: Tensor | float, rounding: float = 1e-9) -> None:
    """The mean over the first dimension is the expected one, within 4 standard errors.

    rounding: what arithmetic may add, relative to the expected value; it decides only where the
    draws have no spread.
    """
    draws = draws.detach()
    expected = torch.as_tensor(expected, dtype=draws.dtype)
    error = draws.std(dim=0) / math.sqrt(len(draws))
    allowed = 4 * error + rounding * (1 + expected.abs())
    off = (draws.mean(dim=0) - expected).abs()
    assert bool((off <= allowed).all()), f"off by {off.max()}, where {allowed.max()} is allowed"
