"""The configuration of a Hugging Face model, where it can say what was cut."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pyrosparse.compaction.in_place.counts import Counts, Sizes, numbers

_OF_UNITS = ("head", "intermediate", "inner", "ffn", "mlp", "feed_forward", "hidden_dim")
_HEAD_SIZES = ("head_dim", "attention_head_size")


def is_pretrained(net: nn.Module) -> bool:
    """Whether a network is a Hugging Face model, which its class makes of a configuration.

    >>> is_pretrained(nn.Linear(2, 1))
    False
    """
    has_config = hasattr(getattr(net, "config", None), "to_dict")
    return has_config and hasattr(type(net), "from_pretrained")


def follow(small: nn.Module, net: nn.Module, cuts: Iterable[Sizes]) -> bool:
    """Give a smaller model the configuration that makes it, where all its layers agree.

    ``save_pretrained`` and ``from_pretrained`` then work as with any model. Where no configuration
    makes these sizes the model keeps the one that it had.

    small: the smaller model; net: what it was made of; cuts: the sizes that changed.

    Returns whether a configuration makes it.
    """
    if not is_pretrained(net):
        return False
    config: Any = net.config
    candidate: Any = copy.deepcopy(config)
    for cut in cuts:
        for name, value in cut.changes(vars(config), Counts()):
            if any(word in name for word in _OF_UNITS):  # others may be as large by chance
                setattr(candidate, name, value)
    own = numbers(net).values()
    sizes = {v for values in own for k, v in values.items() if k in _HEAD_SIZES}
    for head_dim in (None, *sizes):
        if head_dim is not None:
            candidate.head_dim = head_dim  # else it would follow from the smaller number of heads
        if _makes(net, candidate, small):
            old = getattr(small, "config", None)
            for module in small.modules():
                if vars(module).get("config") is old:
                    module.config = candidate
            return True
    return False


def _makes(net: nn.Module, config: Any, small: nn.Module) -> bool:
    try:
        with torch.device("meta"):
            made = type(net)(copy.deepcopy(config))
    except Exception:  # whatever a constructor raises on numbers that it was not made for
        return False
    return _shapes(made) == _shapes(small) and numbers(made) == numbers(small)


def _shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in net.state_dict().items()}
