"""Quantiles by selection: what sorting would give, in a time in proportion to the elements."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pyrosparse.distributions.precision import at_least_float32


def quantile(values: Tensor, p: float) -> Tensor:
    r"""The p-quantile of all elements, with linear interpolation.

    .. math:: v_{(i)} + (j - i) \, (v_{(i+1)} - v_{(i)}), \qquad
        j = p (N - 1) + 1, \; i = \lfloor j \rfloor

    values: floating, any shape. Returns a tensor without dimensions, that of ``torch.quantile``; of
            bfloat16 and float16 it is computed in float32.

    Raises ValueError on p outside [0, 1].

    Source: Labach and Valaee (2020), eq. 2.

    >>> quantile(torch.tensor([[4.0, 1.0], [3.0, 2.0]]), 0.5)
    tensor(2.5000)
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in [0, 1], got {p}")
    place = p * (values.numel() - 1)
    below = math.floor(place)
    select = _select_on_cpu if values.is_cpu else _select
    lower, upper = select(at_least_float32(values), below).unbind()
    result = lower if place == below else torch.lerp(lower, upper, place - below)
    return result.to(values)


def _select(values: Tensor, place: int) -> Tensor:
    """The elements at a place in the order of all, from 0, and at the next; (2,)."""
    flat = values.flatten()
    lower = flat.kthvalue(place + 1).values
    larger = flat > lower
    # The next is as large, where there are more of that value.
    ties = values.numel() - larger.sum() > place + 1
    upper = torch.where(larger, flat, torch.inf).amin()
    return torch.stack([lower, torch.where(ties | ~larger.any(), lower, upper)])


@torch.library.custom_op("pyrosparse::select", mutates_args=(), device_types="cpu")
def _select_on_cpu(values: Tensor, place: int) -> Tensor:
    # Ten times as fast as kthvalue; of any memory layout without a copy.
    ordered = np.partition(values.detach().numpy().ravel(order="K"), place)
    upper = ordered[place + 1 :].min(initial=np.inf)
    upper = ordered[place] if place + 1 == len(ordered) else upper
    return torch.from_numpy(np.stack([ordered[place], upper]).astype(ordered.dtype))


@_select_on_cpu.register_fake
def _(values: Tensor, place: int) -> Tensor:
    return values.new_empty(2)
