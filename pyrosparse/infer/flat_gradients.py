"""The gradients of all parameters in one tensor, which ranks sum in one operation."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


class FlatGradients:
    """A tensor with space for the gradients of parameters, and for the numbers that ranks exchange.

    flat: the loss, the number of ranks that failed, for each parameter the number of ranks with a
      gradient for it, and the gradients; ``(2 + parameters + elements,)``, in the widest of
      their dtypes.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> weight.grad = torch.tensor([2.0, 4.0])
    >>> gradients = FlatGradients()
    >>> gradients.follow([weight])
    >>> gradients.pack(loss=10.0, share=0.5, failed=False)
    tensor([5., 0., 1., 1., 2.])
    >>> gradients.unpack(), weight.grad
    ((tensor(5.), tensor(0.)), tensor([1., 2.]))
    """

    def __init__(self) -> None:
        self.flat = torch.empty(0)
        self._parameters: list[Tensor] = []
        self._views: list[Tensor] = []

    def follow(self, parameters: list[Tensor]) -> None:
        """Allocate the tensor for these parameters, unless it already fits."""
        if [id(one) for one in parameters] == [id(one) for one in self._parameters]:
            return
        dtype = reduce(torch.promote_types, (one.dtype for one in parameters), torch.float32)
        start = 2 + len(parameters)
        size = start + sum(one.numel() for one in parameters)
        self.flat = torch.zeros(size, dtype=dtype, device=parameters[0].device)
        self._views = []
        for one in parameters:
            # In the parameter's own layout: the optimizer reads both side by side.
            strides = torch.empty_like(one, device="meta").stride()
            self._views.append(self.flat.as_strided(one.shape, strides, start))
            start += one.numel()
        self._parameters = parameters

    def pack(self, loss: Tensor | float, share: float, *, failed: bool) -> Tensor:
        """Fill the tensor with the parameters' gradients and the loss, both times this rank's
        share.

        Raises ValueError if a gradient is sparse."""
        present = [one.grad is not None for one in self._parameters]
        given = [one.grad for one in self._parameters if one.grad is not None]
        if any(one.layout is not torch.strided for one in given):
            raise ValueError("ranks cannot exchange sparse gradients: nn.Embedding(sparse=False)")
        self.flat.zero_()
        if given:
            chosen = [view for view, there in zip(self._views, present, strict=True) if there]
            torch._foreach_copy_(chosen, given)
        self.flat.mul_(share)
        self.flat[0] = loss * share
        self.flat[1 : 2 + len(present)] = self.flat.new_tensor([failed, *present])
        return self.flat

    def unpack(self) -> tuple[Tensor, Tensor]:
        """Give the parameters the gradients in the tensor; returns the loss and the number of ranks
        that failed. As in one process, a parameter without a gradient on any rank has none."""
        present = [one.grad is not None for one in self._parameters]
        if not all(present):
            present = [bool(one) for one in self.flat[2 : 2 + len(present)].tolist()]
        for one, view, there in zip(self._parameters, self._views, present, strict=True):
            one.grad = view.to(one) if there else None
        return self.flat[0].clone(), self.flat[1]
