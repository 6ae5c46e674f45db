"""Forward hooks: gates on features, and weight noise drawn at the activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pyrosparse.target import Target


def gate(module: nn.Module, target: Target, draw: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Multiply the features entering or leaving a module by a gate.

    target: of kind ``input`` or ``output``.
    draw:   takes the activation and returns the gate, (features,) or (batch, features); called
            once, so that a module used twice in a forward pass has one gate.
    """
    drawn: list[Tensor] = []

    def gated(x: Tensor) -> Tensor:
        assert target.axis is not None
        if not drawn:
            drawn.append(draw(x))
        gains = drawn[0]
        shape = [1] * x.dim()
        shape[target.axis] = gains.shape[-1]
        if gains.dim() == 2:
            shape[0] = gains.shape[0]
        return x * gains.view(shape)

    def gate_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (gated(args[0]), *args[1:]), kwargs
        return args, kwargs | {"input": gated(kwargs["input"])}

    if target.kind == "input":
        return module.register_forward_pre_hook(gate_input, with_kwargs=True)
    return module.register_forward_hook(lambda _, args, output: gated(output))


def noise(module: nn.Module, variance: Tensor) -> RemovableHandle:
    r"""Add to a layer's output the noise that independent normal weights would give it.

    .. math:: h = x m + b + \sqrt{x^2 v}\, \epsilon, \qquad \epsilon \sim \mathcal N(0, 1)

    module:   Linear or a convolution, run with the mean weight.
    variance: of the weight, its shape.
    """

    def add_noise(
        layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        squared = (args[0] if args else kwargs["input"]).square()
        if isinstance(layer, nn.Linear):
            spread = F.linear(squared, variance)
        else:
            spread = layer._conv_forward(squared, variance, None)  # type: ignore[operator]
        # A unit that sees only zeros has no noise; the square root's gradient there is infinite.
        smallest = torch.finfo(spread.dtype).tiny
        return output + spread.clamp_min(smallest).sqrt() * torch.randn_like(output)

    return module.register_forward_hook(add_noise, with_kwargs=True)
