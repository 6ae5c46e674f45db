"""The numbers of heads and widths that modules keep beside their layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pyrosparse.compaction.in_place.edit import Edit
from pyrosparse.compaction.in_place.layers import is_mixing

_STREAM = (
    "hidden_size", "embed_dim", "d_model", "n_embd", "dim", "width", "emb_dim", "kdim", "vdim"
)  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """Which numbers of the modules around a unit are set; several are tried in turn.

    heads:  those that are called heads, in proportion to the blocks that are kept.
    widths: those that are equal to a width that is cut.
    stream: among them also those that are called as the width of the residual stream mostly is.
    config: also in a copy of the configuration, for these modules alone.
    """

    heads: bool = True
    widths: bool = True
    stream: bool = False
    config: bool = False


ATTEMPTS = (
    Counts(),
    Counts(stream=True),
    Counts(widths=False),
    Counts(config=True),
    Counts(stream=True, config=True),
    Counts(heads=False, widths=False),
)


@dataclass(frozen=True)
class Sizes:
    """How the sizes of a unit change.

    widths: the inputs and outputs of its layers, before: after.
    blocks: how many there were and are.
    parts:  how many each of them had and has, of which some are shared: queries of a group.

    >>> sizes = Sizes({32: 16}, (4, 2))
    >>> dict(sizes.changes({"num_heads": 4, "head_dim": 8, "inner": 32}, Counts()))
    {'num_heads': 2, 'inner': 16}
    """

    widths: Mapping[int, int]
    blocks: tuple[int, int]
    parts: tuple[int, int] = (1, 1)

    def changes(self, values: Mapping[str, Any], counts: Counts) -> Iterator[tuple[str, int]]:
        """The numbers of heads and the widths among attributes, as they are after the cut."""
        for name, value in list(values.items()):
            if not _is_number(name, value):
                continue
            if _counts_heads(name) or (self.parts[0] > 1 and "group" in name.lower()):
                new = self._heads(name, value)
                # A head has several features: a unit of single ones is none.
                if counts.heads and self.blocks[0] not in self.widths and new is not None:
                    yield name, new
            elif counts.widths and (counts.stream or name not in _STREAM) and value in self.widths:
                yield name, self.widths[value]

    def _heads(self, name: str, value: int) -> int | None:
        """What becomes of a number of heads, of groups' queries, or of groups."""
        (before, after), (all_parts, parts) = self.blocks, self.parts
        if all_parts == 1:
            return value * after // before if value * after % before == 0 else None
        if "group" in name.lower():
            return parts if value == all_parts else None
        known = {before * all_parts: after * parts, before: after}
        return known.get(value)


def set_counts(
    edit: Edit, net: nn.Module, members: tuple[str, ...], sizes: Sizes, counts: Counts
) -> None:
    """Set the numbers of heads and widths in the modules that hold the layers of a unit."""
    modules = list(holders(net, members))
    for module in modules:
        for name, value in sizes.changes(vars(module), counts):
            edit.set(module, name, value)
    configs = {id(m.config): m.config for m in modules if _has_config(m)} if counts.config else {}
    for config in configs.values():
        changes = list(sizes.changes(vars(config), counts))
        if changes:
            own = copy.deepcopy(config)
            for name, value in changes:
                setattr(own, name, value)
            for module in modules:
                if vars(module).get("config") is config:
                    edit.set(module, "config", own)


def holders(net: nn.Module, members: tuple[str, ...]) -> Iterator[nn.Module]:
    """The modules between the one that holds all members and each of these.

    With them come their other parts, such as the one that computes attention, where they have no
    layers of their own.
    """
    paths = [name.split(".")[:-1] for name in members]
    owner: list[str] = []
    for pieces in zip(*paths, strict=False):
        if len(set(pieces)) > 1:
            break
        owner.append(pieces[0])
    names = {".".join(path[:n]) for path in paths for n in range(len(owner), len(path) + 1)}
    for name in sorted(names):
        module = net.get_submodule(name)
        yield module
        for key, child in module.named_children():
            path = f"{name}.{key}".lstrip(".")
            if path not in names and not any(is_mixing(part) for part in child.modules()):
                yield child


def numbers(net: nn.Module, layers: bool = False) -> dict[str, dict[str, int]]:
    """The whole numbers that modules keep as attributes, by module, also of layers where asked.

    >>> numbers(nn.Sequential(nn.Softmax(1)))
    {'0': {'dim': 1}}
    """
    found = {}
    for name, module in net.named_modules():
        if layers or not is_mixing(module):
            own = {k: v for k, v in vars(module).items() if _is_number(k, v)}
            if own:
                found[name] = own
    return found


def _is_number(name: str, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and not name.startswith("_")


def _counts_heads(name: str) -> bool:
    lower = name.lower()
    other = (
        "dim",
        "size",
        "width",
        "group",
        "per_",
        "mask",
        "idx",
        "index",
        "channels",
        "features",
    )
    return lower == "h" or ("head" in lower and not any(word in lower for word in other))


def _has_config(module: nn.Module) -> bool:
    config = vars(module).get("config")
    return config is not None and hasattr(config, "__dict__")
