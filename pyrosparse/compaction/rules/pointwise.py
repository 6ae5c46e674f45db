"""Operations on each feature separately: activations, pools, batch normalisation."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyrosparse.compaction.calls import call_name
from pyrosparse.compaction.parts import Gain
from pyrosparse.compaction.rules.rule import Features, Flow, Rule, arguments, with_parameters
from pyrosparse.lifting.input_gate import InputGate


class Pointwise(Rule):
    """Feature i of the result depends only on feature i of the operand; here they are equal."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        if x is None:
            return None
        if type(self) is Pointwise:  # the values themselves
            if self.source in flow.averages:
                flow.averages.add(self.node)
            return replace(x)
        return Features.of(x.dim, x.constant, self.apply(x.value))

    def apply(self, values: Tensor) -> Tensor:
        """The result for constants: (features,) float64 -> (features,)."""
        return values

    def want(self, flow: Flow) -> None:
        flow.want(self.source, flow.features[self.node].dim, flow.wanted[self.node])

    def rewrite(self, flow: Flow) -> fx.Node:
        operand = flow.take(self.source, flow.features[self.node].dim, flow.wanted[self.node])
        return flow.copy(self.node, {self.source: operand})


class Elementwise(Pointwise):
    """An activation, or arithmetic with a number: the same function of every element."""

    def learn(self, flow: Flow) -> Features | None:
        if self.node.all_input_nodes != [self.source]:
            return None
        return super().learn(flow)

    def apply(self, values: Tensor) -> Tensor:
        if self.module is not None:
            return copy.deepcopy(self.module).double().cpu()(values.clone())
        args, kwargs = fx.map_arg((self.node.args, self.node.kwargs), lambda _: values.clone())
        if self.node.op == "call_method":
            return getattr(args[0], str(self.node.target))(*args[1:], **kwargs)
        assert callable(self.node.target)
        return self.node.target(*args, **kwargs)


class Cast(Pointwise):
    """Another type or device, by ``to`` and the like: what is zero stays zero."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        if x is None or self.source is not self.node.args[0]:
            return None
        return Features.of(x.dim, x.constant & (x.value == 0), torch.zeros_like(x.value))

    def want(self, flow: Flow) -> None:
        super().want(flow)
        # Of another tensor, as in ``type_as``, the type is read.
        flow.sized |= {*self.node.all_input_nodes} - {self.source}


class Resized(Pointwise):
    """Other positions, each a mean, the largest or a copy of those of the operand: interpolation,
    padding by reflection."""

    def learn(self, flow: Flow) -> Features | None:
        x = super().learn(flow)
        if x is None or x.dim != 1 or len(flow.shapes[self.source]) < 3:
            return None
        if flow.shapes.get(self.node) is None or len(flow.shapes[self.node]) < 3:
            return None
        return x


class Pool(Resized):
    """Pooling over positions; a mean that includes padded zeros keeps no constant."""

    def learn(self, flow: Flow) -> Features | None:
        x = super().learn(flow)
        if x is not None and not self._keeps_constants():
            x = Features.of(x.dim, x.constant & (x.value == 0), x.value)
        return x

    def _keeps_constants(self) -> bool:
        given: Any
        if self.module is not None:
            given = vars(self.module)
        else:
            given = arguments(
                self.node,
                input=None,
                kernel_size=None,
                stride=None,
                padding=0,
                ceil_mode=False,
                count_include_pad=True,
                divisor_override=None,
            )
        name = type(self.module).__name__ if self.module is not None else str(self.node.target)
        if "avg" not in name.lower() or "adaptive" in name.lower():
            return True
        padding = given.get("padding", 0)
        padded = any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
        averaged = given.get("divisor_override") is None
        return averaged and not (padded and given.get("count_include_pad", True))


class Filled(Pointwise):
    """A tensor of the size of another, filled with a number."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        given = arguments(self.node, input=None, fill_value=None)["fill_value"]
        number = {"zeros_like": 0.0, "ones_like": 1.0}.get(call_name(self.node), given)
        if x is None or not isinstance(number, int | float):
            return None
        value = torch.full_like(x.value, number)
        return Features.of(x.dim, torch.ones_like(x.constant), value)


