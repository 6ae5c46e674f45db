"""All states of a few binary nodes."""

from __future__ import annotations

import torch
from torch import Tensor


def binary_states(n: int, like: Tensor) -> Tensor:
    """All states of n binary nodes, (2^n, n), node i the bit i of the index; dtype of ``like``.

    >>> binary_states(2, torch.zeros(()))
    tensor([[0., 0.],
            [1., 0.],
            [0., 1.],
            [1., 1.]])
    """
    bits = torch.arange(n, device=like.device)
    return ((torch.arange(2**n, device=like.device)[:, None] >> bits) & 1).to(like.dtype)
