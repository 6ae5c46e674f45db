"""The masked network: a copy with masks and gains folded into its own parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pyrosparse.compact.layers import BATCH_NORMS, MIXING, TRANSPOSED
from pyrosparse.compact.parts import Gain
from pyrosparse.errors import unknown_name

NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


def masked(
    net: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    gates: Mapping[str, nn.Module] | None = None,
) -> nn.Module:
    """A copy of the network in evaluation mode that computes what the masked network computes.

    masks: of weights, by parameter name and of its shape; of gates, gains by ``<module>.input`` or
           ``<module>.output``, one per feature. A gain is folded into the module's own weights:

    .. math:: W (g \\odot x) = (W \\,\\mathrm{diag}\\, g)\\, x, \\qquad
              g \\odot (W x + b) = (\\mathrm{diag}\\, g\\, W)\\, x + g \\odot b.

    gates: as of ``Lifted.gates()``, put before or behind their modules; of the masks of these only
           counts where they are 0, as their gains are in the gates.

    Only where that cannot be (before layer or group normalisation) is the gain a module of its own.
    Parametrizations are made permanent.

    Raises ValueError on unknown names, wrong shapes, and gates on modules without features.

    >>> net = nn.Linear(2, 2)
    >>> masked(net, {"output": torch.tensor([0.0, 1.0])}).weight[0].abs().sum().item()
    0.0
    """
    try:
        net = copy.deepcopy(net)
    except RuntimeError as error:
        raise ValueError(
            f"the network cannot be copied ({error}). If torch.nn.utils.prune has masks in it, "
            "make them permanent with prune.remove first"
        ) from error
    for module in net.modules():
        if parametrize.is_parametrized(module):
            _make_permanent(module)
    parameters = dict(net.named_parameters())
    modules = dict(net.named_modules())
    gates = dict(gates or {})
    gains = {}
    for key, mask in (masks or {}).items():
        if key in parameters:
            _check_shape(key, mask, tuple(parameters[key].shape))
            with torch.no_grad():
                parameters[key].mul_(mask.to(parameters[key]))
            continue
        name, _, kind = key.rpartition(".")
        if kind not in ("input", "output") or name not in modules:
            gate_names = [f"{n}.output" for n, m in modules.items() if n and isinstance(m, MIXING)]
            raise unknown_name("mask", key, [*parameters, *gate_names])
        gains[key] = (mask != 0).to(mask) if key in gates else mask
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
    # A gain before a normalisation puts a module around it, so these come last.
    for key in sorted(gains, key=lambda key: key.endswith("input")):
        name, _, kind = key.rpartition(".")
        replacement = _fold(key, kind, modules[name], gains[key].detach().to(like))
        if replacement is not modules[name]:
            net = _replace(net, name, replacement)
    for key, gate in gates.items():
        name, _, kind = key.rpartition(".")
        if kind not in ("input", "output") or name not in modules:
            raise unknown_name("gate", key, [f"{name}.input" for name in modules if name])
        gate, around = copy.deepcopy(gate), net.get_submodule(name)
        pair = (gate, around) if kind == "input" else (around, gate)
        net = _replace(net, name, nn.Sequential(*pair))
    with torch.no_grad():
        for parameter in net.parameters():
            # Times zero, a negative weight is -0.0, which a file would keep as a value.
            parameter.masked_fill_(parameter == 0, 0.0)
    return net.eval()


def _make_permanent(module: nn.Module) -> None:
    # torch's remove_parametrizations changes the class, which the user's own module shares.
    names = list(module.parametrizations)  # type: ignore[arg-type]
    values = {name: getattr(module, name).detach().clone() for name in names}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def _fold(key: str, kind: str, module: nn.Module, gain: Tensor) -> nn.Module:
    if isinstance(module, MIXING):
        inputs, outputs = module.weight.shape[1], module.weight.shape[0]
        groups = 1 if isinstance(module, nn.Linear) else module.groups
        if isinstance(module, TRANSPOSED):
            outputs, inputs = inputs * groups, outputs
        else:
            inputs *= groups
    elif isinstance(module, NORMS):
        inputs = outputs = _width(key, module)
    else:
        raise ValueError(
            f"{key!r}: gates go on Linear, convolutions, BatchNorm, GroupNorm or LayerNorm, not on "
            f"{type(module).__name__}"
        )
    _check_shape(key, gain, (inputs if kind == "input" else outputs,))
    if isinstance(module, MIXING):
        _fold_into_weights(kind, module, gain)
    elif kind == "output":
        weight, bias = _affine(module, gain)
        _set(module, weight * gain, None if bias is None else bias * gain)
    elif isinstance(module, BATCH_NORMS) and module.running_mean is not None:
        # gamma (g x - mu) / sigma + beta, with g taken into gamma.
        weight, bias = _affine(module, gain)
        assert bias is not None and module.running_var is not None
        shift = weight * module.running_mean * (module.running_var + module.eps).rsqrt()
        _set(module, weight * gain, bias - (1 - gain) * shift)
    else:
        dim = -1 if isinstance(module, nn.LayerNorm) else 1
        return nn.Sequential(Gain(gain, dim), module)
    return module


def _fold_into_weights(kind: str, module: nn.Module, gain: Tensor) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    groups = 1 if isinstance(module, nn.Linear) else int(module.groups)  # type: ignore[arg-type]
    by_group = weight.detach().reshape(groups, -1, *weight.shape[1:])
    per_group = gain.view(groups, -1)
    # Rows hold the outputs, columns the inputs; of a transposed convolution it is the other way.
    rows = (kind == "output") != isinstance(module, TRANSPOSED)
    shape = (groups, -1, 1) if rows else (groups, 1, -1)
    scaled = by_group * per_group.view(*shape, *[1] * (weight.dim() - 2))
    bias = module.bias
    if kind == "output" and isinstance(bias, Tensor):
        bias = bias.detach() * gain
    _set(module, scaled.view_as(weight), bias if isinstance(bias, Tensor) else None)


def _affine(module: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scale and shift of a normalisation; ones and zeros where it has none of its own."""
    weight, bias = module.weight, module.bias
    if isinstance(weight, Tensor):
        return weight.detach(), bias.detach() if isinstance(bias, Tensor) else None
    return torch.ones_like(like), torch.zeros_like(like)


def _width(key: str, module: nn.Module) -> int:
    if isinstance(module, nn.LayerNorm):
        if len(module.normalized_shape) != 1:
            raise ValueError(f"{key!r}: a LayerNorm over several dimensions has no features")
        return module.normalized_shape[0]
    return int(module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features)  # type: ignore[arg-type]


def _set(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    # New parameters, so that a tensor shared with an ungated module stays as it is there.
    old = module.weight
    trained = old.requires_grad if isinstance(old, Tensor) else True
    module.weight = nn.Parameter(weight.clone(), requires_grad=trained)
    module._parameters["bias"] = None if bias is None else nn.Parameter(bias.clone(), trained)
    if isinstance(module, (*BATCH_NORMS, nn.GroupNorm)):
        module.affine = True
    if isinstance(module, nn.LayerNorm):
        module.elementwise_affine = True


def _replace(net: nn.Module, name: str, module: nn.Module) -> nn.Module:
    if not name:
        return module
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)
    return net


def _check_shape(key: str, mask: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(mask.shape) != shape:
        raise ValueError(f"the mask of {key!r} has shape {tuple(mask.shape)}, its target {shape}")
