"""Where the noise of a weight can be drawn at the activations: at a plain layer that acts once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from pyrosparse.lifting.layers import is_conv1d
from pyrosparse.lifting.target import Target, locate
from pyrosparse.lifting.watch import read_without_calls
from pyrosparse.util.hooks import hooks_of
from pyrosparse.util.modes import evaluating

_PLAIN = (nn.Linear, NonDynamicallyQuantizableLinear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_noise(net: nn.Module, target: Target) -> None:
    """Refuse noise at the activations for a weight that is not a plain layer's alone.

    How often the layer acts is seen when the network runs.
    """
    reason = _reason(net, target)
    if reason:
        _refuse(target, reason)


def check_plain(layer: nn.Module, target: Target) -> None:
    """Refuse noise at the activations of a layer that may compute something else than the plain
    product of its input and its weight."""
    reason = _reason_of(layer)
    if reason:
        _refuse(target, reason)


def by_noise(
    net: nn.Module, targets: Sequence[Target], example: tuple[Any, ...]
) -> tuple[list[Target], list[Target]]:
    """The weights whose noise can be drawn at the activations, and the others.

    example: what the network is called with, once, in evaluation mode.

    >>> from pyrosparse.lifting.target import weights
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 1, 3))
    >>> at_activations, others = by_noise(net, weights(net), (torch.ones(1, 1, 5, 5),))
    >>> [target.key for target in at_activations], [target.key for target in others]
    (['0.weight'], ['1.weight'])
    """
    owners = {target.key: locate(net, target.name)[0] for target in targets}
    # Asked before the layers have the hooks that count.
    reasons = {target.key: _reason(net, target) for target in targets}
    calls: Counter[nn.Module] = Counter()
    handles = [
        layer.register_forward_pre_hook(lambda layer, _: calls.update([layer]))
        for layer in set(owners.values())
    ]
    try:
        with torch.no_grad(), evaluating(net):
            net(*example)
    finally:
        for handle in handles:
            handle.remove()
    resting = {_layer_of(one) for one in targets if not calls[owners[one.key]]}
    past = read_without_calls(net, resting, example) if resting else set()
    fit = {
        target.key
        for target in targets
        if not reasons[target.key]
        and calls[owners[target.key]] <= 1
        and _layer_of(target) not in past
    }
    at_activations = [target for target in targets if target.key in fit]
    return at_activations, [target for target in targets if target.key not in fit]


def _layer_of(target: Target) -> str:
    return target.name.rpartition(".")[0]


def _reason(net: nn.Module, target: Target) -> str:
    """Why the noise of a weight cannot be drawn at the activations; empty where it can."""
    layer, leaf = locate(net, target.name)
    named = net.named_parameters(remove_duplicate=False)
    shared = [name for name, parameter in named if parameter is target.value]
    if len(shared) > 1:
        return f"it is shared, as {' and '.join(shared)}, and one draw must serve all its places"
    if leaf != "weight":
        return "it is not a layer's weight"
    return _reason_of(layer)


def _reason_of(layer: nn.Module) -> str:
    plain = type(layer) in _PLAIN or (is_conv1d(layer) and type(layer).__name__ == "Conv1D")
    if not plain:
        return (
            f"it belongs to {type(layer).__name__}, which is not exactly torch's Linear, Conv1d, "
            "Conv2d or Conv3d or Hugging Face's Conv1D, and may compute something else"
        )
    if "forward" in layer.__dict__ or "_conv_forward" in layer.__dict__:
        return "its layer has a forward of its own"
    if hooks_of(layer):
        return "its layer has forward hooks, which may change what it computes"
    return ""


def _refuse(target: Target, reason: str) -> None:
    raise ValueError(
        f"the noise of {target.key!r} cannot be drawn at the activations: {reason}. Draw it at the "
        "weight, by estimator='weights' of Gaussian or VariationalDropout or likelihood='point' of "
        "GammaSpikeAndSlab, or leave it out of the targets"
    )
