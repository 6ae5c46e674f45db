"""What of a network can be lifted, and why the rest cannot."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_REFUSED = {
    nn.RNNBase: "it computes from a flat copy of its weights",
    torch.jit.ScriptModule: "its compiled forward cannot see replaced weights",
    nn.DataParallel: "it runs copies of the network in threads; lift the network within, .module",
}
_NO_LAYERS = (
    *(nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU),
)
_NORMALISED = (parametrizations._WeightNorm, parametrizations._SpectralNorm)


def refusal(module: nn.Module) -> str | None:
    """Why nothing in a module can be lifted, or None."""
    if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
        return (
            "it is compiled, and would run without gates and with weights of before: lift the "
            "network before it is compiled (that of torch.compile(net) is net._orig_mod), and "
            "have the training compiled by fit(..., compile=True)"
        )
    for refused, reason in _REFUSED.items():
        if isinstance(module, refused):
            return reason
    return None


def refused_at(net: nn.Module, name: str) -> tuple[str, nn.Module, str] | None:
    """The module around a named one, or itself, in which nothing can be lifted: its name, itself
    and why; None where there is none."""
    path = name.split(".") if name else []
    for depth in range(len(path) + 1):
        outer = ".".join(path[:depth])
        module = net.get_submodule(outer)
        reason = refusal(module)
        if reason is not None:
            return outer, module, reason
    return None


def refused_parameter(net: nn.Module, name: str) -> str | None:
    """Why a prior on a parameter is none on the weights that the network computes with, or None."""
    owner_name, _, leaf = name.rpartition(".")
    owner = net.get_submodule(owner_name)
    if _normalised(owner, leaf):
        return (
            "is divided by its own norm before the network computes with it (weight_norm, "
            "spectral_norm): a prior on its size has no effect, and rows of zeros give NaN"
        )
    if isinstance(owner, ParametrizationList) and any(
        isinstance(one, parametrizations._Orthogonal) for one in owner
    ):
        return (
            "makes an orthogonal matrix: its diagonal holds signs, and a prior that moves them "
            "from -1 and 1 makes the weight zero"
        )
    return None


def _normalised(owner: nn.Module, leaf: str) -> bool:
    if isinstance(owner, ParametrizationList):
        # Of weight_norm's two, the first is the norm itself.
        return any(
            isinstance(one, _NORMALISED)
            and not (isinstance(one, parametrizations._WeightNorm) and leaf == "original0")
            for one in owner
        )
    for hook in owner._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and leaf == f"{hook.name}_v":
            return True
        if isinstance(hook, SpectralNorm) and leaf == f"{hook.name}_orig":
            return True
    return False


def left_out(net: nn.Module, covered: set[int]) -> dict[str, str]:
    """The layers with weights of two dimensions or more that are not covered: why, by name.

    covered: the ids of the parameters that are, or do not have to be."""
    found: dict[str, str] = {}
    for name, module in net.named_modules():
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            if hasattr(module, "weight"):
                found[name] = f"{type(module).__name__}: it is quantised and has no parameters"
            continue
        if not isinstance(module, _NO_LAYERS) and any(
            id(weight) not in covered for weight in _weights(name, module)
        ):
            outer, reason = _reason(net, name, module)
            found[outer] = reason
    return found


def _weights(name: str, module: nn.Module) -> Iterator[Tensor]:
    for leaf, parameter in module.named_parameters(recurse=False):
        what = name.rpartition(".")[2] if isinstance(module, ParametrizationList) else leaf
        lazy = isinstance(parameter, nn.UninitializedParameter)
        if "weight" in what and not lazy and parameter.dim() > 1:
            yield parameter


def _reason(net: nn.Module, name: str, module: nn.Module) -> tuple[str, str]:
    refused = refused_at(net, name)
    if refused is not None:
        outer, outer_module, reason = refused
        return outer, f"{type(outer_module).__name__}: {reason}"
    if isinstance(module, nn.MultiheadAttention):
        return name, (
            f"{type(module).__name__}: it has gates on its output projection and none in front of "
            "its queries, keys and values; ps.heads has one for each head"
        )
    if isinstance(module, ParametrizationList):
        layer_name = name.rpartition("parametrizations.")[0].rstrip(".")
        layer = net.get_submodule(layer_name)
        kinds = ", ".join(type(one).__name__.strip("_") for one in module)
        how = f"a parametrization ({kinds}); torch.nn.utils.parametrize.remove_parametrizations"
        return layer_name, f"{type(layer).__name__}: its weight is computed by {how} makes it one"
    if "weight" not in module._parameters and hasattr(module, "weight"):
        return name, (
            f"{type(module).__name__}: its weight is computed anew in every call (weight_norm, "
            "spectral_norm or torch's prune); the matching remove makes it a parameter"
        )
    return name, (
        f"{type(module).__name__}: it is no dense or convolutional layer of torch; where a method "
        "takes weights, it can be named"
    )
