"""Elementwise functions whose derivatives are given as formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def elementwise(
    value: Callable[..., Tensor], derivatives: Callable[..., tuple[Tensor, ...]], *inputs: Tensor
) -> Tensor:
    """``value(*inputs)``, of which autograd takes the derivatives by a formula.

    A function with one formula on either side of a point costs autograd every operation of both
    sides, and a step of inference has many of them: the derivative itself is often shorter.

    derivatives: the derivative by each input, from the inputs and the value. Of operations that
                 autograd knows, so that it can be differentiated again.
    inputs:      of one shape.

    >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
    >>> elementwise(torch.exp, lambda x, y: (y,), x).sum().backward()
    >>> x.grad
    tensor([1.0000, 2.7183])
    """
    return _Elementwise.apply(value, derivatives, *inputs)


class _Elementwise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Any, derivatives: Any, *inputs: Tensor) -> Tensor:
        return value(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.derivatives, *tensors = inputs
        ctx.save_for_backward(*tensors, output)
        ctx.save_for_forward(*tensors, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        found = ctx.derivatives(*ctx.saved_tensors)
        return None, None, *(gradient * one for one in found)

    @staticmethod
    def jvp(ctx: Any, _value: None, _derivatives: None, *tangents: Tensor | None) -> Tensor:
        found = ctx.derivatives(*ctx.saved_tensors)
        products = [
            tangent * one
            for tangent, one in zip(tangents, found, strict=True)
            if tangent is not None
        ]
        return torch.stack(torch.broadcast_tensors(*products)).sum(0)
