"""Forward hooks of modules."""

from __future__ import annotations

from typing import Any

from torch import nn

_RECORDING = "transformers.utils.output_capturing"


def hooks_of(module: nn.Module) -> list[Any]:
    """What is called before and after a module's forward, in this order.

    Hugging Face's models keep hooks in their layers once a call has asked for hidden states or
    attentions. They record outputs where a call asks for them, and change none: they are left out.

    >>> layer = nn.ReLU()
    >>> _ = layer.register_forward_hook(print)
    >>> hooks_of(layer)
    [<built-in function print>]
    """
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [hook for hook in hooks if getattr(hook, "__module__", None) != _RECORDING]
