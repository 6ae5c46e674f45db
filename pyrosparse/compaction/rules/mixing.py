"""Dense layers and convolutions: every output is a weighted sum over the inputs of its group."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pyrosparse.compaction.layers import TRANSPOSED
from pyrosparse.compaction.rules.regular import level, round_up
from pyrosparse.compaction.rules.rule import Features, Flow, Multiples, Rule, with_parameters


class Mixing(Rule):
    r"""Linear layers and convolutions, also grouped and depthwise ones.

    .. math:: y_o = b_o + \sum_{i \text{ varies}} W_{oi} * x_i
              + \sum_{i \text{ constant}} W_{oi} * c_i

    An output is constant if every input with a nonzero weight is; constant inputs go into the bias.
    With zero padding, a constant is not constant at the border: an additional input channel of
    ones then carries it, with the weights :math:`\sum_i c_i W_{oi}`.

    All groups must keep the same numbers of inputs and outputs: a group with fewer keeps additional
    ones, and groups without a wanted output are cut.
    """

    module: nn.Linear

    def __init__(self, node: fx.Node, module: nn.Module) -> None:
        super().__init__(node, module)
        weight = module.weight
        assert isinstance(weight, Tensor)
        self.transposed = isinstance(module, TRANSPOSED)
        self.groups = 1 if isinstance(module, nn.Linear) else int(module.groups)  # type: ignore[arg-type]
        # (outputs, inputs of the group, kernel)
        self.weight = weight.detach().transpose(0, 1) if self.transposed else weight.detach()
        flat = (
            self.weight.cpu().flatten(2) if self.weight.dim() > 2 else self.weight.cpu()[..., None]
        )
        self.shape = (self.groups, len(flat) // self.groups, flat.shape[1])
        self.uses = (flat != 0).any(2).view(self.shape)
        self.flat = flat.view(*self.shape, -1)
        self.padded = self.transposed or _pads_with_zeros(module)

    def dim(self, flow: Flow) -> int:
        """The dimension of the operand that indexes the inputs."""
        if isinstance(self.module, nn.Linear):
            return len(flow.shapes[self.source]) - 1
        return 1

    def learn(self, flow: Flow) -> Features | None:
        if self.weight.dim() > 2 and len(flow.shapes[self.source]) != self.weight.dim():
            return None  # a convolution without a batch dimension
        x = flow.read(self.source, self.dim(flow))
        silent = x.constant & (x.value == 0) if self.padded else x.constant
        per_group = silent.view(self.groups, 1, -1)
        varies = (self.uses & ~per_group).any(2).flatten()
        if varies.all():
            return Features.varying(x.dim, len(varies))
        return Features.of(x.dim, ~varies, self.bias() + self._shift(x.value * silent))

    def want(self, flow: Flow) -> None:
        groups, outputs, inputs = self.shape
        x = flow.read(self.source, self.dim(flow))
        wanted = flow.wanted[self.node].view(groups, outputs)
        active = wanted.any(1, keepdim=True)
        self.rows = level(wanted.int(), int(wanted.sum(1).max())) & active
        flow.wanted[self.node] = self.rows.flatten()

        # The bias, or the channel of ones, replaces constant inputs. That channel has no group.
        foldable = x.constant & ((x.value == 0) | (groups == 1) | (not self.padded))
        varies = ~foldable.view(groups, inputs)
        used = (self.uses & self.rows.unsqueeze(2)).any(1) & varies
        used = self._without_multiples(x, used)
        least = max(int(used.sum(1).max()), 1, min(flow.at_least, inputs))
        count = round_up(least, flow.round_to, inputs)
        self.rounding = groups * (count - least)
        self.columns = level(2 * used.int() + varies.int(), count) & active
        flow.want(self.source, x.dim, self.columns.flatten())

    def rewrite(self, flow: Flow) -> fx.Node:
        x = flow.read(self.source, self.dim(flow))
        columns, rows = self.columns.flatten(), self.rows.flatten()
        operand = flow.take(self.source, x.dim, columns)
        if rows.all() and columns.all():
            return flow.copy(self.node, {self.source: operand})
        folded = torch.where(columns, 0.0, x.value)
        weight, bias = self._slice(), self.bias()[rows]
        if self.multiples is not None:
            weight, bias = self._with_multiples(self.multiples, weight, bias)
        if not self.padded:
            bias = bias + self._shift(folded)[rows]
        elif (self.uses & (folded != 0).view(self.groups, 1, -1)).any(2).flatten()[rows].any():
            carried = self.weight.cpu()[rows].double()
            carried = torch.einsum("oi...,i->o...", carried, folded).unsqueeze(1)
            weight = torch.cat([weight, carried.to(weight)], dim=1)
            pad = [0, 0] * (self.weight.dim() - 2) + [0, 1]
            operand = flow.graph.call_function(F.pad, (operand, pad), {"value": 1.0})
        return flow.place(self.node, self._module(weight, bias), operand)

    def _without_multiples(self, x: Features, used: Tensor) -> Tensor:
        """The used inputs, with one in place of those that are multiples of it."""
        self.multiples: Multiples | None = None
        if x.multiples is None or self.groups > 1 or self.padded:
            return used
        among = used.flatten() & x.multiples.among
        if int(among.sum()) < 2:
            return used
        self.multiples = x.multiples
        used = used.clone()
        used[0, among] = False
        used[0, x.multiples.one] = True
        return used

    def _with_multiples(
        self, multiples: Multiples, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The remaining weights and biases with those of multiples that were cut."""
        columns, rows = self.columns.flatten(), self.rows.flatten()
        gone = multiples.among & ~columns
        old = self.weight.cpu()[rows][:, gone].double()
        place = int(columns[: multiples.one].sum())
        sums = torch.einsum("oi...,i->o...", old, multiples.slope[gone])
        weight = weight.clone()
        weight[:, place] = (weight[:, place].cpu().double() + sums).to(weight)
        shifts = old.flatten(2).sum(2) if old.dim() > 2 else old
        return weight, bias + shifts @ multiples.offset[gone]

    def bias(self) -> Tensor:
        """(outputs,) float64; zeros without a bias."""
        bias = self.module.bias
        if isinstance(bias, Tensor):
            return bias.detach().double().cpu()
        return torch.zeros(self.shape[0] * self.shape[1], dtype=torch.float64)

    def _shift(self, constants: Tensor) -> Tensor:
        """The sum that constant inputs add to every output, away from any border."""
        by_group = constants.view(self.groups, 1, -1)
        some = by_group.any(0).flatten()
        sums = self.flat[:, :, some].sum(3, dtype=torch.float64)
        return (sums * by_group[..., some]).sum(2).flatten()

    def _slice(self) -> Tensor:
        rows = self.rows.flatten()
        active = self.rows.any(1)
        each, kept = int(self.rows[active][0].sum()), int(self.columns[active][0].sum())
        # The column indices of each group, once for each of its rows.
        columns = self.columns[active].nonzero()[:, 1].view(-1, kept).repeat_interleave(each, dim=0)
        columns = columns.view(*columns.shape, *[1] * (self.weight.dim() - 2))
        device = self.weight.device
        return self.weight[rows.to(device)].take_along_dim(columns.to(device), dim=1)

    def _module(self, weight: Tensor, bias: Tensor) -> nn.Module:
        outputs, inputs = weight.shape[:2]
        weight = weight.transpose(0, 1) if self.transposed else weight
        has_bias = self.module.bias is not None or bool((bias != 0).any())
        new = with_parameters(self.module, weight, bias.to(weight) if has_bias else None)
        if isinstance(new, nn.Linear):
            new.in_features, new.out_features = inputs, outputs
        else:
            new.groups = int(self.rows.any(1).sum())  # type: ignore[assignment]
            new.in_channels, new.out_channels = inputs * new.groups, outputs  # type: ignore[assignment, operator]
        return new


def _pads_with_zeros(module: nn.Module) -> bool:
    padding = getattr(module, "padding", 0)
    if getattr(module, "padding_mode", "zeros") != "zeros" or padding == "valid":
        return False
    if padding == "same":
        return any(side > 1 for side in module.kernel_size)  # type: ignore[union-attr]
    return any(padding) if isinstance(padding, tuple) else bool(padding)
