"""``compact``: from a network with exact zeros to a smaller one that computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from torch import Tensor, nn

from pyrosparse.compaction.check import CompactionError
from pyrosparse.compaction.compact_net import CompactNet
from pyrosparse.compaction.fastest import fastest
from pyrosparse.compaction.graph import compacted_graph
from pyrosparse.compaction.in_place.compacted import compacted_in_place, has_dead_layers
from pyrosparse.compaction.in_place.probe import ProbeError
from pyrosparse.compaction.layers import parameter_count
from pyrosparse.compaction.request import Network, Request
from pyrosparse.compaction.trace import TraceError
from pyrosparse.lifting.attention import no_fast_path
from pyrosparse.lifting.lift import Lifted
from pyrosparse.util.sharding import refuse_sharded

__all__ = ["CompactNet", "CompactionError", "compact"]


@overload
def compact(  # type: ignore[overload-overlap]
    net: Lifted,
    masks: Mapping[str, Tensor] | None = None,
    example: Tensor | Sequence[Any] | None = None,
    *,
    at_least: int | None = None,
) -> Lifted: ...


@overload
def compact(
    net: Network,
    masks: Mapping[str, Tensor] | None = None,
    example: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    gates: Mapping[str, nn.Module] | None = None,
    at_least: int | None = None,
    round_to: int | Literal["fastest"] = 1,
) -> CompactNet | Network: ...


def compact(
    net: Network,
    masks: Mapping[str, Tensor] | None = None,
    example: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    gates: Mapping[str, nn.Module] | None = None,
    at_least: int | None = None,
    round_to: int | Literal["fastest"] = 1,
) -> CompactNet | Network | Lifted:
    r"""A smaller network that computes exactly what the masked network does in evaluation mode.

    Gains are folded into weights. A feature goes where it is *constant*, that is the same number
    for every input, because the weights into it are zero (the number is carried through what
    follows into the next bias), and where nobody *needs* it, because the weights out of it are
    zero. What an unknown operation reads stays whole, and the account says so.

    What torch.fx can trace becomes a graph, cut operation by operation. A network that it cannot
    trace, or in which it must leave more, is cut in place: the result is a copy of its own class
    with smaller layers, whichever is smaller.

    Of a lifted network it makes a smaller lifted network, whose guide is the old posterior on what
    is left: its draws have the law of those of ``net`` with ``masks`` frozen. Nothing is folded
    there, so that every weight and gate that stays is one of the old ones; a feature goes where it
    is zero in every draw, or where nobody needs it.

    net:      any module, or a lifted network that torch.fx can trace; it is left as it is.
    masks:    as ``Lifted.masks()`` gives them: of weights by parameter name, gains of gates by
              ``<module>.input`` or ``<module>.output``. With none, the zeros in the weights count.
    example:  what the network is called with, a tensor, the sequence of its arguments, or a mapping
              of arguments by name; it gives the shapes. It can be left out where the network begins
              with a dense layer, or with a convolution and takes images of a usual size.
    gates:    as ``Lifted.gates()`` gives them, for gains that depend on the input: the compact
              network computes them anew for every datum.
    at_least: how many features each layer keeps at both ends. 0 lets a layer go altogether (a
              branch beside a shortcut, say); None refuses that.
    round_to: keep a few dead features, so that layers read multiples of this number of them:
              kernels are written for widths such as 8 or 16. The account says how many.
              ``"fastest"`` tries exact widths and multiples of 4, 8, 16 and 32, times them on the
              example, on the machine and at the batch size at hand, and takes the fastest; the
              account has the times.

    The result, a ``CompactNet`` or a network of the class of ``net``, has an ``account``; print
    it. It is checked on the example and on random inputs of its shape, and of other sizes where
    the network reads sizes: its outputs are those of the masked network within 1e-5 (1e-9 in
    float64) of the largest output, or of 1e-3 where that is larger. The masked network is computed
    by its definition, with gates as forward hooks, as ``Lifted.mean_forward`` does.

    Raises ValueError where masks do not fit or are not finite, parameters that stay are NaN, the
    network is compiled or can neither be traced nor probed, no example is given and none found, or
    a layer is left without a unit, and for a posterior of which a part has another law, as
    ``Method.part`` says, or with round_to; CompactionError, a defect of ours, where the outputs
    differ.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> masks = {"0.weight": torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()}
    >>> small = compact(net, masks, torch.ones(1, 4))
    >>> print(small.account)
    layer  kind    inputs  outputs  parameters
    0      Linear  4 -> 3  3 -> 2   15 -> 8
    2      Linear  3 -> 2  2        8 -> 6
    all                             23 -> 14
    largest difference to the masked network: ...
    """
    if at_least is not None and at_least < 0:
        raise ValueError(f"at_least is a number of features, 0 or more; got {at_least}")
    refuse_sharded(
        net.named_parameters(),
        "compact reads whole weights",
        "Gather them first: load torch.distributed.checkpoint.state_dict.get_model_state_dict(net, "
        "options=StateDictOptions(full_state_dict=True)) into a network that is not sharded",
    )
    if round_to != "fastest" and not (isinstance(round_to, int) and round_to >= 1):
        raise ValueError(
            f'round_to is a number of features, 1 or more, or "fastest"; got {round_to!r}'
        )
    if isinstance(net, Lifted):
        from pyrosparse.compaction.posterior import compact_posterior

        if gates is not None:
            raise ValueError("a lifted network has its own gates: leave `gates` out")
        if round_to != 1:
            raise ValueError("round_to is not supported for a lifted network: leave `round_to` out")
        if isinstance(example, Mapping):
            raise ValueError(
                "a lifted network is traced with positional arguments, but the example is a dict "
                "of names: give a tuple"
            )
        return compact_posterior(net, masks or {}, example, at_least)
    # Its nested tensors can be neither traced nor probed.
    with no_fast_path():
        if round_to == "fastest":
            return fastest(Request.of(net, masks, example, gates, at_least), _smallest)
        return _smallest(Request.of(net, masks, example, gates, at_least, round_to))


def _smallest(request: Request[Network]) -> CompactNet | Network:
    """What is smaller: the network as a graph, or as a copy that is cut in place."""
    try:
        traced = compacted_graph(request)
    except TraceError as error:
        traced, reason = None, error
    if traced is not None and not (traced.account.barriers and has_dead_layers(traced)):
        return traced
    try:
        in_place = compacted_in_place(request)
    except ProbeError as error:
        if traced is None:
            raise ValueError(f"{reason}. It cannot be cut in place either: {error}") from error
        return traced
    if traced is not None and parameter_count(traced) <= parameter_count(in_place):
        return traced
    return in_place
