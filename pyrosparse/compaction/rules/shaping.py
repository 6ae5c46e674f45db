"""Operations that change the shape: flatten, padding, slices, means, permutations."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pyrosparse.compaction.parts import Select
from pyrosparse.compaction.rules.pointwise import Pointwise
from pyrosparse.compaction.rules.rule import Features, Flow, Rule, arguments
from pyrosparse.compaction.rules.sizes import given_sizes, is_made_of_sizes, is_own, is_size_of


class Flatten(Rule):
    """(N, C, ...) -> (N, C * ...): a channel becomes as many features as it has positions.

    ``flatten(1)``, and equivalent ``view`` or ``reshape`` to (n, -1) and (-1, features). A flatten
    of later dimensions does not change the channels, and neither does ``view(n, c, 1, 1)``.
    """

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        if x is None or x.dim != 1:
            return None
        self.added = added_dimensions(flow, self.node)
        if self.added:
            self.into_features, self.positions = False, 1
            return Features(1, x.constant, x.value)
        start = self._start(flow)
        if start is None or start < 1:
            return None
        self.into_features = start == 1
        if self.into_features and not is_own(flow, self.node, 1):
            return None  # the number of positions depends on the input
        shape = flow.shapes[self.source]
        self.positions = shape[2:].numel() if self.into_features else 1
        constant, value = (
            values.repeat_interleave(self.positions) for values in (x.constant, x.value)
        )
        return Features.of(1, constant, value)

    def _start(self, flow: Flow) -> int | None:
        """The first dimension that is flattened, with all after it."""
        before, after = flow.shapes[self.source], flow.shapes[self.node]
        if self.module is not None or self.node.target in ("flatten", torch.flatten):
            start, end = merged(self.node, self.module, len(before))
            return start if end == len(before) - 1 else None
        sizes = given_sizes(self.node)
        # A number in place of the batch size would hold only for this example.
        batch = len(sizes) == 2 and (sizes[0] == -1 or is_size_of(flow, sizes[0], self.source, 0))
        return 1 if batch and tuple(after) == (before[0], before[1:].numel()) else None

    def want(self, flow: Flow) -> None:
        self.channels = flow.wanted[self.node].view(-1, self.positions).any(1)
        flow.want(self.source, 1, self.channels)

    def rewrite(self, flow: Flow) -> fx.Node:
        operand = flow.take(self.source, 1, self.channels)
        if self.added:
            index: Any = (..., *[None] * self.added)
            flat = flow.graph.call_function(operator.getitem, (operand, index))
        elif self.module is not None or not self.into_features:
            flat = flow.copy(self.node, {self.source: operand})
        else:
            flat = flow.graph.call_function(torch.flatten, (operand, 1))
        present = self.channels.repeat_interleave(self.positions)
        return flow.narrow(flat, 1, present, flow.wanted[self.node])


class Pad(Rule):
    """Padding with a number, of positions or of features, whose added ones are constant; or of
    positions with their own values."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        given = arguments(self.node, input=None, pad=None, mode="constant", value=None)
        if self.module is not None:
            given |= {"pad": self.module.padding, "value": self.module.value}
        if x is None:
            return None
        rank = len(flow.shapes[self.source])
        pads = [*given["pad"], *[0] * (2 * rank - len(given["pad"]))]
        at = 2 * (rank - 1 - x.dim)
        own = pads[at : at + 2]
        # Of positions it may be computed from sizes.
        known = (_is_number(flow, pad) and not (isinstance(pad, int) and pad < 0) for pad in pads)
        if not all(known) or not all(isinstance(pad, int) for pad in own):
            return None
        self.before, self.after = own
        self.own_values = given["mode"] != "constant"
        if self.own_values:
            return None if self.before or self.after else replace(x)
        self.value = float(given["value"] or 0.0)
        self.others = [*pads[:at], 0, 0, *pads[at + 2 :]]
        self.at = at
        # A constant with padded positions stays constant only if it equals the padding.
        same = x.value == self.value if any(self.others) else torch.ones_like(x.constant)
        constant = F.pad(x.constant & same, (self.before, self.after), value=True)
        return Features.of(
            x.dim, constant, F.pad(x.value, (self.before, self.after), value=self.value)
        )

    def _inner(self, wanted: Tensor) -> Tensor:
        return wanted[self.before : len(wanted) - self.after]

    def want(self, flow: Flow) -> None:
        inner = self._inner(flow.wanted[self.node])
        if not inner.any():  # at least one feature must remain to be padded
            inner = inner.index_fill(0, torch.tensor(0), True)
        self.takes = inner
        flow.want(self.source, flow.features[self.node].dim, inner)

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted, dim = flow.wanted[self.node], flow.features[self.node].dim
        operand = flow.take(self.source, dim, self.takes)
        if self.own_values or (self.module is not None and not (self.before or self.after)):
            new = flow.copy(self.node, {self.source: operand})
            return flow.narrow(new, dim, self.takes, wanted)
        inner = len(wanted) - self.after
        pads = list(self.others)
        pads[self.at] = int(wanted[: self.before].sum())
        pads[self.at + 1] = int(wanted[inner:].sum())
        if any(pads):
            pads = fx.map_arg(pads, lambda size: flow.new[size])
            operand = flow.graph.call_function(F.pad, (operand, pads), {"value": self.value})
        present = torch.cat([wanted[: self.before], self.takes, wanted[inner:]])
        return flow.narrow(operand, dim, present, wanted)


