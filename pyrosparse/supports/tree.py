"""Markov trees over the weights of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from torch import Size, Tensor

from pyrosparse.distributions import TreeSupport
from pyrosparse.sum_product import tree_sum_product
from pyrosparse.sum_product.transition import Transition
from pyrosparse.supports.prior import SupportPrior


@dataclass(frozen=True)
class Tree(SupportPrior):
    r"""A Markov tree over the weights of a tensor; its messages are exact.

    .. math:: p(s) = \prod_{\text{roots}} p(s_n) \prod_{\text{others}} p(s_n \mid s_{parent(n)})

    transition: (p01, p10) from parent to child: the probabilities of a 1 after a 0, and of a 0
                after a 1.
    parents:    ``parents(shape)`` returns, for a weight of that shape, the parent of each of its
                elements: int64, (elements,), places in row-major order, -1 for a root. By default
                each kernel is a tree that grows from its centre.

    Raises ValueError on probabilities outside (0, 1).

    >>> Tree((0.1, 0.1)).messages(torch.tensor([[[0.0, 3.0, 0.0]]]))
    tensor([[[1.8325, 0.0000, 1.8325]]])
    """

    transition: tuple[float, float]
    parents: Callable[[Size], Tensor] | None = None

    def __post_init__(self) -> None:
        Transition.of("transition", self.transition)

    def messages(self, log_odds: Tensor) -> Tensor:
        parent = self._parents(log_odds.shape).to(log_odds.device)
        heard = tree_sum_product(log_odds.flatten(), parent, self.transition)
        return heard.view(log_odds.shape)

    def sample(self, name: str, weight: Tensor) -> Tensor:
        prior = TreeSupport(self._parents(weight.shape), self.transition)
        return pyro.sample(name, prior).to(weight).view(weight.shape)

    def _parents(self, shape: Size) -> Tensor:
        return (self.parents or from_the_centre)(shape)


def from_the_centre(shape: Size) -> Tensor:
    """Parents that make of each kernel a tree: the next element towards the centre, along the
    dimension in which it is farther away; of a dense weight every element is a root.

    shape: (out, in, *kernel). Returns int64, (elements,).

    >>> from_the_centre(torch.Size([1, 1, 4]))
    tensor([ 1,  2, -1,  2])
    """
    kernel = shape[2:]
    place = (
        torch.stack(
            torch.meshgrid(*[torch.arange(size) for size in kernel], indexing="ij"), -1
        ).view(-1, len(kernel))
        if kernel
        else torch.zeros(1, 0, dtype=torch.int64)
    )
    offset = place - torch.tensor([size // 2 for size in kernel], dtype=torch.int64)
    elements = kernel.numel()
    parent = torch.full((elements,), -1)
    if kernel:
        away, farthest = offset.abs().max(1)
        step = torch.zeros_like(offset).scatter_(1, farthest[:, None], 1) * offset.sign()
        strides = torch.tensor([kernel[i + 1 :].numel() for i in range(len(kernel))])
        towards = ((place - step) * strides).sum(1)
        parent = torch.where(away > 0, towards, -1)
    start = torch.arange(shape[:2].numel())[:, None] * elements
    return torch.where(parent >= 0, parent + start, -1).flatten()
