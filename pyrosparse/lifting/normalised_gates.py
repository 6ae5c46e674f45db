"""Gates in front of batch normalisation, which divides them out again."""

from __future__ import annotations

import warnings

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyrosparse.lifting.target import Target

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def warn_where_normalised(net: nn.Module, target: Target) -> None:
    """Warn where one gate for all examples of a step scales what batch normalisation then divides
    by its own size: the network does not notice the gate, and only the prior moves it.

    Which layer comes next is told by the order of registration.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    >>> warn_where_normalised(net, Target("1", "output", (2,), axis=1))  # behind it: right
    """
    if target.kind != "output":
        return
    layers = [(n, m) for n, m in net.named_modules() if isinstance(m, (*_LAYERS, _BatchNorm))]
    names = [name for name, _ in layers]
    place = names.index(target.name) + 1 if target.name in names else len(names)
    if place == len(names) or isinstance(layers[place - 1][1], _BatchNorm):
        return
    name, following = layers[place]
    if isinstance(following, _BatchNorm) and target.shape == (following.num_features,):
        warnings.warn(
            f"the gates of {target.key!r} come before the batch normalisation {name!r}, which "
            "divides them out: with one gate for all examples of a step the network does not "
            "notice them, and the prior alone decides what goes. Put them behind it, on "
            f"ps.outputs(net, {name!r}), as ps.gates(net) does",
            stacklevel=2,
        )
