"""What each input channel adds to what a layer computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.distributions.precision import at_least_float32


def contributions(layer: Any, x: Tensor, places: int, generator: torch.Generator) -> Tensor:
    """What each input channel adds to sampled outputs of a dense layer or convolution.

    x:      what enters the layer, (batch, ...).
    places: samples of each example; filters and places are drawn with the generator, on the CPU.

    Returns (batch * places, channels), float32 or more. Their sum over channels is the output
    without its bias.

    >>> layer, x = nn.Linear(3, 1), torch.ones(2, 3)
    >>> added = contributions(layer, x, 1, torch.Generator())
    >>> torch.allclose(added.sum(1) + layer.bias, layer(x)[:, 0])
    True
    """
    weight = at_least_float32(layer.weight.detach())
    windows = _windows(layer, at_least_float32(x))
    shape = windows.shape[1 : windows.dim() - weight.dim() + 1]

    def draw(size: int) -> Tensor:
        drawn = torch.randint(size, (len(x), places), generator=generator)
        return drawn.flatten().to(x.device)

    example = torch.arange(len(x), device=x.device).repeat_interleave(places)
    place = tuple(draw(size) for size in shape)
    filters = draw(len(weight))
    added = windows[(example, *place)] * weight[filters]
    return added.flatten(2).sum(2) if added.dim() > 2 else added


def _windows(layer: Any, x: Tensor) -> Tensor:
    """What an output sees: (batch, places..., channels, kernel...); a view."""
    if isinstance(layer, nn.Linear):
        return x
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    dims = x.dim() - 2
    for dim in range(dims):
        span = layer.dilation[dim] * (layer.kernel_size[dim] - 1) + 1
        x = x.unfold(2 + dim, span, layer.stride[dim])
    every: Any = (..., *(slice(None, None, step) for step in layer.dilation))
    return x[every].movedim(1, 1 + dims)
