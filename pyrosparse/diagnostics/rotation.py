"""Rotated images, to measure accuracy on images unlike the training data."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def rotated(x: Tensor, degrees: float) -> Tensor:
    """Images rotated anticlockwise about their centre, bilinear, (n, channels, height, width).

    Corners are filled with the nearest pixel of the border, so that a background of any value
    continues.

    x: floating point, (n, channels, height, width).

    Raises ValueError if x is not a tensor of images.

    >>> torch.round(rotated(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 90))
    tensor([[[[2., 4.],
              [1., 3.]]]])
    """
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(
            f"x must be images (n, channels, height, width), floating point; got {x.dtype} "
            f"{tuple(x.shape)}"
        )
    angle = math.radians(degrees)
    height, width = x.shape[2:]
    # grid_sample's coordinates run from -1 to 1 along both sides, whatever their lengths.
    turn = torch.tensor(
        [
            [math.cos(angle), -math.sin(angle) * height / width, 0.0],
            [math.sin(angle) * width / height, math.cos(angle), 0.0],
        ],
        dtype=x.dtype,
        device=x.device,
    )
    grid = F.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
