"""Compact networks, plain and lifted, in files: tensors and a plan, without pickle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pyrosparse.compaction.compact_net import CompactNet
from pyrosparse.compaction.rules.registry import REGISTERED
from pyrosparse.lifting.lift import Lifted
from pyrosparse.lifting.method import Method
from pyrosparse.storage.in_place_plan import has_account, in_place_network, in_place_plan
from pyrosparse.storage.modules import named_tensors, qualified_name
from pyrosparse.storage.plan import network, plan_of
from pyrosparse.storage.posterior import plan_of_posterior, posterior
from pyrosparse.storage.storage import (
    StorageError,
    allowance,
    pack,
    read_one_of,
    reading,
    unpack,
    write,
)

FORMAT = "pyrosparse network 1"
POSTERIOR = "pyrosparse posterior 1"


def save(path: str | os.PathLike[str], net: nn.Module) -> Path:
    """Write a network that ``compact`` made to one safetensors file, from which ``load`` makes it:
    a plain one, or a lifted one with its guide.

    The tensors are stored in the layout that takes the fewest bytes, so that zeros in them cost
    little. The metadata hold the graph, the layers' arguments and the account as JSON, and a digest
    of the whole file. There is no code in the file and no pickle, and equal networks give equal
    bytes.

    net: on any device, in any mode; gradients are not saved.

    A network that was cut in place is saved without its class: ``load`` must be given that of a
    Hugging Face model, whose configuration is in the file, or a network as the original was.

    A layer of one's own for which ``ps.compaction.register`` has a rule is in it by the name of its
    class, which ``load`` must be given; so is a method of one's own, a dataclass.

    Raises ValueError, which names it, where the network has what a file cannot hold: a module of
    one's own that torch.fx could not trace and that has no rule, a function that is none of
    torch's, hooks; and OSError where the file cannot be written, of which an earlier one is then
    still there.

    >>> import tempfile, torch
    >>> from pyrosparse.compaction import compact
    >>> small = compact(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load(save(f"{folder}/small.safetensors", small))
    >>> torch.equal(again(torch.ones(2, 4)), small(torch.ones(2, 4)))
    True
    """
    if isinstance(net, Lifted):
        return _save_posterior(path, net)
    if not has_account(net):
        raise ValueError(
            f"save needs a network that compact returned, not {type(net).__name__}: ps.save(path, "
            "ps.compact(net, example=x)). Without zeros compact cuts nothing"
        )
    traced = isinstance(net, CompactNet)
    plan = plan_of(net) if isinstance(net, CompactNet) else in_place_plan(net)
    tensors = {
        name: t.detach() for name, t in named_tensors(net).items() if name in plan["tensors"]
    }
    try:
        # What load would refuse is refused now; the meta device has shapes and takes no memory.
        if traced:
            network(plan, {k: t.to("meta") for k, t in tensors.items()}, _by_name([*REGISTERED]))
    except StorageError as error:
        raise ValueError(f"the network cannot be saved: {error}") from error
    parts, headers, _ = pack(tensors)
    write(path, parts, FORMAT, {"plan": plan, "tensors": headers})
    return Path(path)


def _save_posterior(path: str | os.PathLike[str], bnn: Lifted) -> Path:
    plan, tensors = plan_of_posterior(bnn)
    methods = [entry.method for entry in bnn.guide.entries]
    own: list[Any] = [type(part) for one in methods for part in (one, getattr(one, "fn", one))]
    try:
        posterior(plan, tensors, _by_name([*REGISTERED]) | {qualified_name(k): k for k in own})
    except StorageError as error:
        raise ValueError(f"the lifted network cannot be saved: {error}") from error
    parts, headers, _ = pack(tensors)
    write(path, parts, POSTERIOR, {"plan": plan, "tensors": headers})
    return Path(path)


def load(
    path: str | os.PathLike[str],
    *,
    trusted: Iterable[type[Any]] | Mapping[str, type[Any]] = (),
    into: nn.Module | None = None,
    memory: int | None = None,
) -> Any:
    """Read the network that ``save`` wrote, with its account and in its mode, on the CPU: a
    ``CompactNet``, or a ``Lifted`` network with its guide.

    Nothing of the network's original code is needed, and no code is run or imported by names in
    the file: a graph may call the layers of ``torch.nn``, our own, and operations on tensors that
    are in a list. So a file of unknown origin can be opened; what its network then computes is
    another matter.

    trusted: classes of layers and methods of one's own that the file may name, and of priors given
             to ``from_pyro``: their constructors are called with numbers and texts from the file. A
             mapping by the names in the file where a class has moved since.
    into:    of a network that was cut in place, one as the original was, which is left as it is:
             the result is a copy with the layers of the file.
    memory:  the most bytes that the tensors may take, since a small file can claim many; by default
             256 MiB and 1024 times the file.

    Warns where the file has no digest, as those that earlier versions wrote.

    Raises StorageError where the file is truncated, damaged in a single bit, of another program or
    asks for more memory, FileNotFoundError where there is none, and TypeError where ``trusted`` has
    what is no class of layers.
    """
    classes = _by_name(trusted)
    with reading(path):
        name, content, parts = read_one_of(path, [FORMAT, POSTERIOR])
        tensors = unpack(content["tensors"], parts, allowance(path, memory))
        if name == POSTERIOR:
            return posterior(content["plan"], tensors, classes)
        if "nodes" in content["plan"]:
            return network(content["plan"], tensors, classes)
        return in_place_network(content["plan"], tensors, classes, into)


def _by_name(trusted: Iterable[type[Any]] | Mapping[str, type[Any]]) -> dict[str, type[Any]]:
    by_name = (
        trusted if isinstance(trusted, Mapping) else {qualified_name(one): one for one in trusted}
    )
    for one in by_name.values():
        known = isinstance(one, type) and (
            issubclass(one, (nn.Module, Method)) or is_dataclass(one)
        )
        if not known:
            raise TypeError(
                "trusted takes classes of layers, subclasses of nn.Module, and of methods, "
                f"dataclasses, got {one!r}"
            )
    return dict(by_name)
