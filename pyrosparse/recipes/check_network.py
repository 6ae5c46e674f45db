"""What a network must be for ``compress``: one that can be copied, and run on the data."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyrosparse.compaction.copies import computed_tensors
from pyrosparse.evidence.traces import evaluation_mode


def trainable_copy(net: nn.Module) -> nn.Module:
    """A copy of a network, in its modes, that can be trained and copied again.

    Raises ValueError if torch cannot copy it.

    >>> trainable_copy(nn.Linear(3, 2))
    Linear(in_features=3, out_features=2, bias=True)
    """
    if isinstance(net, torch.jit.ScriptModule):
        raise ValueError(
            "the network is a torch.jit program, whose layers cannot be changed: give the module "
            "that it was made from"
        )
    try:
        return copy.deepcopy(net)
    except Exception as error:
        made = list(computed_tensors(net))
        if not made:
            raise ValueError(f"the network cannot be copied: {error}") from error
        raise ValueError(
            f"the network cannot be copied, because {', '.join(made)} are computed in every call "
            "(by torch.nn.utils.weight_norm, spectral_norm or torch's prune): make them "
            "parameters first, with torch.nn.utils.remove_weight_norm(layer), "
            "remove_spectral_norm(layer) "
            'or prune.remove(layer, "weight")'
        ) from error


def check_network(net: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Run a network once on a few data, before any training; a lazy one gets its shapes.

    Warns of weights that the output does not depend on: they count in sparsities and sizes.

    Returns what the network gives. Raises ValueError if it cannot be run on them.

    >>> check_network(nn.Linear(3, 2), (torch.ones(2, 3),)).shape
    torch.Size([2, 2])
    >>> check_network(nn.Linear(3, 2), (torch.ones(2, 4),))
    Traceback (most recent call last):
    ValueError: the network cannot be called with these data: mat1 and mat2 shapes cannot be \
multiplied (2x4 and 3x2); they are float32 (2, 4), and its parameters float32 on cpu
    """
    try:
        with torch.enable_grad(), evaluation_mode(net):
            output = net(*inputs)
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"the network cannot be called with these data: {said}; {_kinds(net, inputs)}"
        ) from error
    if unused := _unused(net, output):
        shown = ", ".join(unused[:5]) + (", ..." if len(unused) > 5 else "")
        warnings.warn(
            f"the network's output does not depend on {shown} for these data, and they count in "
            "sparsities and sizes: delete layers that nothing uses, del net.layer",
            stacklevel=3,
        )
    return output


def _unused(net: nn.Module, output: Any) -> list[str]:
    """The parameters that are trained and that the output does not depend on."""
    named = [(name, one) for name, one in net.named_parameters() if one.requires_grad]
    outputs = [
        one.sum()
        for one in pytree.tree_leaves(output)
        if isinstance(one, Tensor) and one.requires_grad
    ]
    if not outputs:  # of a network that takes no gradients
        return []
    found = torch.autograd.grad(outputs, [one for _, one in named], allow_unused=True)
    return [name for (name, _), one in zip(named, found, strict=True) if one is None]


def _kinds(net: nn.Module, inputs: tuple[Any, ...]) -> str:
    given = [
        f"{_name(one.dtype)} {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
        for one in inputs
    ]
    first = next(net.parameters(), None)
    own = "" if first is None else f", and its parameters {_name(first.dtype)} on {first.device}"
    return f"they are {', '.join(given)}{own}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
