"""The precision to compute in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(value: Tensor) -> Tensor:
    """A bfloat16 or float16 tensor in float32, any other as it is: of probabilities and squares of
    small weights, a dtype of half the bits leaves too little.

    >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
