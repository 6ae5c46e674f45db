"""The masked network: a copy with masks and gains folded into its own parameters."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from pyrosparse.compaction.copies import check_shape, copied, put_masks, refuse_diverged
from pyrosparse.compaction.layers import BATCH_NORMS, MIXING, NORMS, TRANSPOSED, is_plain
from pyrosparse.compaction.parts import Entering, Gain, Gained
from pyrosparse.lifting.layers import KNOWN, axis, features, is_conv1d
from pyrosparse.util.errors import unknown_name


def masked(
    net: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    gates: Mapping[str, nn.Module] | None = None,
    *,
    unfolded: Collection[str] = (),
) -> nn.Module:
    """A copy of the network in evaluation mode that computes what the masked network computes.

    masks: masks of weights, by parameter name and of its shape; gains of gates, by
           ``<module>.input`` or ``<module>.output``, one per feature, or by ``<module>.heads``, one
           per head. A gain is folded into the module's own weights:

    .. math:: W (g \\odot x) = (W \\,\\mathrm{diag}\\, g)\\, x, \\qquad
              g \\odot (W x + b) = (\\mathrm{diag}\\, g\\, W)\\, x + g \\odot b.

    gates: as returned by ``Lifted.gates()``, inserted before or after their modules. Of their masks
           only the zeros count, as the gates contain their gains.
    unfolded: the names of modules whose weights must not change. Name those whose weights the
           network also uses outside their calls, as ``F.linear(x, self.layer.weight)`` does: a
           folded gain would act there too. ``compact`` finds them itself.

    A gain that cannot be folded becomes a separate module: before layer or group normalisation,
    on a module that is not ``is_plain``, and on an output layer that shares its weight with an
    embedding, which would otherwise need two copies. Parametrizations are made permanent.

    Raises ValueError if names are unknown, shapes are wrong, gates are on modules without features,
    and if masks, or the remaining parameters, are not finite.

    >>> net = nn.Linear(2, 2)
    >>> masked(net, {"output": torch.tensor([0.0, 1.0])}).weight[0].abs().sum().item()
    0.0
    """
    net, gates = copied(net), gates or {}
    others = put_masks(net, masks or {})
    for module in list(net.modules()):
        if parametrize.is_parametrized(module):
            make_permanent(module)
    gains = gains_of(net, put_masks(net, others), gates)
    refuse_diverged(net)
    return fold(net, gains, gates, unfolded)


def fold(
    net: nn.Module,
    gains: Mapping[str, Gain],
    gates: Mapping[str, nn.Module] | None = None,
    unfolded: Collection[str] = (),
) -> nn.Module:
    """The network with gains in its weights, as ``masked`` describes it; it is changed in place.

    gains: by ``<module>.input`` or ``<module>.output``, from ``gains_of``.

    Raises ValueError if the names of gates are unknown.
    """
    modules = dict(net.named_modules())
    tables = {id(one.weight) for one in modules.values() if isinstance(one, nn.Embedding)}
    entering: defaultdict[str, list[nn.Module]] = defaultdict(list)
    leaving: defaultdict[str, list[nn.Module]] = defaultdict(list)
    for key, gate in (gates or {}).items():
        name, _, kind = key.rpartition(".")
        if kind not in ("input", "output") or name not in modules:
            raise unknown_name("gate", key, [f"{name}.input" for name in modules if name])
        (entering if kind == "input" else leaving)[name].append(copy.deepcopy(gate))
    for key, gain in gains.items():
        name, _, kind = key.rpartition(".")
        stays = name in unfolded or id(getattr(modules[name], "weight", None)) in tables
        if stays or not _fold(kind, modules[name], gain.gain):
            # Next to the module: after the gate of an input, before that of an output.
            beside = entering[name] if kind == "input" else leaving[name]
            beside.insert(len(beside) if kind == "input" else 0, gain)
    for name in entering | leaving:
        net = _surround(net, modules[name], entering[name], leaving[name])
    with torch.no_grad():
        for parameter in net.parameters():
            # A negative weight times zero is -0.0, which a file would keep as a value.
            parameter.masked_fill_(parameter == 0, 0.0)
    return net.eval()


def gains_of(
    net: nn.Module, masks: Mapping[str, Tensor], gates: Collection[str] = ()
) -> dict[str, Gain]:
    """The gains in masks of features as modules, with the network's dtype and device.

    gates: the names of gates whose gains are elsewhere: of their masks only the zeros count.

    Raises ValueError if names are unknown or shapes wrong, and for modules without features.
    """
    modules = dict(net.named_modules())
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
    found: dict[str, Gain] = {}
    for key, mask in masks.items():
        name, _, kind = key.rpartition(".")
        if kind not in ("input", "output", "heads") or name not in modules:
            known = [f"{n}.output" for n, m in modules.items() if n and isinstance(m, MIXING)]
            raise unknown_name("mask", key, [*dict(net.named_parameters()), *known])
        module = modules[name]
        width = _features(key, kind, module)
        if kind == "heads":
            key, mask = f"{name}.input", _of_features(key, mask, width)
        check_shape(key, mask, (width,))
        gain = ((mask != 0) if key in gates else mask).detach().to(like)
        if key in found:  # gates on heads and on their features
            gain = gain * found[key].gain
        found[key] = Gain(gain, axis(module))
    return found


def _of_features(key: str, mask: Tensor, width: int) -> Tensor:
    """The mask of heads as a mask of their features, which are contiguous."""
    if mask.dim() != 1 or not len(mask) or width % len(mask):
        raise ValueError(
            f"the mask of {key!r} has shape {tuple(mask.shape)}: {width} features cannot be "
            "divided into this number of heads"
        )
    return mask.repeat_interleave(width // len(mask))


def make_permanent(module: nn.Module) -> None:
    """Replace the parametrizations of a module by the parameters that they give."""
    # torch's remove_parametrizations changes the class, which the user's own module shares.
    made = {}
    for name, parametrization in module.parametrizations.items():  # type: ignore[operator, union-attr]
        trained = any(p.requires_grad for p in parametrization.parameters())
        made[name] = nn.Parameter(getattr(module, name).detach().clone(), trained)
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, parameter in made.items():
        module.register_parameter(name, parameter)


def _features(key: str, kind: str, module: nn.Module) -> int:
    """The number of input or output features of a module that can have gates."""
    known = features(module, "output" if kind == "output" else "input")
    if known is None:
        raise ValueError(
            f"{key!r}: gates are supported on {KNOWN}, for one dimension, not on "
            f"{type(module).__module__}.{type(module).__name__}"
        )
    return known


def _fold(kind: str, module: nn.Module, gain: Tensor) -> bool:
    """Fold a gain into a module's own weights; returns whether that is possible."""
    if is_plain(module, (*MIXING, NonDynamicallyQuantizableLinear)) or _is_plain_conv1d(module):
        _fold_into_weights(kind, module, gain)
    elif not is_plain(module, NORMS):
        return False
    elif kind == "output":
        weight, bias = _affine(module, gain)
        _set(module, weight * gain, None if bias is None else bias * gain)
    elif isinstance(module, BATCH_NORMS) and module.running_mean is not None:
        # gamma (g x - mu) / sigma + beta, with g folded into gamma.
        weight, bias = _affine(module, gain)
        assert bias is not None and module.running_var is not None
        shift = weight * module.running_mean * (module.running_var + module.eps).rsqrt()
        _set(module, weight * gain, bias - (1 - gain) * shift)
    else:
        return False
    return True