class Reordered(Pointwise):
    """Positions in another order, of each feature alone: ``flip`` and ``roll``."""

    def learn(self, flow: Flow) -> Features | None:
        x = super().learn(flow)
        flips = call_name(self.node) == "flip"
        defaults = {"dims": None} if flips else {"shifts": 0, "dims": None}
        dims = arguments(self.node, input=None, **defaults)["dims"]
        if flips and len(self.node.args) > 2:
            dims = self.node.args[1:]  # as in x.flip(1, 2)
        dims = [dims] if isinstance(dims, int) else dims
        if x is None or not isinstance(dims, list | tuple):
            return None
        rank = len(flow.shapes[self.source])
        if not all(isinstance(dim, int) and dim % rank != x.dim for dim in dims):
            return None
        return x


class Cumulated(Pointwise):
    """Sums along positions, which leave zeros zero: ``cumsum``."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        dim = arguments(self.node, input=None, dim=None)["dim"]
        if x is None or not isinstance(dim, int) or dim % len(flow.shapes[self.source]) == x.dim:
            return None
        return Features.of(x.dim, x.constant & (x.value == 0), torch.zeros_like(x.value))


class Parametric(Pointwise):
    """One set of numbers for each feature: batch normalisation in evaluation, PReLU, gains."""

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted = flow.wanted[self.node]
        operand = flow.take(self.source, flow.features[self.node].dim, wanted)
        if wanted.all():
            return flow.copy(self.node, {self.source: operand})
        assert self.module is not None
        return flow.place(self.node, self.sliced(self.module, wanted), operand)

    def sliced(self, module: nn.Module, wanted: Tensor) -> nn.Module:
        """A copy of the module for the wanted features alone."""
        raise NotImplementedError


class BatchNorm(Parametric):
    r"""Batch normalisation in evaluation mode; also constant if gamma is zero.

    .. math:: y = \gamma (x - \mu) / \sqrt{v + \epsilon} + \beta

    Without running statistics only gamma = 0 makes a feature constant.
    """

    module: nn.BatchNorm1d

    def learn(self, flow: Flow) -> Features | None:
        if len(flow.shapes[self.source]) < 2:
            return None
        x = flow.read(self.source, 1)
        scale, shift = torch.ones_like(x.value), torch.zeros_like(x.value)
        if self.module.weight is not None:
            scale = self.module.weight.detach().double().cpu()
            shift = self.module.bias.detach().double().cpu()
        dead = scale == 0
        if self.module.running_mean is None or self.module.running_var is None:
            return Features.of(1, dead, shift)
        mean = self.module.running_mean.double().cpu()
        deviation = (self.module.running_var.double().cpu() + self.module.eps).sqrt()
        value = torch.where(dead, shift, scale * (x.value - mean) / deviation + shift)
        return Features.of(1, x.constant | dead, value)

    def sliced(self, module: nn.Module, wanted: Tensor) -> nn.Module:
        tensors = {
            name: None if (old := getattr(module, name)) is None else old[wanted.to(old.device)]
            for name in ("weight", "bias", "running_mean", "running_var")
        }
        new = with_parameters(module, tensors["weight"], tensors["bias"])
        for name in ("running_mean", "running_var"):
            setattr(new, name, tensors[name])
        new.num_features = int(wanted.sum())  # type: ignore[assignment]
        return new


class InstanceNorm(BatchNorm):
    """Normalisation of each channel of each example over its positions: what is constant becomes
    beta."""

    def learn(self, flow: Flow) -> Features | None:
        if len(flow.shapes[self.source]) != _RANKS[type(self.module)]:
            return None  # of one example, without a batch dimension
        known = super().learn(flow)
        if known is None or self.module.running_mean is not None:
            return known
        constant = flow.read(self.source, 1).constant
        shift = torch.zeros_like(known.value)
        if self.module.bias is not None:
            shift = self.module.bias.detach().double().cpu()
        return Features.of(1, constant | known.constant, shift)


_RANKS: dict[type[nn.Module], int] = {
    nn.InstanceNorm1d: 3,
    nn.InstanceNorm2d: 4,
    nn.InstanceNorm3d: 5,
}


class PReLU(Parametric):
    """x if it is positive, and a learned slope times x if it is not."""

    module: nn.PReLU

    def learn(self, flow: Flow) -> Features | None:
        x = super().learn(flow)
        return None if x is None or (x.dim != 1 and self.module.num_parameters > 1) else x

    def apply(self, values: Tensor) -> Tensor:
        slope = self.module.weight.detach().double().cpu()
        return torch.where(values > 0, values, slope * values)

    def sliced(self, module: nn.Module, wanted: Tensor) -> nn.Module:
        if self.module.num_parameters == 1:
            return module
        new = copy.deepcopy(self.module)
        new.weight = nn.Parameter(self.module.weight.detach()[wanted.to(new.weight.device)])
        new.num_parameters = int(wanted.sum())
        return new


class Gains(Parametric):
    """Fixed gains; constant if they are zero."""

    module: Gain

    def learn(self, flow: Flow) -> Features | None:
        x = flow.read(self.source, self.module.dim % len(flow.shapes[self.source]))
        gain = self.module.gain.double().cpu()
        return Features.of(x.dim, x.constant | (gain == 0), gain * x.value)

    def sliced(self, module: nn.Module, wanted: Tensor) -> nn.Module:
        return Gain(self.module.gain[wanted.to(self.module.gain.device)], self.module.dim)


class InputGates(Parametric):
    """Gains that depend on the feature's own value; constant if they are zero."""

    module: InputGate

    def learn(self, flow: Flow) -> Features | None:
        x = flow.read(self.source, self.module.dim % len(flow.shapes[self.source]))
        gate = copy.deepcopy(self.module).double().cpu()
        gains = gate.gains(x.value.unsqueeze(0))
        shut = gate.gain == 0
        return Features.of(x.dim, x.constant | shut, torch.where(shut, 0.0, gains[0] * x.value))

    def sliced(self, module: nn.Module, wanted: Tensor) -> nn.Module:
        gate = self.module
        kept = wanted.to(gate.gain.device)
        scale, offset, floor, gain = (
            tensor[kept] for tensor in (gate.scale, gate.offset, gate.floor, gate.gain)
        )
        return InputGate(scale, offset, floor, gain, dim=gate.dim)


