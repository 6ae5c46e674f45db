"""A request for a compaction, as both ways of cutting receive it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pyrosparse.compaction.read_elsewhere import refuse_gates_without_effect
from pyrosparse.compaction.reference import reference

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Request(Generic[Network]):
    """A network, the masks that say what to remove, and the limits on the result.

    net:      the network; it does not change.
    expected: the masked network, by its definition: what the compact one must compute.
    inputs:   the inputs of both; one mapping for keyword arguments.
    masks, gates, at_least, round_to: as for ``compact``; round_to is a number.
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
        """A request from the arguments of ``compact``.

        Raises ValueError as ``compact`` does if masks do not fit, gates have no effect or no
        example is found.

        >>> Request.of(nn.Linear(3, 2)).inputs[0].shape
        torch.Size([2, 3])
        """
        expected = reference(net, masks, gates)
        inputs = arguments_of(expected, example)
        gated = {
            key.rpartition(".")[0]
            for key in (masks or {}).keys() | (gates or {}).keys()
            if key.endswith((".input", ".output", ".heads"))
        }
        refuse_gates_without_effect(expected, inputs, gated)
        return cls(net, expected, inputs, masks, gates, at_least, round_to)


def arguments_of(
    net: nn.Module, example: Tensor | Sequence[Any] | Mapping[str, Any] | None
) -> tuple[Any, ...]:
    """The inputs of a network: the example, or a guess.

    Raises ValueError if no guess works."""
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
