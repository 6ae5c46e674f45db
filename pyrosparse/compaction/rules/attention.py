"""Attention with several heads, as one function or written out with products and a softmax."""

from __future__ import annotations

from torch import Tensor, fx
from torch.nn import functional as F

from pyrosparse.compaction.rules.heads import HeadsRule, take_heads
from pyrosparse.compaction.rules.joining import Together
from pyrosparse.compaction.rules.pointwise import Pointwise
from pyrosparse.compaction.rules.regular import level
from pyrosparse.compaction.rules.rule import Features, Flow, Heads, Rule, arguments


class ScaledDotProduct(HeadsRule):
    r"""``scaled_dot_product_attention`` of queries, keys and values (..., heads, ..., features).

    .. math:: y_{thd} = \sum_s p_{tsh} v_{shd}, \qquad
              p_{tsh} = \mathrm{softmax}_s \Big( c \sum_d q_{thd} k_{shd} \Big)

    A head is cut if its result is not wanted. A constant feature of the values is constant in the
    result, because the weights sum to 1; with a mask only if it is zero, because rows that see
    nothing are zero. A feature of queries and keys is cut if the query is zero, or the key is
    constant: that adds the same to the scores of all keys. All heads keep the same number of
    features.
    """

    def learn(self, flow: Flow) -> Heads | None:
        given = arguments(
            self.node,
            query=None,
            key=None,
            value=None,
            attn_mask=None,
            dropout_p=0.0,
            is_causal=False,
            scale=None,
            enable_gqa=False,
        )
        operands = [given[name] for name in ("query", "key", "value")]
        if not all(x in flow.heads for x in operands) or given["enable_gqa"] is not False:
            return None
        q, k, v = (flow.heads[x] for x in operands)
        rank = len(flow.shapes[operands[0]])
        self.operands, self.mask = operands, given["attn_mask"]
        plain = given["dropout_p"] == 0 and isinstance(given["is_causal"], bool)
        alike = {x.dims for x in (q, k, v)} == {(q.dims[0], rank - 1)} and q.dims[0] < rank - 2
        ranks = {len(flow.shapes[x]) for x in operands}
        if not plain or not alike or ranks != {rank}:
            return None
        if q.sizes != k.sizes or v.sizes[0] != q.sizes[0]:
            return None
        self.scale, self.causal = given["scale"], given["is_causal"]
        if not isinstance(self.scale, (int, float, type(None))):
            return None
        known = v.constant if self.mask is None else v.constant & (v.value == 0)
        result = Features.of(0, known, v.value)
        return Heads(v.dims, v.sizes, result.constant, result.value)

    def want(self, flow: Flow) -> None:
        query, key, value = self.operands
        q, k = flow.heads[query], flow.heads[key]
        wanted = self.wanted(flow)
        flow.wanted[value] |= wanted
        flow.spare[value] += flow.spare[self.node]
        self.kept = wanted.view(flow.heads[value].sizes).any(1)
        self.products = _products(self.kept, q, ~(q.constant & (q.value == 0)) & ~k.constant)
        for operand in (query, key):
            flow.wanted[operand] |= self.products
        self.mask_dim = self._mask_dim(flow)
        if self.mask_dim is not None:
            flow.want(self.mask, self.mask_dim, self.kept)
        elif self.mask is not None:
            flow.want_all(self.mask)

    def rewrite(self, flow: Flow) -> fx.Node:
        query, key, value = self.operands
        operands = (
            take_heads(flow, query, self.products),
            take_heads(flow, key, self.products),
            take_heads(flow, value, flow.wanted[self.node]),
        )
        mask = None
        if self.mask_dim is not None:
            mask = flow.take(self.mask, self.mask_dim, self.kept)
        elif self.mask is not None:
            mask = flow.new[self.mask]
        # The default divides by the root of the number of features, which is now smaller.
        scale = flow.heads[query].sizes[1] ** -0.5 if self.scale is None else self.scale
        given = {"attn_mask": mask, "is_causal": self.causal, "scale": scale}
        return flow.graph.call_function(F.scaled_dot_product_attention, operands, given)

    def _mask_dim(self, flow: Flow) -> int | None:
        """The dimension of the mask that indexes the heads, None if one mask serves for all."""
        if self.mask is None:
            return None
        q = flow.heads[self.operands[0]]
        shape = flow.shapes[self.mask]
        dim = q.dims[0] - len(flow.shapes[self.operands[0]]) + len(shape)
        return dim if dim >= 0 and shape[dim] == q.sizes[0] else None


