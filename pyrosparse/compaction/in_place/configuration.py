"""The configuration of a Hugging Face model, where it can say what was cut."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pyrosparse.compaction.in_place.counts import numbers


def follow(small: nn.Module, net: nn.Module) -> bool:
    """Give a smaller model the configuration that makes it, where all its layers agree.

    ``save_pretrained`` and ``from_pretrained`` then work as with any model. Where no configuration
    makes these sizes the model keeps the one that it had.

    small: the smaller model; net: what it was made of.

    Returns whether a configuration makes it.
    """
    config = getattr(net, "config", None)
    if not (hasattr(config, "to_dict") and hasattr(type(net), "from_pretrained")):
        return False
    shapes = _shapes(small)
    if shapes == _shapes(net):
        return False
    for head_dim in (False, True):
        candidate = _candidate(config, small, net, head_dim)
        if candidate is None:
            continue
        try:
            with torch.device("meta"):
                made = type(net)(copy.deepcopy(candidate))
        except Exception:  # whatever a constructor raises on numbers that it was not made for
            continue
        if _shapes(made) == shapes and numbers(made) == numbers(small):
            old = getattr(small, "config", None)
            for module in small.modules():
                if vars(module).get("config") is old:
                    module.config = candidate  # type: ignore[assignment]
            return True
    return False


def _candidate(config: Any, small: nn.Module, net: nn.Module, head_dim: bool) -> Any:
    """The configuration with those numbers changed that changed alike in all modules."""
    changes: dict[str, dict[int, set[int]]] = {}
    before, after = numbers(net), numbers(small)
    for name, values in before.items():
        for key, old in values.items():
            new = after.get(name, {}).get(key)
            if new is not None:
                changes.setdefault(key, {}).setdefault(old, set()).add(new)
    widths: dict[int, set[int]] = {}
    modules = dict(small.named_modules())
    for name, module in net.named_modules():
        for key in ("in_features", "out_features", "nf", "nx"):
            old, new = vars(module).get(key), vars(modules.get(name, module)).get(key)
            if isinstance(old, int) and isinstance(new, int) and old != new:
                widths.setdefault(old, set()).add(new)
    candidate = copy.deepcopy(config)
    changed = False
    for key, value in config.to_dict().items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        found = changes.get(key, {}).get(value) or (
            widths.get(value) if _is_inner(key) else _heads(key, value, changes)
        )
        if found and len(found) == 1 and found != {value}:
            setattr(candidate, key, next(iter(found)))
            changed = True
    if not changed:
        return None
    if head_dim:
        sizes = {v for values in before.values() for k, v in values.items() if k in _HEAD_SIZES}
        if len(sizes) != 1:
            return None
        candidate.head_dim = sizes.pop()
    return candidate


_HEAD_SIZES = ("head_dim", "attention_head_size")


def _is_inner(key: str) -> bool:
    return any(word in key for word in ("intermediate", "inner", "ffn", "mlp", "hidden_dim"))


def _heads(
    key: str, value: int, changes: Mapping[str, Mapping[int, set[int]]]
) -> set[int] | None:
    """What became of numbers of heads that are called otherwise in modules."""
    if "head" not in key or "dim" in key or "size" in key:
        return None
    found = [new for name, by in changes.items() if "head" in name for old, new in by.items() if old == value]
    return found[0] if found else None


def _shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in net.state_dict().items()}
