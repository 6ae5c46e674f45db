"""Layer normalisation: every feature reads all features, the constant ones as numbers."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from pyrosparse.compaction.parts import ReducedLayerNorm
from pyrosparse.compaction.rules.rule import Features, Flow, Multiples, Rule


class LayerNorm(Rule):
    r"""Layer normalisation over the last dimension; constant if gamma is zero.

    Constant inputs can be cut: the divisor stays the original one, and they enter mean and variance
    as numbers. Behind equal constants c the results are multiples of one another,
    :math:`y_j = \gamma_j (c - \mu) / \sigma + \beta_j`, so that a dense layer needs one of them.
    """

    module: nn.LayerNorm

    def learn(self, flow: Flow) -> Features | None:
        if len(self.module.normalized_shape) != 1:
            return None
        dim = len(flow.shapes[self.source]) - 1
        x = flow.read(self.source, dim)
        scale, shift = (
            torch.full_like(x.value, usual) if own is None else own.detach().cpu().double()
            for own, usual in ((self.module.weight, 1.0), (self.module.bias, 0.0))
        )
        known = Features.of(dim, scale == 0, shift)
        known.multiples = _multiples(x, scale, shift)
        return known

    def want(self, flow: Flow) -> None:
        x = flow.read(self.source, flow.features[self.node].dim)
        self.inputs = ~x.constant
        self.inputs[0] |= not self.inputs.any()
        flow.want(self.source, x.dim, self.inputs)

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted = flow.wanted[self.node]
        x = flow.read(self.source, flow.features[self.node].dim)
        operand = flow.take(self.source, x.dim, self.inputs)
        if self.inputs.all():
            normalised = flow.copy(self.node, {self.source: operand})
            return flow.narrow(normalised, x.dim, torch.ones_like(wanted), wanted)
        removed = ~self.inputs
        behind = int(self.inputs.sum()) + removed.cumsum(0) - 1
        places = torch.where(removed, behind, self.inputs.cumsum(0) - 1)[wanted]
        kept = wanted.nonzero().flatten().to(flow.like.device)
        weight, bias = (
            None if old is None else old.detach()[kept].clone()
            for old in (self.module.weight, self.module.bias)
        )
        constants = flow.tensor(x.value[removed])
        new = ReducedLayerNorm(
            constants,
            places.to(flow.like.device),
            weight,
            bias,
            self.module.eps,
            bool((removed & wanted).any()),
        )
        return flow.place(self.node, new, operand)


def _multiples(x: Features, scale: Tensor, shift: Tensor) -> Multiples | None:
    """The results behind the most frequent of the constants."""
    behind = x.constant & (scale != 0)
    if not behind.any():
        return None
    among = behind & (x.value == x.value[behind].mode().values)
    one = int(torch.where(among, scale.abs(), -1.0).argmax())
    slope = scale / scale[one]
    return Multiples(among, one, slope, shift - slope * shift[one])


class RMSNorm(Rule):
    r"""Division by the root of the mean square over the last dimension.

    Inputs that are zero can be cut: if k of d features remain,
    :math:`\gamma' = \gamma \sqrt{d / k}` and :math:`\epsilon' = \epsilon\, d / k`.
    """

    module: nn.RMSNorm

    def learn(self, flow: Flow) -> Features | None:
        if len(self.module.normalized_shape) != 1:
            return None
        dim = len(flow.shapes[self.source]) - 1
        x = flow.read(self.source, dim)
        zero = x.constant & (x.value == 0)
        if self.module.weight is not None:
            zero |= self.module.weight.detach().cpu() == 0
        return Features.of(dim, zero, torch.zeros(len(zero)))

    def want(self, flow: Flow) -> None:
        x = flow.read(self.source, flow.features[self.node].dim)
        self.inputs = ~(x.constant & (x.value == 0)) | flow.wanted[self.node]
        self.inputs[0] |= not self.inputs.any()
        flow.want(self.source, x.dim, self.inputs)

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted, dim = flow.wanted[self.node], flow.features[self.node].dim
        operand = flow.take(self.source, dim, self.inputs)
        if self.inputs.all():
            normalised = flow.copy(self.node, {self.source: operand})
            return flow.narrow(normalised, dim, self.inputs, wanted)
        before, after = len(self.inputs), int(self.inputs.sum())
        kept = self.inputs.to(flow.like.device)
        weight = self.module.weight
        trained = weight is None or weight.requires_grad
        scale = torch.ones_like(kept, dtype=flow.like.dtype) if weight is None else weight.detach()
        eps = torch.finfo(flow.like.dtype).eps if self.module.eps is None else self.module.eps
        new = nn.RMSNorm(after, eps * before / after, device=scale.device, dtype=scale.dtype)
        new.weight = nn.Parameter(scale[kept] * (before / after) ** 0.5, trained)
        return flow.narrow(flow.place(self.node, new, operand), dim, self.inputs, wanted)
