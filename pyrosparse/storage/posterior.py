"""A lifted network as a plan, JSON, beside its tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.compact_net import CompactNet
from pyrosparse.lifting.guide import Contents, check_target
from pyrosparse.lifting.lift import Lifted
from pyrosparse.lifting.target import Target, inputs, outputs
from pyrosparse.storage.methods import build_method, check_method, describe_method
from pyrosparse.storage.modules import named_tensors
from pyrosparse.storage.plan import network, plan_of
from pyrosparse.storage.storage import StorageError


def plan_of_posterior(bnn: Lifted) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What makes up a compact lifted network beside the numbers, as JSON, and the numbers by the
    names that they have in its state dict.

    Raises ValueError if its network or a method is nothing that a file can hold.
    """
    net = bnn.contents.net
    if not isinstance(net, CompactNet):
        raise ValueError(
            f"the lifted network holds a {type(net).__name__} instead of a compact network: "
            "ps.save(path, ps.compact(bnn, example=x)). If nothing is frozen, compact cuts "
            "nothing"
        )
    plan = plan_of(net)
    own = named_tensors(net)
    tensors = {f"net.{name}": own[name].detach() for name in plan["tensors"]}
    targets = []
    for entry in bnn.guide.entries:
        target, described = entry.target, {}
        tensors[_name(target.key, "mask")] = entry.mask
        for key, tensor in entry.tensors().items():
            shared = entry.owner is not None and tensor is entry.parameter()
            described[key] = {"network": shared, "trained": tensor.requires_grad}
            if not shared:
                tensors[_name(target.key, key)] = tensor.detach()
        targets.append(
            {
                "name": target.name,
                "kind": target.kind,
                "method": describe_method(entry.method),
                "tensors": described,
            }
        )
    prefix = bnn.targets[0].prefix
    return {"net": plan, "targets": targets, "name": prefix, "training": bnn.training}, tensors


def posterior(
    plan: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    trusted: Mapping[str, type[Any]],
    into: nn.Module | None = None,
) -> Lifted:
    """The lifted network of a plan.

    tensors: by name, those of ``plan_of_posterior``; they are copied.
    trusted: classes of layers and methods beside those of torch.nn and ours, by name.
    into:    a network as the original was, for layers of its own classes.

    Raises StorageError, ValueError or TypeError if the plan has what no plan may have, or the
    tensors do not fit.
    """
    own = {
        name.removeprefix("net."): value
        for name, value in tensors.items()
        if name.startswith("net.")
    }
    layers = {name: kind for name, kind in trusted.items() if issubclass(kind, nn.Module)}
    net = network(plan["net"], own, layers, into)
    unused = {name for name in tensors if not name.startswith("net.")}
    parts: list[Any] = []
    for entry in plan["targets"]:
        target = _target(net, entry["name"], entry["kind"], plan["name"])
        value = target.value
        mask = tensors[_name(target.key, "mask")]
        if tuple(mask.shape) != target.shape or mask.dtype != torch.bool:
            raise StorageError(
                f"the mask of {target.key!r} is {mask.dtype} {tuple(mask.shape)}, and its target "
                f"takes torch.bool {target.shape}"
            )
        method = check_method(build_method(entry["method"], trusted), target.key)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has been lifted before
            check_target(net, method, target, [other for _, other, _ in parts])
        unused.discard(_name(target.key, "mask"))
        found = {}
        for key, said in entry["tensors"].items():
            unused.discard(_name(target.key, key))
            found[key] = value if said["network"] else tensors[_name(target.key, key)]
        parts.append((method, target, found))
    if unused or not parts:
        raise StorageError(f"no target has what it has as {', '.join(sorted(unused)) or 'nothing'}")
    contents = Contents.of(net, parts)
    bnn = Lifted(contents, name=plan["name"])
    for entry, said in zip(bnn.guide.entries, plan["targets"], strict=True):
        entry.mask.copy_(tensors[_name(entry.target.key, "mask")])
        for key, tensor in entry.tensors().items():
            tensor.requires_grad_(said["tensors"][key]["trained"])
    bnn.guide.find_frozen()
    modes = {name: module.training for name, module in net.named_modules()}
    bnn.train(plan["training"])
    for name, module in net.named_modules():
        module.training = modes[name]
    return bnn


def _target(net: nn.Module, name: str, kind: str, prefix: str) -> Target:
    """The target of this name and kind in a network; raises StorageError where there is none."""
    if kind == "weight":
        value = net.get_parameter(name)
        return Target(name, "weight", tuple(value.shape), value, prefix=prefix)
    select = {"input": inputs, "output": outputs}.get(kind)
    if select is None:
        raise StorageError(f"the target {name!r} is of kind {kind!r}, which is none")
    return replace(select(net, lambda other, _: other == name)[0], prefix=prefix)


def _name(key: str, tensor: str) -> str:
    return f"guide.posterior.{key}.{tensor}"
