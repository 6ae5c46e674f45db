"""The effect of each operation on sizes: dimensions that it keeps, and sizes that it fixes."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from pyrosparse.compaction.layers import CONVOLUTIONS
from pyrosparse.compaction.rules import attention, joining, pointwise, shaping
from pyrosparse.compaction.rules.heads import Split
from pyrosparse.compaction.rules.layer_norm import LayerNorm, RMSNorm
from pyrosparse.compaction.rules.mixing import Mixing
from pyrosparse.compaction.rules.over_features import Normalize
from pyrosparse.compaction.rules.pieces import CALLS
from pyrosparse.compaction.rules.rule import Flow, Rule, arguments
from pyrosparse.compaction.rules.sizes import given_sizes, number, read_size
from pyrosparse.util.hooks import hooks_of


def note_dimensions(rules: Mapping[fx.Node, Rule], flow: Flow) -> None:
    """Fill ``flow.dimensions``; an operation without an entry here says nothing of its result."""
    for _ in range(2):  # the size that a later layer needs can determine earlier ones
        for node, rule in rules.items():
            if node in flow.shapes:
                _note(rule, flow)


def _note(rule: Rule, flow: Flow) -> None:
    node, known = rule.node, flow.dimensions
    if node.op == "get_attr":
        known.fix(*((node, dim) for dim in range(len(flow.shapes[node]))))
    elif not node.all_input_nodes:
        return
    elif isinstance(rule.module, (nn.Embedding, nn.EmbeddingBag)):
        _embedding(rule, flow)
    elif node.target in _ELEMENTWISE:
        _broadcast(rule, flow)
    elif node.target is operator.getitem and _call(node) in CALLS:
        _piece(rule, flow)
    else:
        for kind, say in _KINDS:
            if isinstance(rule, kind):
                say(rule, flow)
                return


def _kept(rule: Rule, flow: Flow) -> None:
    """Every dimension of the only operand."""
    node = rule.node
    tensors = [x for x in node.all_input_nodes if x in flow.shapes]
    if len(tensors) != 1 or len(flow.shapes[tensors[0]]) != len(flow.shapes[node]):
        return
    rank = len(flow.shapes[node])
    _join(flow, node, {dim: (tensors[0], dim) for dim in range(rank)})
    module = rule.module
    fixed: list[int] = []
    if isinstance(rule, (pointwise.BatchNorm, pointwise.GroupNorm)) and rank > 1:
        fixed = [1]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        fixed = list(range(rank - len(module.normalized_shape), rank))
    elif isinstance(rule, (pointwise.Gains, pointwise.InputGates)):
        fixed = [rule.module.dim % rank]
    flow.dimensions.fix(*((node, dim) for dim in fixed))


def _mixed(rule: Rule, flow: Flow) -> None:
    assert isinstance(rule, Mixing)
    node, source, known = rule.node, rule.source, flow.dimensions
    rank = len(flow.shapes[node])
    if isinstance(rule.module, nn.Linear):
        _join(flow, node, {dim: (source, dim) for dim in range(rank - 1)})
        known.fix((source, rank - 1), (node, rank - 1))
    elif rank == rule.weight.dim():
        _join(flow, node, {0: (source, 0)})
        known.fix((source, 1), (node, 1))
        _follow(flow, node, source, range(2, rank))
        kept = [dim for dim in range(2, rank) if _keeps_size(rule.module, dim - 2)]
        _join(flow, node, {dim: (source, dim) for dim in kept})


def _keeps_size(layer: nn.Module, place: int) -> bool:
    """Whether the output of a convolution is as long as its input, whatever the length."""
    if not isinstance(layer, CONVOLUTIONS) or layer.stride[place] != 1:
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same" or layer.kernel_size[place] == 1
    return bool(2 * layer.padding[place] == layer.dilation[place] * (layer.kernel_size[place] - 1))


def _pooled(rule: Rule, flow: Flow) -> None:
    node, source = rule.node, rule.source
    name = type(rule.module).__name__ if rule.module else getattr(node.target, "__name__", "")
    digit = re.search(r"(\d)d", name)
    if digit is None or source not in flow.shapes:
        return
    rank = len(flow.shapes[node])
    places = range(rank - int(digit[1]), rank)
    _join(flow, node, {dim: (source, dim) for dim in range(places.start)})
    if "adaptive" in name.lower():
        given = arguments(node, input=None, output_size=None)["output_size"]
        sizes = rule.module.output_size if rule.module else given
        sizes = sizes if isinstance(sizes, (tuple, list)) else [sizes] * len(places)
        for dim, size in zip(places, sizes, strict=False):
            if isinstance(size, int):
                flow.dimensions.fix((node, dim))
    elif node.all_input_nodes == [source]:
        _follow(flow, node, source, places)


def _resized(rule: Rule, flow: Flow) -> None:
    """Interpolation, and padding with the tensor's own values."""
    node, source = rule.node, rule.source
    if source not in flow.shapes:
        return
    places = range(2, len(flow.shapes[node]))
    _join(flow, node, {dim: (source, dim) for dim in range(2)})
    given = arguments(node, input=None, size=None)["size"]
    size = getattr(rule.module, "size", given)
    if size is None and node.all_input_nodes == [source]:
        _follow(flow, node, source, places)
    sizes = size if isinstance(size, (tuple, list)) else [size] * len(places)
    for dim, one in zip(places, sizes, strict=False):
        if isinstance(one, int):
            flow.dimensions.fix((node, dim))
        elif (place := read_size(flow, one)) is not None:
            flow.dimensions.join((node, dim), place)


