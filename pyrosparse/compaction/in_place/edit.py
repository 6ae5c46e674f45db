"""Changes to a network that can be taken back, and the cutting of a unit with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.in_place.layers import weight_dim, weight_of
from pyrosparse.compaction.in_place.probe import Constants
from pyrosparse.compaction.in_place.units import Unit, dead_inputs
from pyrosparse.compaction.layers import BATCH_NORMS

# What layers call their numbers of features, by the dimension of their weight that holds them.
_ENTERING = ("in_features", "in_channels", "nx")
_LEAVING = ("out_features", "out_channels", "nf")
_BETWEEN = (
    "num_features", "num_channels", "num_parameters", "embedding_dim", "in_channels",
    "out_channels", "groups",
)  # fmt: skip


class Edit:
    """Changes to attributes of objects; ``undo`` takes them back.

    >>> layer, edit = nn.Linear(2, 1), Edit()
    >>> edit.set(layer, "in_features", 1)
    >>> edit.undo()
    >>> layer.in_features
    2
    """

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute; a tensor in the place of a parameter becomes one."""
        old = getattr(owner, name)
        self._before.append((owner, name, old))
        if isinstance(old, nn.Parameter) and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value.clone(), requires_grad=old.requires_grad)
        setattr(owner, name, value)

    def undo(self) -> None:
        """Take everything back, the last first."""
        while self._before:
            owner, name, old = self._before.pop()
            setattr(owner, name, old)


def cut_unit(net: nn.Module, unit: Unit, kept: Tensor, constants: Mapping[str, Constants]) -> Edit:
    r"""Take the blocks that are not kept out of the layers of a unit.

    Constants that the consumers read of them go into the biases,
    :math:`b \mathrel{+}= \sum_j W_j c_j`.
    """
    edit = Edit()
    for name in unit.consumers:
        module = net.get_submodule(name)
        columns = kept.repeat_interleave(weight_of(module).shape[1] // len(kept))
        value = torch.where(columns, 0.0, constants[name].value.cpu())
        read = ~dead_inputs(module, constants[name], False)
        if (value * read).any():
            weight = weight_of(module)
            shift = torch.einsum("oi...,i->o", weight, (value * read).to(weight))
            assert isinstance(module.bias, Tensor)
            edit.set(module, "bias", module.bias.detach() + shift)
        _slice(edit, module, columns, entering=True)
    for name, label in unit.producers.items():
        blocks = kept.view(unit.blocks, -1).any(1) if name in unit.shared else kept
        _slice(edit, net.get_submodule(name), blocks[label] | (label < 0), entering=False)
    for name, (dim, label) in unit.parameters.items():
        owner, _, leaf = name.rpartition(".")
        _slice_between(edit, net.get_submodule(owner), leaf, dim, kept[label])
    return edit


def _slice(edit: Edit, module: nn.Module, mask: Tensor, entering: bool) -> None:
    dim = weight_dim(module, entering)
    weight = module.weight
    assert isinstance(weight, Tensor)
    index = mask.nonzero().flatten().to(weight.device)
    edit.set(module, "weight", weight.detach().index_select(dim, index))
    if not entering and isinstance(module.bias, Tensor):
        edit.set(module, "bias", module.bias.detach().index_select(0, index))
    for name in _ENTERING if entering else _LEAVING:
        if name in vars(module):
            edit.set(module, name, len(index))


def _slice_between(edit: Edit, owner: nn.Module, leaf: str, dim: int, mask: Tensor) -> None:
    old = getattr(owner, leaf)
    index = mask.nonzero().flatten().to(old.device)
    edit.set(owner, leaf, old.detach().index_select(dim, index))
    if isinstance(owner, BATCH_NORMS) and leaf == "weight":
        for name in ("running_mean", "running_var"):
            if getattr(owner, name) is not None:
                edit.set(owner, name, getattr(owner, name)[index])
    for name in _BETWEEN:
        if vars(owner).get(name) == len(mask):
            edit.set(owner, name, len(index))
