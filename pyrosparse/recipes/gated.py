"""The option ``on`` of gate recipes: where gates go, and the targets for each value."""

from __future__ import annotations

import warnings
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


def targets_on(net: nn.Module, on: Gated, example: tuple[Any, ...] | None = None) -> list[Target]:
    """The gates of a network that an ``on`` stands for: ``ps.gates``, ``ps.heads``, ``ps.ffn``, or
    both of these.

    example: what the network is called with. It leaves out, with a warning, the gates of layers
             whose parameters the network reads without calling them: they would do nothing.

    Raises ValueError if the network has none.

    >>> from torch import nn
    >>> net = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
    >>> [target.key for target in targets_on(net, "heads+ffn")]
    ['self_attn.out_proj.heads', 'linear2.input']
    """
    from pyrosparse.lifting.target import gates
    from pyrosparse.lifting.transformers import ffn, heads

    if on == "gates":
        return _acting(net, gates(net), example)
    return [
        target
        for part, select in (("heads", heads), ("ffn", ffn))
        if part in on.split("+")
        for target in select(net)
    ]


def _acting(net: nn.Module, targets: list[Target], example: tuple[Any, ...] | None) -> list[Target]:
    from pyrosparse.lifting.watch import read_without_calls

    if example is None:
        return targets
    past = read_without_calls(net, {target.name for target in targets}, example)
    if past:
        warnings.warn(
            f"there are no gates on {', '.join(sorted(past))}: the network reads the weights of "
            "these layers without calling them, so that gates would do nothing. Their weights stay",
            stacklevel=3,
        )
    acting = [target for target in targets if target.name not in past]
    if not acting:
        raise ValueError(
            "the network calls none of the layers that could have gates: it reads their weights "
            "itself. Call the layers in its forward, or use a recipe of weights"
        )
    return acting