def _gated_linear(rule: Rule, flow: Flow) -> None:
    node, source = rule.node, rule.source
    if source not in flow.shapes:
        return
    before, after = flow.shapes[source], flow.shapes[node]
    kept = [dim for dim in range(len(after)) if after[dim] == before[dim]]
    _join(flow, node, {dim: (source, dim) for dim in kept})
    halved = [dim for dim in range(len(after)) if dim not in kept]
    _follow(flow, node, source, halved)


def _shuffled(rule: Rule, flow: Flow) -> None:
    """Channels to pixels, and back."""
    node, source = rule.node, rule.source
    if source in flow.shapes and len(flow.shapes[node]) == 4:
        _join(flow, node, {0: (source, 0)})
        _follow(flow, node, source, range(1, 4))


def _embedding(rule: Rule, flow: Flow) -> None:
    node, module = rule.node, rule.module
    assert module is not None
    known = type(module) in (nn.Embedding, nn.EmbeddingBag)
    if not known or hooks_of(module):
        return
    rank = len(flow.shapes[node])
    flow.dimensions.fix((node, rank - 1))
    if isinstance(module, nn.Embedding) or len(flow.shapes[rule.source]) == rank:
        _join(flow, node, {dim: (rule.source, dim) for dim in range(rank - 1)})


def _broadcast(rule: Rule, flow: Flow) -> None:
    """Elementwise arithmetic: the operands' size that is not 1."""
    node, known = rule.node, flow.dimensions
    rank = len(flow.shapes[node])
    if isinstance(rule, attention.ScaledDotProduct):
        given = arguments(node, query=None, key=None, value=None)
        query, key, value = (given[name] for name in ("query", "key", "value"))
        _join(flow, node, {rank - 2: (query, rank - 2), rank - 1: (value, rank - 1)})
        known.join((key, rank - 2), (value, rank - 2))
        tensors, dims = [query, key, value], range(rank - 2)
    elif isinstance(rule, attention.MatrixProduct):
        tensors = [x for x in node.all_input_nodes if x in flow.shapes]
        ranks = {len(flow.shapes[x]) for x in tensors}
        if ranks != {rank} or len(node.args) != 2 or rank < 2:
            return
        first, second = node.args
        assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
        _join(flow, node, {rank - 2: (first, rank - 2), rank - 1: (second, rank - 1)})
        known.join((first, rank - 1), (second, rank - 2))
        dims = range(rank - 2)
    else:
        tensors = [x for x in node.all_input_nodes if x in flow.shapes]
        dims = range(rank)
    for dim in dims:
        places = [(x, dim - rank + len(flow.shapes[x])) for x in tensors]
        places = [(x, at) for x, at in places if at >= 0]
        widths = [(x, at) for x, at in places if known.own(x, at)]
        wide = [(x, at) for x, at in widths if flow.shapes[x][at] != 1]
        open_ = [place for place in places if place not in widths]
        open_ = [one for one in open_ if not any(known.within(one, other) for other in open_)]
        if wide:
            known.join((node, dim), wide[0])
        elif not open_ and widths:
            known.fix((node, dim))
        elif open_ and all(known.same(open_[0], other) for other in open_[1:]):
            known.join((node, dim), open_[0])


