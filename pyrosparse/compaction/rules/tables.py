"""Tensors of the network's own among the operands: parameters that are read, and embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from pyrosparse.compaction.rules.rule import Features, Flow, Rule, attribute


class OwnTensor(Rule):
    """A parameter or buffer that the network reads, such as a class token or positions.

    The features of a parameter of several dimensions are in that dimension in which some are zero;
    where this is so in more than one, in the last. If all others have size 1, it is clear.
    """

    def learn(self, flow: Flow) -> Features | None:
        tensor = attribute(flow.net, str(self.node.target))
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.dim():
            return None
        zero = tensor.detach().cpu() == 0
        found = {
            dim: zero.movedim(dim, 0).reshape(zero.shape[dim], -1).all(1)
            for dim in reversed(range(zero.dim()))
        }
        dims = [dim for dim, silent in found.items() if silent.any() and not silent.all()]
        dims = dims if isinstance(tensor, nn.Parameter) else []  # a mask has zeros of its own
        dims += [dim for dim in found if tensor.shape[dim] == tensor.numel()]
        if not dims:
            return None
        dim = dims[0]
        return Features.of(dim, found[dim], torch.zeros(len(found[dim]), dtype=torch.float64))

    def rewrite(self, flow: Flow) -> fx.Node:
        new, wanted = flow.copy(self.node), flow.wanted[self.node]
        if not wanted.all():
            name = str(self.node.target)
            tensor = flow.parts[name]
            kept = wanted.nonzero().flatten().to(tensor.device)
            part = tensor.detach().index_select(flow.features[self.node].dim, kept)
            trained = isinstance(tensor, nn.Parameter)
            flow.parts[name] = nn.Parameter(part, tensor.requires_grad) if trained else part
        return new


class Embedding(Rule):
    """Rows of a table, by number: a feature is constant if it is the same in all rows."""

    module: nn.Embedding

    def learn(self, flow: Flow) -> Features | None:
        if self.module.max_norm is not None:
            return None  # what is looked up changes the table
        table = self.module.weight.detach().cpu().double()
        same = (table == table[:1]).all(0)
        return Features.of(len(flow.shapes[self.node]) - 1, same, table[0])

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted = flow.wanted[self.node]
        if wanted.all():
            return flow.copy(self.node)
        old = self.module
        table = old.weight.detach()[:, wanted.to(old.weight.device)].clone()
        rows, width = table.shape
        new = nn.Embedding(
            rows,
            width,
            padding_idx=old.padding_idx,
            scale_grad_by_freq=old.scale_grad_by_freq,
            sparse=old.sparse,
            _weight=table,
        )
        new.weight.requires_grad_(old.weight.requires_grad)
        return flow.place(self.node, new, *(flow.new[x] for x in self.node.all_input_nodes))
