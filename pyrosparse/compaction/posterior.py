"""A compact network that keeps its posterior: a guide on the remaining elements of every target."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.compaction.check import CompactionError, difference
from pyrosparse.compaction.cut import Cut, cut, take
from pyrosparse.compaction.request import arguments_of
from pyrosparse.lifting.guide import Contents, Entry
from pyrosparse.lifting.lift import Lifted, mean_gates
from pyrosparse.util.generators import generators_left_alone
from pyrosparse.util.modes import copy_modes, evaluating


def compact_posterior(
    bnn: Lifted,
    masks: Mapping[str, Tensor],
    example: Tensor | Sequence[Any] | None,
    at_least: int | None,
) -> Lifted:
    """A smaller lifted network whose draws have the distribution of those of the frozen one.

    Arguments and errors as for ``compact``.

    >>> import pyrosparse as ps
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> bnn = ps.lift(net, ps.GeneralizedDropout(), ps.inputs(net, "2"))
    >>> small = ps.compact(bnn, {"2.input": torch.tensor([1, 0, 1])}, torch.ones(1, 4))
    >>> small.net.get_submodule("0"), small.targets[0].shape
    (Linear(in_features=4, out_features=2, bias=True), (2,))
    """
    # A copy is frozen: cut elements then cost no KL, and the remaining ones have their masks.
    whole = copy.deepcopy(bnn)
    whole.freeze(masks)
    inputs = arguments_of(whole.net, example)
    alive = {entry.target.key: entry.mask for entry in whole.guide.entries}
    empty = [key for key, mask in alive.items() if not mask.any()]
    if at_least is None and empty:
        raise ValueError(
            f"nothing is left of {', '.join(map(repr, empty))}: prune less, pass at_least=1 to "
            "keep one unit in every layer, or at_least=0 to remove such layers"
        )
    made = cut(whole.net, alive, inputs, at_least)
    contents, _ = part_of(whole.contents, made)
    if not contents.entries:
        raise ValueError(
            "no target has any weight or gate left, so there is no posterior: prune less, or "
            "compact the plain network, ps.compact(bnn.net, masks, example)"
        )
    small = Lifted(contents, name=whole.targets[0].prefix)
    small.guide.find_frozen()
    copy_modes(bnn, small)
    made.net.account = replace(made.net.account, error=check_draws(whole, small, made, inputs))
    return small


def part_of(whole: Contents, made: Cut) -> tuple[Contents, dict[str, Tensor]]:
    """The contents of a lifted network for a cut of its network, and the positions of the elements
    of their tensors in those of the whole network, by their names in a lifted network's state dict.

    Targets without remaining elements are left out.

    Raises ValueError if a method cannot give the posterior of a part.
    """
    parts, masks = [], {}
    positions = {f"net.{key}": value for key, value in made.positions.items()}
    for entry in whole.entries:
        target, where = entry.target, features_of(made, entry)
        if where is None:
            continue
        value = made.net.get_parameter(target.name) if target.kind == "weight" else None
        small = replace(target, shape=tuple(where.shape), value=value)
        q = entry.tensors()
        tensors = entry.method.part(target, q, small, where)
        for key, tensor in q.items():
            if value is not None and tensor is entry.parameter():
                tensors[key] = value
            elif tensor.shape == target.shape:
                positions[f"guide.posterior.{target.key}.{key}"] = where
        positions[f"guide.posterior.{target.key}.mask"] = where
        masks[target.key] = take(entry.mask, where)
        parts.append((entry.method, small, tensors))
    contents = Contents.of(made.net, parts)
    for entry in contents.entries:
        entry.mask.copy_(masks[entry.target.key])
    return contents, positions


def features_of(made: Cut, entry: Entry) -> Tensor | None:
    """The positions of the remaining elements of a target; None if it was removed."""
    target = entry.target
    if target.kind == "weight":
        return made.positions.get(target.name)
    if target.name not in dict(made.net.named_modules()):
        return None
    everything = torch.ones(target.shape, dtype=torch.bool)
    both = made.features.get(target.name, (everything, everything))
    return both[target.kind == "output"].nonzero().flatten()


def unreached(made: Cut, entries: Iterable[Entry]) -> list[str]:
    """The names of the targets without remaining elements after a cut; after a cut of nothing,
    those of the targets that the network does not use."""
    return [entry.target.key for entry in entries if features_of(made, entry) is None]


def check_draws(whole: Lifted, small: Lifted, made: Cut, inputs: tuple[Any, ...]) -> float:
    """The largest difference of the outputs of two lifted networks at the same draws, on an
    example, as a fraction of the largest output.

    If a method draws more than its sites, its gates and weights are at their means given the sites.

    Raises CompactionError beyond 1e-5 (1e-9 in float64).
    """
    floating = [p.dtype for p in whole.parameters() if p.is_floating_point()]
    exact = bool(floating) and floating[0] is torch.float64
    tolerance = 1e-9 if exact else 1e-5
    hidden = any(e.method.hidden_draws(e.posterior()) for e in whole.guide.entries)
    worst = 0.0
    with evaluating(whole, small), torch.no_grad(), poutine.block(), _own_randomness(whole):
        for _ in range(3):
            drawn = poutine.trace(whole.guide).get_trace(*inputs)
            fewer = poutine.trace(small.guide).get_trace(*inputs)
            for name, node in fewer.nodes.items():
                if node["type"] == "sample":
                    value: Any = drawn.nodes[name]["value"]
                    node["value"] = _part(whole, made, name, value)
            again = [poutine.replay(whole, trace=drawn)(*inputs) for _ in range(2)]
            with mean_gates() if hidden or difference(*again) else nullcontext():
                expected = poutine.replay(whole, trace=drawn)(*inputs)
                found = poutine.replay(small, trace=fewer)(*inputs)
            worst = max(worst, difference(expected, found))
    if not worst <= tolerance:
        raise CompactionError(
            f"the compact lifted network differs from the frozen one by {worst:.1e} of its "
            f"outputs at the same draws, more than {tolerance:.0e}: this is a defect of "
            "pyrosparse, please report it"
        )
    return worst


@contextmanager
def _own_randomness(bnn: Lifted) -> Iterator[None]:
    with generators_left_alone():
        torch.manual_seed(0)
        yield


def _part(whole: Lifted, made: Cut, site: str, value: Tensor) -> Tensor:
    """The remaining elements of the draw of a site."""
    own = [
        entry
        for entry in whole.guide.entries
        if site == entry.target.site or site.startswith(entry.target.part(""))
    ]
    if not own:
        return value
    entry = max(own, key=lambda one: len(one.target.site))  # "weight_v" is no part of "weight"
    where = features_of(made, entry)
    return value if where is None or value.shape != entry.target.shape else take(value, where)
