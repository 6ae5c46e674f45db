"""Markov random fields on grids of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyro
from torch import Tensor

from pyrosparse.distributions import GridSupport
from pyrosparse.sum_product import sum_product
from pyrosparse.sum_product.transition import Transition
from pyrosparse.supports.prior import SupportPrior
from pyrosparse.util.errors import unknown_name

Layout = Literal["kernel", "tiled", "channel"]
_LAYOUTS = ("kernel", "tiled", "channel")


@dataclass(frozen=True)
class Grid(SupportPrior):
    r"""A Markov random field on a grid: every row and every column is a Markov chain.

    .. math::
        p(s) \propto \prod_r \Big[p(s_{r,1}) \prod_{m \ge 2} p_{row}(s_{r,m} \mid s_{r,m-1})\Big]
                     \prod_m \Big[p(s_{1,m}) \prod_{r \ge 2} p_{col}(s_{r,m} \mid s_{r-1,m})\Big]

    row, column: (p01, p10), the probabilities of a 1 after a 0, and of a 0 after a 1, along rows
                 and along columns. p01 = 1 - p10 couples nothing. Messages converge for certain
                 where p00 p11 < 4 p01 p10, which 0.4 and 0.4 satisfy.
    layout:      of convolutions. ``kernel``: each kernel is a grid of its own; ``tiled``: one grid
                 of a layer's kernels side by side, (in * height, out * width); ``channel``: at each
                 place of the kernel a grid of channels, (in, out). A dense weight is one grid of
                 (in, out), an input a row.
    sweeps:      over rows and columns, in every exchange of messages.
    damping:     the share of the old message in the new, in [0, 1).
    gibbs_sweeps: of Gibbs sampling, for a draw from a grid that is too large for exact ones.

    Raises ValueError on probabilities outside (0, 1), an unknown layout, no sweep, and damping out
    of range.

    Source: Xia, Tsang and Lau (2023), eqs. 2 and 3.

    >>> import torch
    >>> evidence = torch.zeros(1, 1, 3, 3)
    >>> evidence[..., 1, 1] = 5.0
    >>> Grid((0.35, 0.35), (0.35, 0.35)).messages(evidence)[0, 0, 1] > 0.5
    tensor([ True, False,  True])
    """

    row: tuple[float, float] = (0.4, 0.4)
    column: tuple[float, float] = (0.4, 0.4)
    layout: Layout = "kernel"
    sweeps: int = 6
    damping: float = 0.0
    gibbs_sweeps: int = 200

    def __post_init__(self) -> None:
        Transition.of("row", self.row)
        Transition.of("column", self.column)
        if self.layout not in _LAYOUTS:
            raise unknown_name("layout", self.layout, _LAYOUTS)
        for name in ("sweeps", "gibbs_sweeps"):
            value = getattr(self, name)
            if int(value) != value or value < 1:
                raise ValueError(f"{name} must be a positive whole number, got {value}")
        if not 0 <= self.damping < 1:
            raise ValueError(f"damping must be in [0, 1), got {self.damping}")

    def messages(self, log_odds: Tensor) -> Tensor:
        grid = to_grid(log_odds, self.layout).contiguous()
        heard = sum_product(grid, self.row, self.column, sweeps=self.sweeps, damping=self.damping)
        return from_grid(heard, log_odds, self.layout)

    def sample(self, name: str, weight: Tensor) -> Tensor:
        grid = to_grid(weight, self.layout)
        shape = (grid.shape[-2], grid.shape[-1])
        prior = GridSupport(self.row, self.column, shape, gibbs_sweeps=self.gibbs_sweeps)
        batch = grid.shape[:-2]
        drawn = pyro.sample(name, prior.expand(batch).to_event(len(batch)))
        return from_grid(drawn.to(weight), weight, self.layout)


def to_grid(weight: Tensor, layout: Layout) -> Tensor:
    """The grid, or the batch of grids, that the elements of a weight lie on, (..., K, M).

    weight: (out, in) of a dense layer, or (out, in, *kernel).

    >>> import torch
    >>> to_grid(torch.zeros(16, 6, 5, 3), "tiled").shape
    torch.Size([30, 48])
    """
    if weight.dim() < 3:
        return weight.t() if weight.dim() == 2 else weight.view(1, -1)
    planes = weight.unsqueeze(-2) if weight.dim() == 3 else weight
    if layout == "kernel":
        return planes
    if layout == "channel":
        return planes.movedim((0, 1), (-1, -2))
    # One plane of (in * height, out * width) for every place in the other dimensions.
    return planes.movedim((1, -2, 0, -1), (-4, -3, -2, -1)).flatten(-4, -3).flatten(-2)


def from_grid(grid: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    """The elements of a grid in the places that they have in the weight.

    >>> import torch
    >>> weight = torch.randn(4, 3, 2, 2)
    >>> torch.equal(from_grid(to_grid(weight, "tiled"), weight, "tiled"), weight)
    True
    """
    if weight.dim() < 3:
        return grid.t() if weight.dim() == 2 else grid.view(weight.shape)
    planes = weight.unsqueeze(-2) if weight.dim() == 3 else weight
    if layout == "channel":
        grid = grid.movedim((-1, -2), (0, 1))
    elif layout == "tiled":
        split = grid.unflatten(-1, (planes.shape[0], planes.shape[-1]))
        split = split.unflatten(-3, (planes.shape[1], planes.shape[-2]))
        grid = split.movedim((-4, -3, -2, -1), (1, -2, 0, -1))
    return grid.reshape(weight.shape)
