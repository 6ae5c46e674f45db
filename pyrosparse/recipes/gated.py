"""The option ``on`` of gate recipes: where gates go, and the targets for each value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pyrosparse.recipes.option import option

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.lifting.target import Target

Gated = Literal["gates", "heads", "ffn", "heads+ffn"]
"""The values of ``on``."""


def on(more: str = "") -> Any:
    """The option that says where gates go; more: added to its help."""
    return option(
        "gates",
        "where gates go: `gates`, on what enters dense layers and on channels of convolutions; of "
        f"a transformer `heads`, `ffn` (neurons of feed-forward networks) or `heads+ffn`{more}",
    )


def targets_on(net: nn.Module, on: Gated) -> list[Target]:
    """The gates of a network that an ``on`` stands for: ``ps.gates``, ``ps.heads``, ``ps.ffn``, or
    both of these.

    Raises ValueError if the network has none.

    >>> from torch import nn
    >>> net = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
    >>> [target.key for target in targets_on(net, "heads+ffn")]
    ['self_attn.out_proj.heads', 'linear2.input']
    """
    from pyrosparse.lifting.target import gates
    from pyrosparse.lifting.transformers import ffn, heads

    if on == "gates":
        return gates(net)
    return [
        target
        for part, select in (("heads", heads), ("ffn", ffn))
        if part in on.split("+")
        for target in select(net)
    ]