def _is_plain_conv1d(module: nn.Module) -> bool:
    return is_conv1d(module) and is_plain(module, (type(module),))


def _fold_into_weights(kind: str, module: nn.Module, gain: Tensor) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    groups = int(getattr(module, "groups", 1))
    by_group = weight.detach().reshape(groups, -1, *weight.shape[1:])
    per_group = gain.view(groups, -1)
    # Rows hold the outputs, columns the inputs; transposed convolutions and Hugging Face's Conv1D
    # are the other way round.
    rows = (kind == "output") != (isinstance(module, TRANSPOSED) or is_conv1d(module))
    shape = (groups, -1, 1) if rows else (groups, 1, -1)
    scaled = by_group * per_group.view(*shape, *[1] * (weight.dim() - 2))
    bias = module.bias
    if kind == "output" and isinstance(bias, Tensor):
        bias = bias.detach() * gain
    _set(module, scaled.view_as(weight), bias if isinstance(bias, Tensor) else None)


def _affine(module: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scale and shift of a normalisation; ones and zeros if it has none."""
    weight, bias = module.weight, module.bias
    if isinstance(weight, Tensor):
        return weight.detach(), bias.detach() if isinstance(bias, Tensor) else None
    return torch.ones_like(like), torch.zeros_like(like)


def _set(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    # New parameters, so that a tensor shared with an ungated module does not change there.
    old = module.weight
    trained = old.requires_grad if isinstance(old, Tensor) else True
    module.weight = nn.Parameter(weight.clone(), requires_grad=trained)
    module._parameters["bias"] = None if bias is None else nn.Parameter(bias.clone(), trained)
    if isinstance(module, (*BATCH_NORMS, nn.GroupNorm)):
        module.affine = True
    if isinstance(module, nn.LayerNorm):
        module.elementwise_affine = True


def _surround(
    net: nn.Module, module: nn.Module, entering: list[nn.Module], leaving: list[nn.Module]
) -> nn.Module:
    """Put gains around a module wherever it occurs; returns the network."""
    if entering and module._forward_pre_hooks:
        # The hooks change the input before the gain.
        for gain in entering:
            module.register_forward_pre_hook(Entering(gain), with_kwargs=True)
        entering = []
    if not (entering or leaving):
        return net
    gained = Gained(module, entering, leaving)
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child is module:
                parent._modules[name] = gained
    return gained if net is module else net
