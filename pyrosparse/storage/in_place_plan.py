"""The plan of a network that was cut in place: what its class does not make by itself, as JSON."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.account import Account
from pyrosparse.compaction.in_place.attention import MultiheadAttention, without_nested_tensors
from pyrosparse.compaction.in_place.counts import numbers
from pyrosparse.compaction.parts import Gain, Gained
from pyrosparse.storage import modules
from pyrosparse.storage.modules import named_tensors, qualified_name
from pyrosparse.storage.plan import (
    account_of,
    copy_of,
    describe_tensors,
    own_tensors,
    refuse_hooks,
    set_modes,
    without_parametrizations,
)
from pyrosparse.storage.storage import StorageError
from pyrosparse.util.modes import forget

_SIDES = ("entering", "leaving")


def in_place_plan(net: nn.Module) -> dict[str, Any]:
    """What a network that was cut in place has beside the numbers in its tensors.

    ``class`` and, of a Hugging Face model, ``config``; ``numbers``: whole numbers in its modules,
    such as their heads; ``configs``: those in configurations of modules' own; ``layers``: attention
    that has taken the place of torch's; ``gains``: what multiplies what enters and leaves modules,
    by the dimension.

    Raises ValueError if it has hooks, or gates that depend on the input.
    """
    refuse_hooks(net)
    config: Any = getattr(net, "config", None)
    tensors, same = describe_tensors(net)
    own = {
        name: module.config
        for name, module in net.named_modules()
        if name and vars(module).get("config", config) is not config
    }
    return {
        "class": qualified_name(type(net)),
        "config": config.to_dict() if hasattr(config, "to_dict") else None,
        "numbers": numbers(net, layers=True),
        "configs": {
            name: {k: v for k, v in vars(one).items() if type(v) is int and k[0] != "_"}
            for name, one in own.items()
        },
        "layers": {
            name: modules.describe(name, module)
            for name, module in net.named_modules()
            if isinstance(module, MultiheadAttention)
        },
        "gains": {
            name: {side: _dimensions(name, getattr(module, side)) for side in _SIDES}
            for name, module in net.named_modules()
            if isinstance(module, Gained)
        },
        "tensors": tensors,
        "same": same,
        "training": sorted(name for name, module in net.named_modules() if module.training),
        "account": dataclasses.asdict(net.account),  # type: ignore[call-overload]
    }


def in_place_network(
    plan: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    trusted: Mapping[str, type[nn.Module]],
    into: nn.Module | None,
) -> nn.Module:
    """The network of a plan.

    trusted: classes of Hugging Face models, by name; what is one is made of its configuration.
    into:    a network as the original was; it is left as it is.

    Raises StorageError if neither makes the network, or the plan and tensors do not fit it.
    """
    net = without_parametrizations(_made(plan, trusted)) if into is None else copy_of(into)
    if qualified_name(type(net)) != plan["class"]:
        raise StorageError(
            f"it holds a network of class {plan['class']}, but `into` is a "
            f"{qualified_name(type(net))}"
        )
    own = own_tensors(plan, tensors)
    try:
        for name, gains in plan.get("gains", {}).items():
            net.set_submodule(name, _gained(net.get_submodule(name), gains))
        for name, description in plan["layers"].items():
            inside = {k[len(name) + 1 :]: t for k, t in own.items() if k.startswith(f"{name}.")}
            net.set_submodule(name, modules.build(description, inside))
        without_nested_tensors(net)
        _set_numbers(net, plan)
    except AttributeError as error:
        raise StorageError(f"it does not fit the network given as `into`: {error}") from error
    if named_tensors(net).keys() != own.keys():
        names = ", ".join(sorted(named_tensors(net).keys() ^ own.keys())[:5])
        raise StorageError(f"these tensors are in only one of the file and the network: {names}")
    for name, tensor in own.items():
        owner, _, leaf = name.rpartition(".")
        holder = net.get_submodule(owner)
        held = holder._parameters if isinstance(tensor, nn.Parameter) else holder._buffers
        if leaf not in held:
            raise StorageError(f"{name!r} is a parameter in one of both, and a buffer in the other")
        held[leaf] = tensor  # type: ignore[assignment]
    forget(net)
    net.account = account_of(plan["account"])  # type: ignore[assignment]
    set_modes(net, set(plan["training"]))
    return net


def _dimensions(name: str, gains: Any) -> list[int]:
    """The dimension of each gain on one side of a module."""
    if not all(isinstance(one, Gain) for one in gains):
        raise ValueError(
            f"{name!r} has gates that depend on the input, which a file cannot hold of a network "
            "that was cut in place: keep it as a pickle, torch.save(net, path)"
        )
    return [one.dim for one in gains]


def _gained(module: nn.Module, gains: Any) -> Gained:
    """A module between gains, whose numbers are put into them later."""
    sides = [gains[side] for side in _SIDES]
    if not all(type(dim) is int for side in sides for dim in side):
        raise StorageError("the dimension of a gain is no whole number")
    entering, leaving = ([Gain(torch.empty(0), dim) for dim in side] for side in sides)
    return Gained(module, entering, leaving)


def has_account(net: nn.Module) -> bool:
    """Whether ``compact`` made a network."""
    return isinstance(getattr(net, "account", None), Account)


def _made(plan: Mapping[str, Any], trusted: Mapping[str, type[nn.Module]]) -> nn.Module:
    name, config = plan["class"], plan["config"]
    kind = trusted.get(name)
    if kind is None or config is None or not hasattr(kind, "config_class"):
        way = (
            f"ps.load(path, trusted=[{name.rpartition('.')[2]}])"
            if config is not None
            else "ps.load(path, into=net), with a network as the original was before it was cut"
        )
        raise StorageError(
            f"it holds a network that was cut in place, of class {name}. Read it with {way}"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            return kind(kind.config_class.from_dict(dict(config)))  # type: ignore[no-any-return]
    except Exception as error:  # whatever a constructor raises on what it was not made for
        raise StorageError(f"{name} cannot be made of its configuration: {error}") from error


def _set_numbers(net: nn.Module, plan: Mapping[str, Any]) -> None:
    for name, values in plan["numbers"].items():
        module = net.get_submodule(name)
        for key, value in values.items():
            if type(value) is not int or type(vars(module).get(key)) is not int:
                raise StorageError(f"{name!r} has no whole number {key!r}")
            setattr(module, key, value)
    copies: dict[str, Any] = {}
    for name, values in plan["configs"].items():
        module = net.get_submodule(name)
        config = copies.setdefault(str(values), copy.deepcopy(module.config))
        for key, value in values.items():
            if type(value) is not int or type(vars(config).get(key)) is not int:
                raise StorageError(f"the configuration of {name!r} has no whole number {key!r}")
            setattr(config, key, value)
        module.config = config
