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
    """Write a compact network, plain or lifted with its guide, to one safetensors file that
    ``load`` reads.

    The tensors are stored in the layout that takes the fewest bytes, so zeros cost little. The
    metadata contain the graph, the layers' arguments and the summary as JSON, and a digest of the
    whole file. The file contains no code and no pickle. Equal networks give equal bytes.

    net: on any device, in any mode; gradients are not saved.

    A network that was cut in place is saved without its class. For a Hugging Face model, whose
    configuration is in the file, pass the class to ``load``; for others, pass a network like the
    original. The same holds for layers that torch.fx could not trace: compact leaves them as they
    are, and ``load`` takes them from such a network.

    Your own layer, with a rule from ``ps.compaction.register``, is saved by the name of its class;
    pass the class to ``load``. The same holds for your own method, a dataclass.

    Raises ValueError, with the name of the part, if a file cannot contain a part of the network:
    a function that is not part of torch, or hooks. Raises OSError if the file cannot be written; an
    earlier file of this name is then still there.

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
            found = {k: t.to("meta") for k, t in tensors.items()}
            network(plan, found, _by_name([*REGISTERED]), net)
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
        trusted = _by_name([*REGISTERED]) | {qualified_name(k): k for k in own}
        posterior(plan, tensors, trusted, bnn.contents.net)
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
    """Read a network that ``save`` wrote, with its summary and in its mode, on the CPU: a
    ``CompactNet``, or a ``Lifted`` network with its guide.

    The original code of the network is not needed. A file cannot import or run code: its graph may
    call only layers of ``torch.nn`` and pyrosparse, and tensor operations from a fixed list. So you
    can open a file of unknown origin, but what its network computes is not checked.

    trusted: your own classes of layers, methods, and priors given to ``from_pyro`` that the file
             may use. Their constructors are called with numbers and strings from the file. Use a
             mapping from the names in the file if a class has moved.
    into:    for a network that was cut in place, or has layers that torch.fx could not trace: a
             network like the original. It is not changed; the result has copies of its layers.
    memory:  the largest number of bytes that the tensors may take, because a small file can claim
             much memory; by default 256 MiB plus 1024 times the size of the file.

    Warns if the file has no digest, like files of earlier versions.

    Raises StorageError if the file is truncated, damaged, from another program or needs more
    memory; FileNotFoundError if it does not exist; TypeError if ``trusted`` contains something
    other than classes.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"load reads a file and needs its path, got {type(path).__name__}")
    classes = _by_name(trusted)
    with reading(path):
        name, content, parts = read_one_of(path, [FORMAT, POSTERIOR])
        tensors = unpack(content["tensors"], parts, allowance(path, memory))
        if name == POSTERIOR:
            return posterior(content["plan"], tensors, classes, into)
        if "nodes" in content["plan"]:
            return network(content["plan"], tensors, classes, into)
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
