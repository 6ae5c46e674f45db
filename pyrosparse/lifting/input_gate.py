"""A gate whose gains depend on the features that it lets through."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TOLERANCE = 1e-6
"""How far from 0 and 1 the factor that depends on the input stays."""


class InputGate(nn.Module):
    r"""Multiplies every feature by a gain that depends on its own size.

    .. math:: y_k = g_k c_k x_k, \qquad
              c_k = \mathrm{clamp}(s_k \bar x_k + o_k, \epsilon, 1 - \epsilon)

    and 0 where :math:`c_k` is below a floor; :math:`\bar x` is the mean over all positions.

    x: (batch, ..., features, ...) with the features in dimension ``dim``; y has its shape.
    scale, offset, floor, gain: s, o, the floor and g, (features,).

    >>> gate = InputGate(*torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.2, 0.2], [1.0, 0.5]]), dim=-1)
    >>> gate(torch.tensor([[0.5, 0.5], [0.1, 2.0]]))
    tensor([[0.2500, 0.1250],
            [0.0000, 1.0000]])
    """

    scale: Tensor
    offset: Tensor
    floor: Tensor
    gain: Tensor

    def __init__(
        self, scale: Tensor, offset: Tensor, floor: Tensor, gain: Tensor, dim: int
    ) -> None:
        super().__init__()
        self.dim = dim
        for name, value in (("scale", scale), ("offset", offset), ("floor", floor), ("gain", gain)):
            self.register_buffer(name, value.detach().clone())

    def gains(self, x: Tensor) -> Tensor:
        """The gains of every datum, (batch, features)."""
        clamped = torch.clamp(pooled(x, self.dim) * self.scale + self.offset, *LIMITS)
        return self.gain * clamped * (clamped >= self.floor)

    def forward(self, x: Tensor) -> Tensor:
        gains = self.gains(x)
        features = x.movedim(self.dim, -1)
        shape = (len(x), *[1] * (x.dim() - 2), gains.shape[1])
        return (features * gains.view(shape).expand_as(features)).movedim(-1, self.dim)

    def extra_repr(self) -> str:
        return f"{len(self.gain)} features, dim={self.dim}"


LIMITS = (TOLERANCE, 1 - TOLERANCE)


def pooled(x: Tensor, dim: int) -> Tensor:
    """The mean of every feature over all positions, (batch, features).

    x: (batch, ..., features, ...) with the features in dimension ``dim``.

    >>> pooled(torch.arange(8.0).view(1, 2, 2, 2), dim=1)
    tensor([[1.5000, 5.5000]])
    """
    features = x.movedim(dim, -1)
    return features.flatten(1, -2).mean(1) if features.dim() > 2 else features