class GLU(Rule):
    r"""A gated linear unit along the features: :math:`a \cdot \sigma(b)` of their two halves."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        dim = arguments(self.node, input=None, dim=-1)["dim"]
        if isinstance(self.module, nn.GLU):
            dim = self.module.dim
        if x is None or not isinstance(dim, int) or dim % len(flow.shapes[self.source]) != x.dim:
            return None
        (a, b), (value, gate) = x.constant.chunk(2), x.value.chunk(2)
        return Features.of(x.dim, a & (b | (value == 0)), value * gate.sigmoid())

    def want(self, flow: Flow) -> None:
        flow.want(self.source, flow.features[self.node].dim, flow.wanted[self.node].repeat(2))

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted, dim = flow.wanted[self.node], flow.features[self.node].dim
        return flow.copy(self.node, {self.source: flow.take(self.source, dim, wanted.repeat(2))})


class GroupNorm(Rule):
    """Group normalisation: reads all channels; constant if gamma is zero."""

    module: nn.GroupNorm

    def learn(self, flow: Flow) -> Features | None:
        if self.module.weight is None:
            return Features.varying(1, self.module.num_channels)
        dead = self.module.weight.detach().cpu() == 0
        return Features.of(1, dead, self.module.bias.detach().double().cpu())

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted = flow.wanted[self.node]
        return flow.narrow(flow.copy(self.node), 1, torch.ones_like(wanted), wanted)