class PixelShuffle(Rule):
    """(N, C * r * r, H, W) -> (N, C, H * r, W * r): r * r channels become the positions of one."""

    factor = "upscale_factor"

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        given = arguments(self.node, input=None, **{self.factor: None})[self.factor]
        factor = getattr(self.module, self.factor, given)
        if x is None or x.dim != 1 or len(flow.shapes[self.source]) != 4:
            return None
        if not isinstance(factor, int):
            return None
        self.each = factor**2
        return self.shuffled(x)

    def shuffled(self, x: Features) -> Features:
        """The features of the result."""
        constant, value = x.constant.view(-1, self.each), x.value.view(-1, self.each)
        same = (value == value[:, :1]).all(1)
        return Features.of(1, constant.all(1) & same, value[:, 0])

    def want(self, flow: Flow) -> None:
        self.takes = flow.wanted[self.node].repeat_interleave(self.each)
        flow.want(self.source, 1, self.takes)

    def rewrite(self, flow: Flow) -> fx.Node:
        return flow.copy(self.node, {self.source: flow.take(self.source, 1, self.takes)})


class PixelUnshuffle(PixelShuffle):
    """(N, C, H * r, W * r) -> (N, C * r * r, H, W): the positions of a channel become r * r."""

    factor = "downscale_factor"

    def shuffled(self, x: Features) -> Features:
        return Features.of(
            1, x.constant.repeat_interleave(self.each), x.value.repeat_interleave(self.each)
        )

    def want(self, flow: Flow) -> None:
        self.takes = flow.wanted[self.node].view(-1, self.each).any(1)
        flow.want(self.source, 1, self.takes)

    def rewrite(self, flow: Flow) -> fx.Node:
        present = self.takes.repeat_interleave(self.each)
        return flow.narrow(super().rewrite(flow), 1, present, flow.wanted[self.node])