class MatrixProduct(Rule):
    """The two products of written-out attention; other products of matrices are barriers.

    Queries times transposed keys give the scores, whose heads are features like others; scores
    after a softmax, times the values, give the result. A head is cut if its result is not wanted.
    All heads keep the same number of features.
    """

    def learn(self, flow: Flow) -> Features | Heads | None:
        self.rule: _Scores | _Average | None = None
        nodes = all(isinstance(operand, fx.Node) for operand in self.node.args)
        if len(self.node.args) != 2 or self.node.kwargs or not nodes:
            return None
        for kind in (_Scores, _Average):
            self.rule = kind(self.node)
            known = self.rule.learn(flow)
            if known is not None:
                return known
        return None

    def want(self, flow: Flow) -> None:
        assert self.rule is not None
        self.rule.want(flow)

    def rewrite(self, flow: Flow) -> fx.Node:
        assert self.rule is not None
        return self.rule.rewrite(flow)


class _Scores(Rule):
    """Scores: (..., heads, T, features) @ (..., heads, features, S) -> (..., heads, T, S)."""

    def learn(self, flow: Flow) -> Features | None:
        query, key = _operands(self.node)
        if query not in flow.heads or key not in flow.heads:
            return None
        q, k = flow.heads[query], flow.heads[key]
        rank, at = len(flow.shapes[query]), q.dims[0]
        if at >= rank - 2 or len(flow.shapes[key]) != rank:
            return None
        if q.dims != (at, rank - 1) or k.dims != (at, rank - 2) or q.sizes != k.sizes:
            return None
        return Features.varying(at, q.sizes[0])

    def want(self, flow: Flow) -> None:
        query, key = _operands(self.node)
        q, k = flow.heads[query], flow.heads[key]
        zero = (q.constant & (q.value == 0)) | (k.constant & (k.value == 0))
        self.products = _products(flow.wanted[self.node], q, ~zero)
        flow.wanted[query] |= self.products
        flow.wanted[key] |= self.products

    def rewrite(self, flow: Flow) -> fx.Node:
        operands = {x: take_heads(flow, x, self.products) for x in _operands(self.node)}
        return flow.copy(self.node, operands)


class _Average(HeadsRule):
    """Averages: (..., heads, T, S) @ (..., heads, S, features) -> (..., heads, T, features)."""

    def learn(self, flow: Flow) -> Heads | None:
        weights, value = _operands(self.node)
        if weights not in flow.features or value not in flow.heads:
            return None
        p, v = flow.features[weights], flow.heads[value]
        rank = len(flow.shapes[value])
        if v.dims != (p.dim, rank - 1) or p.dim >= rank - 2:
            return None
        if len(flow.shapes[weights]) != rank or len(p.constant) != v.sizes[0]:
            return None
        silent = v.constant & (v.value == 0)
        known = v.constant if weights in flow.averages else silent
        result = Features.of(0, known, v.value)
        return Heads(v.dims, v.sizes, result.constant, result.value)

    def want(self, flow: Flow) -> None:
        weights, value = _operands(self.node)
        wanted = self.wanted(flow)
        flow.wanted[value] |= wanted
        flow.spare[value] += flow.spare[self.node]
        self.kept = wanted.view(flow.heads[value].sizes).any(1)
        flow.want(weights, flow.features[weights].dim, self.kept)

    def rewrite(self, flow: Flow) -> fx.Node:
        weights, value = _operands(self.node)
        operands = {
            weights: flow.take(weights, flow.features[weights].dim, self.kept),
            value: take_heads(flow, value, flow.wanted[self.node]),
        }
        return flow.copy(self.node, operands)


class Softmax(Pointwise):
    """A softmax over positions: each head has its own."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        dim = self._over()
        if x is None or not isinstance(dim, int):
            return None
        rank = len(flow.shapes[self.source])
        if dim % rank == x.dim:
            return None
        if dim % rank == rank - 1:
            flow.averages.add(self.node)
        return Features.varying(x.dim, len(x.constant))

    def _over(self) -> object:
        if self.module is not None:
            return self.module.dim
        given = arguments(self.node, input=None, dim=None)
        return given["dim"] if set(given) <= {"input", "dim", "dtype", "_stacklevel"} else None


class Fill(Together):
    """``masked_fill`` with a number: both keep the same features."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        args = self.node.args
        if x is None or len(args) != 3 or self.node.kwargs or isinstance(args[2], fx.Node):
            return None
        if flow.shapes[self.node] != flow.shapes[self.source] or args[1] not in flow.shapes:
            return None
        self.dim = x.dim
        return Features.of(x.dim, x.constant & (x.value == args[2]), x.value)


def _operands(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    first, second = node.args
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    return first, second


def _products(kept: Tensor, q: Heads, used: Tensor) -> Tensor:
    """The features of queries and keys that the remaining heads multiply."""
    used = used.view(q.sizes) & kept[:, None]
    count = max(int(used.sum(1).max()), 1)
    return (level(used.int(), count) & kept[:, None]).flatten()
