"""Normal posteriors on all weights of a network, with their noise where each layer allows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.lifting.target import Target


def by_layer(
    method: Any, net: nn.Module, example: tuple[Any, ...]
) -> list[tuple[Any, list[Target]]]:
    """A method with its noise at the activations, and with its noise at the weights for those of
    layers that are not plain or act more than once: as ``lift`` takes them.

    method:  a ``Gaussian`` or ``VariationalDropout`` with ``estimator="activations"``.
    example: what the network is called with.
    """
    from pyrosparse.lifting.activation_noise import by_noise
    from pyrosparse.lifting.target import weights

    at_activations, others = by_noise(net, weights(net), example)
    pairs = [(method, at_activations), (replace(method, estimator="weights"), others)]
    return [pair for pair in pairs if pair[1]]