class Slice(Rule):
    """Indexing with slices and numbers: positions of every feature, or a range of features."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        if x is None:
            return None
        self.index = whole_index(self.node.args[1], len(flow.shapes[self.source]))
        if not all(i is None or _is_number(flow, i) or _is_range(flow, i) for i in self.index):
            return None
        self.old_dim = x.dim
        # Where the index of the features stands, behind new dimensions too.
        self.at = [n for n, i in enumerate(self.index) if i is not None][x.dim]
        at: Any = self.index[self.at]
        if not is_fixed(at):
            return None
        self.places = torch.arange(len(x.constant))[at]
        dim = sum(i is None or isinstance(i, slice) for i in self.index[: self.at])
        known = Features.of(dim, x.constant[self.places], x.value[self.places])
        known.multiples = x.multiples if at == slice(None) else None
        return known

    def want(self, flow: Flow) -> None:
        old = torch.zeros(flow.shapes[self.source][self.old_dim], dtype=torch.bool)
        old[self.places[flow.wanted[self.node]]] = True
        self.takes = old
        flow.want(self.source, self.old_dim, old)
        flow.spare[self.source] += flow.spare[self.node]

    def rewrite(self, flow: Flow) -> fx.Node:
        operand, range_ = self._range(flow)
        index = tuple(range_ if n == self.at else i for n, i in enumerate(self.index))
        if all(i == slice(None) for i in index):
            return operand
        index = fx.map_arg(index, lambda size: flow.new[size])
        return flow.graph.call_function(operator.getitem, (operand, index))

    def _range(self, flow: Flow) -> tuple[fx.Node, slice]:
        """The operand, and the range of its remaining features, which needs no copy."""
        present = flow.wanted[self.source]
        places = (present.cumsum(0) - 1)[self.takes]
        first, last = int(places[0]), int(places[-1])
        if last - first + 1 == len(places) < int(present.sum()):
            return flow.new[self.source], slice(first, last + 1)
        return flow.take(self.source, self.old_dim, self.takes), slice(None)


class Selected(Slice):
    """The selection of features in a network that is compacted again."""

    module: Select

    def learn(self, flow: Flow) -> Features | None:
        self.old_dim = self.module.dim % len(flow.shapes[self.source])
        self.places = self.module.index.cpu()
        x = flow.read(self.source, self.old_dim)
        return Features.of(self.old_dim, x.constant[self.places], x.value[self.places])

    def rewrite(self, flow: Flow) -> fx.Node:
        return flow.take(self.source, self.old_dim, self.takes)


class Moved(Pointwise):
    """Features that are in another dimension of the result.

    old_dim: the dimension that indexes them in the operand; ``learn`` sets it.
    """

    old_dim: int

    def want(self, flow: Flow) -> None:
        flow.want(self.source, self.old_dim, flow.wanted[self.node])

    def rewrite(self, flow: Flow) -> fx.Node:
        operand = flow.take(self.source, self.old_dim, flow.wanted[self.node])
        return flow.copy(self.node, {self.source: operand})


class Mean(Moved):
    """A mean, maximum or minimum over positions."""

    names: ClassVar[dict[str, Any]] = {"input": None, "dim": None, "keepdim": False}

    def over(self, flow: Flow) -> set[int] | None:
        """The dimensions that it is taken over, None if that is not known."""
        given = arguments(self.node, **self.names)
        dims = given["dim"] if isinstance(given["dim"], (tuple, list)) else [given["dim"]]
        known = set(given) == set(self.names) and all(isinstance(dim, int) for dim in dims)
        if not known or self.source not in flow.shapes:
            return None
        return {dim % len(flow.shapes[self.source]) for dim in dims}

    @property
    def keeps_dimension(self) -> bool:
        """Whether the dimensions stay, with length 1."""
        return bool(arguments(self.node, **self.names)["keepdim"])

    def learn(self, flow: Flow) -> Features | None:
        x, over = super().learn(flow), self.over(flow)
        if x is None or over is None or x.dim in over:
            return None
        multiples = flow.features[self.source].multiples
        self.old_dim = x.dim
        gone = 0 if self.keeps_dimension else sum(d < x.dim for d in over)
        averages = self.node.target in ("mean", torch.mean)
        return Features(x.dim - gone, x.constant, x.value, multiples if averages else None)


class Total(Mean):
    """A sum over positions: only zeros stay constant, as the number of positions may vary."""

    def learn(self, flow: Flow) -> Features | None:
        x = super().learn(flow)
        return None if x is None else Features.of(x.dim, x.constant & (x.value == 0), x.value)


class Norm(Total):
    """A norm over positions."""

    names: ClassVar[dict[str, Any]] = {"input": None, "p": 2, "dim": None, "keepdim": False}

    def over(self, flow: Flow) -> set[int] | None:
        power = arguments(self.node, **self.names)["p"]
        positive = power == "fro" or (isinstance(power, (int, float)) and power > 0)
        return super().over(flow) if positive else None


class VectorNorm(Norm):
    """A norm by ``torch.linalg.vector_norm``."""

    names: ClassVar[dict[str, Any]] = {"x": None, "ord": 2, "dim": None, "keepdim": False}

    def over(self, flow: Flow) -> set[int] | None:
        power = arguments(self.node, **self.names)["ord"]
        positive = isinstance(power, (int, float)) and power > 0
        return Mean.over(self, flow) if positive else None


class Unsqueeze(Moved):
    """A new dimension of length 1."""

    def learn(self, flow: Flow) -> Features | None:
        x, dim = flow.features.get(self.source), arguments(self.node, input=None, dim=None)["dim"]
        if x is None or not isinstance(dim, int):
            return None
        self.old_dim = x.dim
        new = dim % len(flow.shapes[self.node])
        return replace(x, dim=x.dim + (new <= x.dim))


class Squeeze(Moved):
    """A dimension of length 1 goes, if it has that length for every input."""

    def learn(self, flow: Flow) -> Features | None:
        x, dim = flow.features.get(self.source), arguments(self.node, input=None, dim=None)["dim"]
        if x is None or not isinstance(dim, int):
            return None
        old = dim % len(flow.shapes[self.source])
        if old == x.dim or not is_own(flow, self.source, old):
            return None
        self.old_dim = x.dim
        gone = old < x.dim and flow.shapes[self.source][old] == 1
        return replace(x, dim=x.dim - gone)


class Expand(Moved):
    """Positions repeated, by ``expand``."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        if x is None:
            return None
        sizes = given_sizes(self.node)
        more = len(sizes) - len(flow.shapes[self.source])
        if more < 0 or self.node.kwargs or sizes[x.dim + more] not in (-1, len(x.constant)):
            return None
        self.old_dim, self.sizes = x.dim, list(sizes)
        self.sizes[x.dim + more] = -1
        return replace(x, dim=x.dim + more)

    def rewrite(self, flow: Flow) -> fx.Node:
        operand = flow.take(self.source, self.old_dim, flow.wanted[self.node])
        sizes = fx.map_arg(self.sizes, lambda size: flow.new[size])
        return flow.graph.call_method("expand", (operand, *sizes))


