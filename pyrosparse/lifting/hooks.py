"""Forward hooks: gates on features, and weight noise drawn at the activations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pyrosparse.lifting.layers import is_conv1d
from pyrosparse.lifting.target import Target


class Gate:
    """Multiplies the features entering or leaving a module by a gate.

    target: of kind ``input`` or ``output``.
    draw:   takes the activation and returns the gate, (features,) or (batch, features), or of
            heads in their place; called once, so that a module used twice in a forward pass has
            one gate.

    length_first: whether activations of three dimensions have the batch in the second.

    fired: how often it has acted.
    """

    def __init__(
        self, target: Target, draw: Callable[[Tensor], Tensor], *, length_first: bool = False
    ) -> None:
        self.target = target
        self.fired = 0
        self._length_first = length_first
        self._draw = draw
        self._gains: Tensor | None = None

    def on(self, module: nn.Module) -> RemovableHandle:
        """Act on a module until the handle is removed."""
        if self.target.kind == "input":
            return module.register_forward_pre_hook(self._gate_input, with_kwargs=True)
        return module.register_forward_hook(lambda _, args, output: self._gated(output))

    def _gated(self, x: Tensor) -> Tensor:
        if self._length_first and x.dim() == 3:
            return self._times_gains(x.transpose(0, 1)).transpose(0, 1)
        return self._times_gains(x)

    def _times_gains(self, x: Tensor) -> Tensor:
        axis = self.target.axis
        assert axis is not None
        self.fired += 1
        if self._gains is None:
            self._gains = self._draw(x)
        gains = self._gains.repeat_interleave(self.target.block, -1)
        shape = [1] * x.dim()
        shape[axis] = gains.shape[-1]
        if x.shape[axis] == 1 != shape[axis]:  # it would be spread over all gates
            raise ValueError(
                f"{self.target.key!r} has {shape[axis]} gates, but the activation has one feature "
                f"in dimension {axis}: call the network with inputs of the width for which it was "
                "lifted"
            )
        if gains.dim() == 2:
            shape[0] = gains.shape[0]
        return x * gains.view(shape)

    def _gate_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (self._gated(args[0]), *args[1:]), kwargs
        name = "input" if "input" in kwargs else next(iter(kwargs))
        return args, kwargs | {name: self._gated(kwargs[name])}


class Noise:
    r"""Adds to a layer's output the noise that independent normal weights would give it.

    .. math:: h = x m + b + \sqrt{x^2 v}\, \epsilon, \qquad \epsilon \sim \mathcal N(0, 1)

    target: the weight of a Linear or a convolution, run with the mean weight.
    scale:  the weight's standard deviation, its shape.

    fired: how often it has acted.

    Raises ValueError if the layer is used twice in a forward pass: the noise of the two places
    is one and the same weight's, and would be drawn as if it were of two.
    """

    def __init__(self, target: Target, scale: Tensor) -> None:
        self.target = target
        self.fired = 0
        # Squares of half precision are soon 0 or infinite.
        self._exact = torch.float64 if scale.dtype is torch.float64 else torch.float32
        self._variance = scale.to(self._exact).square()

    def on(self, module: nn.Module) -> RemovableHandle:
        """Act on a module until the handle is removed."""
        return module.register_forward_hook(self._add_noise, with_kwargs=True)

    def _add_noise(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        self.fired += 1
        if self.fired > 1:
            raise ValueError(
                f"the noise of {self.target.key!r} cannot be drawn at the activations: its layer "
                "is used more than once in a forward pass, and all uses need the same draw of the "
                "weight. Draw the noise at the weight, such as by estimator='weights', or "
                "leave it out of the targets"
            )
        x = args[0] if args else next(iter(kwargs.values()))
        cast = torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, enabled=False) if cast else nullcontext():
            squared = x.to(self._exact).square()
            if isinstance(layer, nn.Linear):
                spread = F.linear(squared, self._variance)
            elif is_conv1d(layer):
                spread = squared @ self._variance
            else:
                spread = layer._conv_forward(squared, self._variance, None)  # type: ignore[operator]
            # A unit that sees only zeros has no noise; the square root's gradient there is
            # infinite.
            smallest = torch.finfo(spread.dtype).tiny
            return output + spread.clamp_min(smallest).sqrt().to(output) * torch.randn_like(output)
