"""Widths by measurement: exact widths, or multiples of a number, whichever is fastest here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from pyrosparse.compaction.account import Account
from pyrosparse.compaction.in_place.called import Called
from pyrosparse.compaction.layers import parameter_count
from pyrosparse.compaction.request import Network, Request
from pyrosparse.util.timing import best_latency

MULTIPLES = (1, 4, 8, 16, 32)
SLOWER = 1.02  # times the fastest: a measurement cannot show a smaller difference

Timer = Callable[..., Sequence[float]]


def fastest(
    request: Request[Network],
    build: Callable[[Request[Network]], Any],
    timer: Timer = best_latency,
) -> Any:
    """The compact network for which multiples of some number as widths are fastest.

    Networks of equal widths are timed once, under the smallest number. Of those that take at most
    1.02 of the shortest time, the result is the one with the fewest parameters. The account has
    ``round_to``, and ``times`` for all numbers timed, as fractions of the time with exact widths.

    build: makes the compact network of a request.
    timer: a function from a list of networks and their inputs to the seconds that each takes; by
           default the best of three medians of 30 passes, in turns.

    >>> from pyrosparse.compaction.graph import compacted_graph
    >>> net = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 2))
    >>> net[2].weight.data[:, 6:] = 0
    >>> by_hand = lambda nets, *x: [4.0, 3.0, 2.0, 4.0]
    >>> small = fastest(Request.of(net), compacted_graph, by_hand)
    >>> small.get_submodule("2").in_features, small.account.round_to
    (16, 16)
    >>> small.account.times
    {1: 1.0, 4: 0.75, 16: 0.5, 32: 1.0}
    """
    built: dict[int, nn.Module] = {}
    seen = []
    for multiple in MULTIPLES:
        small = build(replace(request, round_to=multiple))
        if (widths := _widths(small)) not in seen:
            seen.append(widths)
            built[multiple] = small
    if len(built) == 1:
        return built[1]
    seconds = timer([Called(net) for net in built.values()], *request.inputs)
    times = dict(zip(built, (one / seconds[0] for one in seconds), strict=True))
    best = min(
        (multiple for multiple in built if times[multiple] <= SLOWER * min(times.values())),
        key=lambda multiple: parameter_count(built[multiple]),
    )
    small = built[best]
    account = small.account
    assert isinstance(account, Account)
    small.account = replace(account, times=times)  # type: ignore[assignment]
    return small


def _widths(net: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in net.named_parameters()]