def _flattened(rule: Rule, flow: Flow) -> None:
    """``flatten``, ``view``, ``reshape``."""
    node, known = rule.node, flow.dimensions
    source = rule.source
    if source not in flow.shapes:
        return
    rank = len(flow.shapes[source])
    if rule.module is not None or node.target in ("flatten", torch.flatten):
        start, end = shaping.merged(node, rule.module, rank)
        after = range(start + 1, len(flow.shapes[node]))
        _join(flow, node, {dim: (source, dim) for dim in range(start)})
        _join(flow, node, {dim: (source, dim + end - start) for dim in after})
        if start == end:
            _join(flow, node, {start: (source, start)})
        else:
            known.multiply((node, start), [(source, dim) for dim in range(start, end + 1)])
        if known.own(source, *range(start, end + 1)):
            known.fix((node, start))
        return
    sizes = given_sizes(node)
    if len(sizes) != len(flow.shapes[node]):
        return
    rest = [(source, dim) for dim in range(rank)]
    open_: list[tuple[fx.Node, int]] = []  # dimensions of the result
    own: list[tuple[fx.Node, int]] = []
    for dim, size in enumerate(sizes):
        if isinstance(number(flow, size), int) and size != -1:
            known.fix((node, dim))
        place = read_size(flow, size)
        if place is not None:
            known.join((node, dim), place)
        same = [other for other in rest if known.same(other, (node, dim))]
        if same:
            rest.remove(same[0])
        else:
            (own if known.own(node, dim) else open_).append((node, dim))
    # The number of elements does not change: the rest on both sides is equal.
    left = [place for place in rest if not known.own(*place)]
    if len(open_) == 1 and len(left) > 1 and not own:
        known.multiply(open_[0], rest)
    if len(open_) == 1 and not left:
        known.fix(open_[0])
    elif len(open_) == len(left) == 1 and _size(flow, left[0]) == _size(flow, open_[0]):
        known.join(open_[0], left[0])


def _split(rule: Rule, flow: Flow) -> None:
    """``unflatten``: one dimension becomes several."""
    node, source = rule.node, rule.source
    given = arguments(node, input=None, dim=None, sizes=None)
    rank, after = len(flow.shapes[source]), len(flow.shapes[node])
    if not isinstance(given["dim"], int):
        return
    dim, more = given["dim"] % rank, after - rank
    _join(flow, node, {at: (source, at) for at in range(dim)})
    _join(flow, node, {at: (source, at - more) for at in range(dim + more + 1, after)})
    if flow.dimensions.own(source, dim) and node.all_input_nodes == [source]:
        flow.dimensions.fix(*((node, at) for at in range(dim, dim + more + 1)))


def _sliced(rule: Rule, flow: Flow) -> None:
    node, source = rule.node, rule.source
    if source not in flow.shapes:
        return
    index = shaping.whole_index(node.args[1], len(flow.shapes[source]))
    if not all(item is None or isinstance(item, (int, slice)) for item in index):
        return
    old, new = 0, 0
    for item in index:
        if item is None:
            flow.dimensions.fix((node, new))
        elif item == slice(None):
            _join(flow, node, {new: (source, old)})
        elif shaping.is_fixed(item):
            _follow(flow, node, source, [new], [old])
        elif isinstance(item, slice) and item.start in (None, 0) and item.step in (None, 1):
            place = read_size(flow, item.stop)
            wide = old < len(flow.shapes[source]) and flow.shapes[source][old] > 1
            if place is not None and wide and flow.dimensions.own(source, old):
                flow.dimensions.limit((node, new), place)
        old += item is not None
        new += not isinstance(item, int)
    rank = len(flow.shapes[node])
    _join(flow, node, {dim: (source, dim + old - new) for dim in range(new, rank)})


