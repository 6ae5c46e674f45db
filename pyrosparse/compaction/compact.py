"""``compact``: from a network with exact zeros to a smaller one that computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from torch import Tensor, nn

from pyrosparse.compaction.check import CompactionError, SizeError
from pyrosparse.compaction.compact_net import CompactNet
from pyrosparse.compaction.fastest import fastest
from pyrosparse.compaction.graph import compacted_graph
from pyrosparse.compaction.in_place.compacted import compacted_in_place, has_dead_layers
from pyrosparse.compaction.in_place.configuration import is_pretrained
from pyrosparse.compaction.in_place.probe import ProbeError
from pyrosparse.compaction.layers import parameter_count
from pyrosparse.compaction.request import Network, Request
from pyrosparse.compaction.trace import TraceError
from pyrosparse.lifting.attention import no_fast_path
from pyrosparse.lifting.lift import Lifted
from pyrosparse.util.errors import UsageError, expect_network
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

    Gains are folded into weights. A feature is cut if it is *constant*, or if it is not *wanted*.
    It is constant, the same number for every input, if the weights into it are zero; the number is
    added to the next bias. It is not wanted if the weights out of it are zero. An operation without
    a rule is a barrier: everything it reads stays, and the summary (``account``) lists it.

    If torch.fx can trace the network, ``compact`` cuts the graph operation by operation. If it
    cannot, or if barriers remain, ``compact`` also cuts the network in place: the result is a copy
    of the same class with smaller layers. It returns the smaller of the two results.

    If ``net`` is a lifted network, the result is a smaller lifted network. Its guide is the old
    posterior of the remaining weights and gates: its draws have the distribution of those of
    ``net`` with ``masks`` frozen. Nothing is folded, so every remaining weight and gate is one of
    the old ones. A feature is cut if it is zero in every draw, or if it is not wanted.

    net:      any module, or a lifted network that torch.fx can trace; it is not changed.
    masks:    as ``Lifted.masks()`` returns them: masks of weights by parameter name, gains of gates
              by ``<module>.input`` or ``<module>.output``. By default the zeros in the weights are
              used.
    example:  an input of the network: a tensor, a sequence of arguments, or a mapping of arguments
              by name. It determines the shapes. You can leave it out if the first layer is dense,
              or if it is a convolution and the network accepts images of a usual size.
    gates:    as ``Lifted.gates()`` returns them, for gains that depend on the input: the compact
              network computes them for every datum.
    at_least: the smallest number of inputs and outputs of each layer. 0 allows a whole layer to be
              removed, such as a branch beside a shortcut. By default a layer without units is an
              error.
    round_to: keep a few dead features, so that the number of features that a layer reads is a
              multiple of this number, because kernels are fast for widths such as 8 or 16. The
              summary says how many were kept. ``"fastest"`` tries exact widths and multiples of 4,
              8, 16 and 32, times them on the example, and chooses the fastest; ``account.times``
              has the times.

    Returns a ``CompactNet`` or a network of the class of ``net``, with the summary as ``account``;
    print it. The result is checked on the example, on random inputs of the same shape, and on other
    sizes if the network reads sizes. Its outputs equal those of the masked network within 1e-5
    (1e-9 in float64) times the largest output, or times 1e-3 if that is larger. The masked network
    has gates as forward hooks, as in ``Lifted.mean_forward``.

    Raises ValueError if masks do not fit or are not finite, remaining parameters are NaN, the
    network is compiled, it can neither be traced nor cut in place, an example is needed and
    missing, or a layer has no units left; for a lifted network also if a part of its posterior
    cannot be cut, as ``Method.part`` says, or with round_to. Raises CompactionError, a defect of
    pyrosparse, if the outputs differ.

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
    expect_network(net)
    if masks is not None and not isinstance(masks, Mapping):
        raise UsageError(
            "masks are tensors by name, as bnn.masks() returns them; got "
            f"{type(masks).__name__}. Without masks give the input by name: "
            "ps.compact(net, example=x)"
        )
    for key, mask in (masks or {}).items():
        if not isinstance(mask, Tensor):
            raise UsageError(f"the mask {key!r} must be a tensor, got {type(mask).__name__}")
    inner = next((key for key, one in net.named_modules() if key and isinstance(one, Lifted)), None)
    if inner is not None:
        raise UsageError(
            f"{type(net).__name__} contains the lifted network {inner!r}: give "
            "that one for a compact posterior, ps.compact(bnn, masks, x), or its network for a "
            "compact network, ps.compact(bnn.net, masks, x)"
        )
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
    """The smaller of two results: the network as a graph, and a copy that is cut in place.

    A Hugging Face model stays one, unless its graph is smaller than what is cut in place."""
    try:
        traced = compacted_graph(request)
    except (TraceError, SizeError) as error:  # a graph may have sizes of the example as numbers
        traced, reason = None, error
    keeps_class = is_pretrained(request.net)
    complete = traced is not None and not (traced.account.barriers and has_dead_layers(traced))
    if traced is not None and complete and not keeps_class:
        return traced
    try:
        in_place = compacted_in_place(request)
    except ProbeError as error:
        if traced is None:
            raise ValueError(f"{reason}. It cannot be cut in place either: {error}") from error
        return traced
    if traced is None:
        return in_place
    counts = [parameter_count(one) for one in (traced, in_place)]
    return in_place if counts[1] < counts[0] + keeps_class else traced
