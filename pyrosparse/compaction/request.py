"""What is asked of a compaction, in one piece, as both of its ways take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pyrosparse.compaction.reference import reference

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Request(Generic[Network]):
    """A network, what goes of it, and what is to be left.

    net:      it is left as it is.
    expected: the masked network, by its definition: what the compact one must compute.
    inputs:   what both are called with; one mapping for keyword arguments.
    masks, gates, at_least, round_to: as ``compact`` takes them; round_to a number.
    """

    net: Network
    expected: nn.Module
    inputs: tuple[Any, ...]
    masks: Mapping[str, Tensor] | None = None
    gates: Mapping[str, nn.Module] | None = None
    at_least: int | None = None
    round_to: int = 1

    @classmethod
    def of(
        cls,
        net: Network,
        masks: Mapping[str, Tensor] | None = None,
        example: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
        gates: Mapping[str, nn.Module] | None = None,
        at_least: int | None = None,
        round_to: int = 1,
    ) -> Request[Network]:
        """A request in the words of ``compact``.

        Raises ValueError as ``compact`` does where masks do not fit or no example is found.

        >>> Request.of(nn.Linear(3, 2)).inputs[0].shape
        torch.Size([2, 3])
        """
        expected = reference(net, masks, gates)
        inputs = arguments_of(expected, example)
        return cls(net, expected, inputs, masks, gates, at_least, round_to)


def arguments_of(
    net: nn.Module, example: Tensor | Sequence[Any] | Mapping[str, Any] | None
) -> tuple[Any, ...]:
    """What a network is called with: the example, or what can be guessed.

    Raises ValueError where nothing can."""
    if example is not None:
        if isinstance(example, Mapping):
            return (dict(example),)
        return (example,) if isinstance(example, Tensor) else tuple(example)
    first = next((p for p in net.parameters() if p.dim() >= 2), None)
    if first is not None:
        sides = (1,) if first.dim() == 2 else (28, 32, 64, 96, 128, 224)
        for side in sides:
            x = first.new_zeros(2, first.shape[1], *[side] * (first.dim() - 2))
            try:
                with torch.no_grad():
                    net(x)
            except (RuntimeError, ValueError, IndexError):
                continue
            return (x,)
    raise ValueError(
        "the shape of the network's input is not known: give an example, compact(net, masks, x[:1])"
    )