def _piece(rule: Rule, flow: Flow) -> None:
    """A part of ``chunk``, ``split``, ``unbind``."""
    call = rule.node.args[0]
    assert isinstance(call, fx.Node)
    kind, source = CALLS[call.target], call.args[0] if call.args else None
    names = {"input": None, "dim": 0} if kind == "unbind" else {"input": 0, "by": 0, "dim": 0}
    dim = arguments(call, **names)["dim"]
    if not isinstance(source, fx.Node) or source not in flow.shapes or not isinstance(dim, int):
        return
    rank = len(flow.shapes[source])
    dim %= rank
    places = [at for at in range(rank) if at != dim]
    if kind == "unbind":
        _join(flow, rule.node, {new: (source, old) for new, old in enumerate(places)})
        return
    _join(flow, rule.node, {at: (source, at) for at in places})
    if call.all_input_nodes == [source]:
        _follow(flow, rule.node, source, [dim])


def _reduced(rule: Rule, flow: Flow) -> None:
    """A mean, a maximum or a sum over positions."""
    assert isinstance(rule, shaping.Mean)
    node, source, over = rule.node, rule.source, rule.over(flow)
    if over is None:
        return
    rank = len(flow.shapes[source])
    if rule.keeps_dimension:
        flow.dimensions.fix(*((node, dim) for dim in over))
        _join(flow, node, {dim: (source, dim) for dim in range(rank) if dim not in over})
    else:
        places = [dim for dim in range(rank) if dim not in over]
        _join(flow, node, {new: (source, old) for new, old in enumerate(places)})


def _unsqueezed(rule: Rule, flow: Flow) -> None:
    node, source = rule.node, rule.source
    dim = arguments(node, input=None, dim=None)["dim"]
    if source in flow.shapes and isinstance(dim, int):
        rank = len(flow.shapes[node])
        others = [at for at in range(rank) if at != dim % rank]
        flow.dimensions.fix((node, dim % rank))
        _join(flow, node, {at: (source, old) for old, at in enumerate(others)})


def _squeezed(rule: Rule, flow: Flow) -> None:
    node, source = rule.node, rule.source
    dim = arguments(node, input=None, dim=None)["dim"]
    if source not in flow.shapes or not isinstance(dim, int):
        return
    rank = len(flow.shapes[source])
    gone = dim % rank
    if flow.dimensions.own(source, gone):
        one = flow.shapes[source][gone] == 1
        left = [at for at in range(rank) if not one or at != gone]
        _join(flow, node, {new: (source, old) for new, old in enumerate(left)})


def _expanded(rule: Rule, flow: Flow) -> None:
    node, source = rule.node, rule.source
    if source not in flow.shapes or node.kwargs:
        return
    sizes = given_sizes(node)
    more = len(sizes) - len(flow.shapes[source])
    for dim, size in enumerate(sizes):
        place = read_size(flow, size)
        if place is not None:
            flow.dimensions.join((node, dim), place)
        elif size == -1:
            _join(flow, node, {dim: (source, dim - more)})
        elif isinstance(size, int):
            flow.dimensions.fix((node, dim))


def _stacked(rule: Rule, flow: Flow) -> None:
    node, given = rule.node, joining.tensors_and_dim(rule.node)
    if given is None:
        return
    rank = len(flow.shapes[node])
    dim = given[1] % rank
    flow.dimensions.fix((node, dim))
    for x in given[0]:
        _join(flow, node, {at: (x, at - (at > dim)) for at in range(rank) if at != dim})


def _permuted(rule: Rule, flow: Flow) -> None:
    if rule.source in flow.shapes:
        places = shaping.order(rule.node, len(flow.shapes[rule.source]))
        _join(flow, rule.node, {n: (rule.source, old) for n, old in enumerate(places or [])})