class Permute(Moved):
    """Dimensions in another order: ``permute`` and ``transpose``."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        if x is None:
            return None
        places = order(self.node, len(flow.shapes[self.source]))
        if places is None:
            return None
        self.old_dim = x.dim
        return replace(x, dim=places.index(x.dim))


def order(node: fx.Node, rank: int) -> list[int] | None:
    """The old dimension at each position after ``permute`` or ``transpose``."""
    dims = node.args[1:]
    if len(dims) == 1 and isinstance(dims[0], (tuple, list)):
        dims = tuple(dims[0])
    if node.kwargs or not all(isinstance(d, int) for d in dims):
        return None
    given = [int(d) % rank for d in dims]  # type: ignore[arg-type]
    if node.target not in ("transpose", torch.transpose):
        return given
    places = list(range(rank))
    first, second = given
    places[first], places[second] = second, first
    return places


def merged(node: fx.Node, module: nn.Module | None, rank: int) -> tuple[int, int]:
    """The first and the last dimension that a ``flatten`` merges."""
    given = arguments(node, input=None, start_dim=0, end_dim=-1)
    if module is not None:
        given = vars(module)
    return given["start_dim"] % rank, given["end_dim"] % rank


def added_dimensions(flow: Flow, node: fx.Node) -> int:
    """How many dimensions of length 1 a ``view`` or ``reshape`` adds behind channels and positions;
    0 if it does something else, or may for other inputs."""
    source = node.args[0] if node.args else None
    if node.target not in ("view", "reshape", torch.reshape) or source not in flow.features:
        return 0
    assert isinstance(source, fx.Node)
    if flow.features[source].dim != 1:  # heads of one feature
        return 0
    sizes, before = given_sizes(node), flow.shapes[source]
    ones = sizes[len(before) :]
    if tuple(flow.shapes[node]) != (*before, *[1] * len(ones)) or any(one != 1 for one in ones):
        return 0
    free = [
        size
        for dim, size in enumerate(sizes[: len(before)])
        if not is_size_of(flow, size, source, dim)
    ]
    return len(ones) if free in ([], [-1]) else 0


def whole_index(index: Any, rank: int) -> tuple[Any, ...]:
    """An index with an entry for each dimension, without an ellipsis.

    >>> whole_index((..., None, 0), 3)
    (slice(None, None, None), slice(None, None, None), None, 0)
    """
    index = index if isinstance(index, tuple) else (index,)
    rest = [slice(None)] * (rank - sum(item is not None and item is not ... for item in index))
    if ... not in [item for item in index if not isinstance(item, fx.Node)]:
        return (*index, *rest)
    at = next(n for n, item in enumerate(index) if item is ...)
    return (*index[:at], *rest, *index[at + 1 :])


def is_fixed(index: object) -> bool:
    """Whether an index is a slice between numbers."""
    return isinstance(index, slice) and all(
        end is None or isinstance(end, int) for end in _ends(index)
    )


def _is_number(flow: Flow, index: object) -> bool:
    """Whether an index is a number, known or computed from sizes."""
    if isinstance(index, fx.Node):
        return index not in flow.shapes and is_made_of_sizes(flow, index)
    return isinstance(index, int)


def _is_range(flow: Flow, index: object) -> bool:
    """Whether an index is a slice between such numbers."""
    if not isinstance(index, slice):
        return False
    return all(end is None or _is_number(flow, end) for end in _ends(index))


def _ends(index: slice) -> tuple[Any, Any, Any]:
    return index.start, index.stop, index.step
