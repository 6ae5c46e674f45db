"""The compact network that keeps its class, with its account."""

from __future__ import annotations

from typing import cast

from torch import nn

from pyrosparse.compaction.account import Account
from pyrosparse.compaction.check import check
from pyrosparse.compaction.in_place.called import Called
from pyrosparse.compaction.in_place.configuration import follow
from pyrosparse.compaction.in_place.engine import cut_in_place
from pyrosparse.compaction.in_place.layers import is_mixing, used, weight_of
from pyrosparse.compaction.layers import parameter_count
from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.read_elsewhere import read_elsewhere
from pyrosparse.compaction.request import Network, Request
from pyrosparse.util.modes import forget


def compacted_in_place(request: Request[Network]) -> Network:
    """A copy of a network with smaller layers, in the mode of each module, with an ``account``.

    Raises ValueError as ``cut_in_place`` does; CompactionError if the outputs differ.
    """
    net, inputs = request.net, request.inputs
    # Cuts are judged against the network with its gains folded into the weights: what folding
    # rounds in float32 is no difference of a cut, but shows in float64, in which they are judged.
    elsewhere = read_elsewhere(net, inputs) if request.masks or request.gates else set()
    folded, uncut = (
        masked(net, request.masks, request.gates, unfolded=elsewhere) for _ in range(2)
    )
    result = cut_in_place(folded, uncut, inputs, request.at_least, request.round_to)
    small = result.net
    forget(small)
    follow(small, net, result.cuts)
    error = check(Called(request.expected), Called(small), inputs, resize=True)
    modes = {name: module.training for name, module in net.named_modules()}
    for name, module in small.named_modules():
        module.training = modes.get(name, net.training)
    for parameter in small.parameters():
        parameter.grad = None
    small.account = Account(  # type: ignore[assignment]
        result.layers,
        result.barriers,
        (parameter_count(net), parameter_count(small)),
        error,
        type(net).__name__,
        request.round_to,
    )
    # Of the same class, but that torch makes one of its own for every copy of a traced network.
    return cast(Network, small)


def has_dead_layers(net: nn.Module) -> bool:
    """Whether a layer of a network has outputs or inputs with nothing but zeros for weights.

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data[0].zero_()
    >>> has_dead_layers(nn.Sequential(layer)), has_dead_layers(nn.Linear(2, 2))
    (True, False)
    """
    for module in net.modules():
        if is_mixing(module):
            paths = used(weight_of(module))
            if not (paths.any(0).all() and paths.any(1).all()):
                return True
    return False