def _concatenated(rule: Rule, flow: Flow) -> None:
    node, given = rule.node, joining.tensors_and_dim(rule.node)
    if given is None:
        return
    rank = len(flow.shapes[node])
    tensors, dim = given[0], given[1] % rank
    for x in tensors:
        _join(flow, node, {at: (x, at) for at in range(rank) if at != dim})
    if flow.dimensions.all_own((x, dim) for x in tensors):
        flow.dimensions.fix((node, dim))


def _padded(rule: Rule, flow: Flow) -> None:
    node, source = rule.node, rule.source
    pads = getattr(rule.module, "padding", arguments(node, input=None, pad=None)["pad"])
    if source not in flow.shapes or not isinstance(pads, (tuple, list)):
        return
    rank = len(flow.shapes[node])
    for dim in range(rank):
        pair = tuple(pads[2 * (rank - 1 - dim) :][:2])
        if all(isinstance(pad, int) and pad == 0 for pad in pair):
            _join(flow, node, {dim: (source, dim)})
        elif all(isinstance(pad, int) for pad in pair):
            _follow(flow, node, source, [dim])


def _selected(rule: Rule, flow: Flow) -> None:
    assert isinstance(rule, shaping.Selected)
    node, at = rule.node, rule.module.dim % len(flow.shapes[rule.node])
    others = [dim for dim in range(len(flow.shapes[node])) if dim != at]
    _join(flow, node, {dim: (rule.source, dim) for dim in others})
    flow.dimensions.fix((node, at))


def _scattered(rule: Rule, flow: Flow) -> None:
    assert isinstance(rule, joining.Scattered)
    node, at = rule.node, rule.module.dim % len(flow.shapes[rule.node])
    flow.dimensions.fix(*((x, at) for x in (node, *node.all_input_nodes)))
    _broadcast(rule, flow)


def _join(flow: Flow, node: fx.Node, places: Mapping[int, tuple[fx.Node, int]]) -> None:
    for dim, place in places.items():
        flow.dimensions.join((node, dim), place)


def _follow(flow: Flow, node: fx.Node, source: fx.Node, new: Any, old: Any = None) -> None:
    """Sizes of the result that are the network's own if those of the operand are."""
    for here, there in zip(new, old or new, strict=True):
        if flow.dimensions.own(source, there):
            flow.dimensions.fix((node, here))


def _size(flow: Flow, place: tuple[fx.Node, int]) -> int:
    return flow.shapes[place[0]][place[1]]


def _call(node: fx.Node) -> Any:
    return node.args[0].target if isinstance(node.args[0], fx.Node) else None


# Operations without a rule that are known to change no size.
_ELEMENTWISE: tuple[Any, ...] = (
    "bool", "double", "eq", "float", "ge", "gt", "le", "logical_not", "long", "lt", "ne",
    operator.and_, operator.eq, operator.ge, operator.gt, operator.invert, operator.le,
    operator.lt, operator.ne, operator.or_, torch.logical_not, torch.where,
)  # fmt: skip
_KINDS: list[tuple[type[Rule], Callable[[Rule, Flow], None]]] = [
    (Mixing, _mixed),
    (LayerNorm, _kept),
    (RMSNorm, _kept),
    (pointwise.GroupNorm, _kept),
    (pointwise.Pool, _pooled),
    (pointwise.Resized, _resized),
    (pointwise.GLU, _gated_linear),
    (shaping.PixelShuffle, _shuffled),
    (shaping.Permute, _permuted),
    (shaping.Unsqueeze, _unsqueezed),
    (shaping.Expand, _expanded),
    (shaping.Squeeze, _squeezed),
    (shaping.Mean, _reduced),
    (Normalize, _kept),
    (pointwise.Pointwise, _kept),
    (Split, _split),
    (shaping.Flatten, _flattened),
    (shaping.Selected, _selected),
    (shaping.Slice, _sliced),
    (shaping.Pad, _padded),
    (joining.Concatenation, _concatenated),
    (joining.Stack, _stacked),
    (joining.Scattered, _scattered),
    (joining.Together, _broadcast),
    (attention.MatrixProduct, _broadcast),
    (attention.ScaledDotProduct, _broadcast),
]
