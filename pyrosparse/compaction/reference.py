"""The reference for a compact network: the masked network by its definition."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pyrosparse.compaction.copies import copied, put_masks
from pyrosparse.compaction.masked import gains_of
from pyrosparse.compaction.parts import Entering
from pyrosparse.lifting.attention import Projecting, attention_of


def reference(
    net: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    gates: Mapping[str, nn.Module] | None = None,
) -> nn.Module:
    """A copy of a network in evaluation mode with masks in its parameters and gates as forward
    hooks: nothing is folded, replaced or made permanent.

    It computes what ``Lifted.mean_forward`` does once the masks are frozen.

    masks, gates: as for ``masked``.

    Raises ValueError as ``masked`` does.

    >>> net = nn.Linear(2, 2)
    >>> gated = reference(net, {"output": torch.tensor([0.0, 2.0])})
    >>> x = torch.ones(1, 2)
    >>> torch.equal(gated(x), net(x) * torch.tensor([0.0, 2.0]))
    True
    """
    net, gates = copied(net), gates or {}
    others = put_masks(net, masks or {})
    modules = dict(net.named_modules())
    for key in list(others):
        name, _, leaf = key.rpartition(".")
        if name in modules and parametrize.is_parametrized(modules[name], leaf):
            parametrize.register_parametrization(
                modules[name], leaf, _Times(others.pop(key)), unsafe=True
            )
    hung = [(key, copy.deepcopy(gate)) for key, gate in gates.items()]
    hung += gains_of(net, others, gates).items()
    for name in {key.rpartition(".")[0] for key, _ in hung}:
        if (attention := attention_of(net, name)) is not None:
            Projecting(attention)  # so that hooks on its projection act
    for key, gate in hung:
        name, _, kind = key.rpartition(".")
        if kind == "input":
            modules[name].register_forward_pre_hook(Entering(gate), with_kwargs=True)
        else:
            modules[name].register_forward_hook(_Leaving(gate))
    return net


class _Leaving:
    def __init__(self, gate: nn.Module) -> None:
        self.gate = gate

    def __call__(self, _: nn.Module, args: object, output: Tensor) -> Tensor:
        gated: Tensor = self.gate(output)
        return gated


class _Times(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, weight: Tensor) -> Tensor:
        mask = self.mask.to(weight.device)
        return torch.where(mask != 0, weight * mask, 0.0)
