"""Copies of a network with masks in their parameters; uncopyable networks are refused."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from pyrosparse.compaction.layers import MIXING, NORMS
from pyrosparse.util.hooks import hooks_of
from pyrosparse.util.modes import forget


def copied(net: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode, with all its hooks.

    Raises ValueError if a copy would not compute what the network does, or the network is compiled.
    """
    for name, module in net.named_modules():
        _refuse_uncopyable(name or "the network itself", module, set(net.modules()))
    # deepcopy refuses them.
    computed = {id(one): one.detach().clone() for one in computed_tensors(net).values()}
    try:
        new = copy.deepcopy(net, computed).eval()  # type: ignore[arg-type]
    except RuntimeError as error:
        raise ValueError(f"the network cannot be copied: {error}") from error
    forget(new)
    return new


def computed_tensors(net: nn.Module) -> dict[str, Tensor]:
    """The tensors that hooks compute in every call and leave in their modules, by name, as torch's
    old ``weight_norm`` and ``spectral_norm`` and its pruning do.

    >>> net = nn.Linear(3, 2)
    >>> _ = torch.nn.utils.prune.random_unstructured(net, "weight", 0.5)
    >>> list(computed_tensors(net))
    ['weight']
    """
    return {
        f"{name}.{key}" if name else key: tensor
        for name, module in net.named_modules()
        for key, tensor in vars(module).items()
        if isinstance(tensor, Tensor) and not tensor.is_leaf
    }


def put_masks(net: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply the parameters by the masks of their names, in place; returns the other masks.

    Masked values become 0, even if they are NaN or infinite.

    Raises ValueError if a mask has another shape or is not finite.
    """
    parameters = dict(net.named_parameters())
    others = {}
    for key, mask in masks.items():
        if not mask.isfinite().all():
            raise ValueError(
                f"{int((~mask.isfinite()).sum())} numbers of the mask {key!r} are NaN or infinite: "
                "the posterior that it comes from has diverged. Train again with a smaller "
                "learning rate"
            )
        if key not in parameters:
            others[key] = mask
            continue
        parameter = parameters[key].detach()
        check_shape(key, mask, tuple(parameter.shape))
        mask = mask.to(parameter.device)
        parameter.mul_(mask.to(parameter)).masked_fill_(mask == 0, 0.0)
    return others


def refuse_diverged(net: nn.Module) -> None:
    """Raise ValueError if parameters are NaN, or the parameters of a layer are infinite."""
    for name, parameter in net.named_parameters():
        owner = name.rpartition(".")[0]
        layer = isinstance(net.get_submodule(owner), (*MIXING, *NORMS))
        # Elsewhere an infinity may be intended: a table of positions that attention must not see.
        bad = ~parameter.isfinite() if layer else parameter.isnan()
        if bad.any():
            raise ValueError(
                f"{int(bad.sum())} numbers of the parameter {name!r} are NaN or infinite, and no "
                "mask removes them: the training has diverged. Go back to an earlier checkpoint, "
                "or train again with a smaller learning rate"
            )


def check_shape(key: str, mask: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError if the shape of a mask is not that of its target."""
    if tuple(mask.shape) != shape:
        raise ValueError(f"the mask of {key!r} has shape {tuple(mask.shape)}, its target {shape}")


def _refuse_uncopyable(name: str, module: nn.Module, own: set[nn.Module]) -> None:
    if "_orig_mod" in module._modules or isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"{name} is compiled, and a compiled forward can be neither traced nor masked: "
            "compact the original module (`._orig_mod` of what torch.compile returns), then "
            "compile the result"
        )
    hooks = hooks_of(module)
    if any(isinstance(hook, BasePruningMethod) for hook in hooks):
        raise ValueError(
            f"{name} has masks of torch.nn.utils.prune in it: make them permanent with "
            "prune.remove first"
        )
    for function in (vars(module).get("forward"), *hooks):
        for held in _held_by(function):
            if held in own:
                raise ValueError(
                    f"the forward or a hook of {name} is a function that refers to a "
                    f"{type(held).__name__} of this network, so a copy of the network would run "
                    "the original module. Write the forward as a method of a subclass, or use "
                    "types.MethodType(function, module); in a hook, use the module that it "
                    "receives as an argument"
                )


def _held_by(function: Any) -> list[nn.Module]:
    """The modules in the closure and the defaults of a function, which deepcopy does not copy, and
    in those of the functions found there."""
    found: list[nn.Module] = []
    seen: set[int] = set()
    left = [function]
    while left:
        one = left.pop()
        if not inspect.isfunction(one) or id(one) in seen:
            continue
        seen.add(id(one))
        held = [cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell)]
        held += [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
        owners = [value.__self__ if inspect.ismethod(value) else value for value in held]
        found += [owner for owner in owners if isinstance(owner, nn.Module)]
        left += held
    return found


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
