"""Compact networks in files: tensors and a plan, without pickle."""

from __future__ import annotations

import os
from pathlib import Path

from pyrosparse.compaction.compact import CompactNet
from pyrosparse.storage.modules import named_tensors
from pyrosparse.storage.plan import network, plan_of
from pyrosparse.storage.storage import StorageError, allowance, pack, read, reading, unpack, write

FORMAT = "pyrosparse network 1"


def save(path: str | os.PathLike[str], net: CompactNet) -> Path:
    """Write a network that ``compact`` made to one safetensors file, from which ``load`` makes it.

    The tensors are stored in the layout that takes the fewest bytes, so that zeros in them cost
    little. The metadata hold the graph, the layers' arguments and the account as JSON, and a digest
    of the whole file. There is no code in the file and no pickle, and equal networks give equal
    bytes.

    net: on any device, in any mode; gradients are not saved.

    Raises ValueError, which names it, where the network has what a file cannot hold: a module of
    one's own that torch.fx could not trace, a function that is none of torch's, hooks; and
    OSError where the file cannot be written, of which an earlier one is then still there.

    >>> import tempfile, torch
    >>> from pyrosparse.compaction import compact
    >>> small = compact(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load(save(f"{folder}/small.safetensors", small))
    >>> torch.equal(again(torch.ones(2, 4)), small(torch.ones(2, 4)))
    True
    """
    if not isinstance(net, CompactNet):
        raise ValueError(
            f"save takes a network that compact made, not {type(net).__name__}: "
            "ps.save(path, ps.compact(net, example=x)), which cuts nothing where nothing is zero"
        )
    plan = plan_of(net)
    tensors = {
        name: t.detach() for name, t in named_tensors(net).items() if name in plan["tensors"]
    }
    try:
        # What load would refuse is refused now; the meta device has shapes and takes no memory.
        network(plan, {name: tensor.to("meta") for name, tensor in tensors.items()})
    except StorageError as error:
        raise ValueError(f"the network cannot be saved: {error}") from error
    parts, headers, _ = pack(tensors)
    write(path, parts, FORMAT, {"plan": plan, "tensors": headers})
    return Path(path)


def load(path: str | os.PathLike[str], *, memory: int | None = None) -> CompactNet:
    """Read the network that ``save`` wrote, with its account and in its mode, on the CPU.

    Nothing of the network's original code is needed, and no code is run or imported by names in
    the file: a graph may call the layers of ``torch.nn``, our own, and operations on tensors that
    are in a list. So a file of unknown origin can be opened; what its network then computes is
    another matter.

    memory: the most bytes that the tensors may take, since a small file can claim many; by default
            256 MiB and 1024 times the file.

    Warns where the file has no digest, as those that earlier versions wrote.

    Raises StorageError where the file is truncated, damaged in a single bit, of another program or
    asks for more memory, and FileNotFoundError where there is none.
    """
    with reading(path):
        content, parts = read(path, FORMAT)
        return network(content["plan"], unpack(content["tensors"], parts, allowance(path, memory)))
