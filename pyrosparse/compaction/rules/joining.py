"""Operations that join tensors: sums, products, concatenation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from pyrosparse.compaction.calls import call_name
from pyrosparse.compaction.parts import Scatter
from pyrosparse.compaction.rules.rule import Features, Flow, Rule, arguments
from pyrosparse.compaction.rules.sizes import is_own


class Together(Rule):
    """Elementwise arithmetic of two tensors, with broadcasting: both keep the same features."""

    count = 2

    def learn(self, flow: Flow) -> Features | None:
        operands = self.node.all_input_nodes
        if self.node not in flow.shapes or any(x not in flow.shapes for x in operands):
            return None
        shape = flow.shapes[self.node]
        dims = {
            flow.features[operand].dim
            for operand in operands
            if operand in flow.features and len(flow.shapes[operand]) == len(shape)
        }
        if not self._has_operands() or len(dims) != 1:
            return None
        self.dim = dims.pop()
        places = {x: dim for x in operands if (dim := self._dim(flow, x)) is not None}
        known = [x for x in places if x in flow.features and flow.features[x].dim == places[x]]
        # One feature is repeated as often as the other operand has positions for this input.
        spread = shape[self.dim] == 1 and not all(is_own(flow, x, places[x]) for x in places)
        if spread or not known:
            return None
        return self.combine(*(self._read(flow, operand) for operand in self.node.args))

    def combine(self, first: Features, second: Features) -> Features:
        """The features of the result, from those of the operands."""
        both = first.constant & second.constant
        return Features.of(self.dim, both, self.function(first.value, second.value))

    @property
    def function(self) -> Callable[..., Tensor]:
        """What computes the result."""
        target = self.node.target
        function = getattr(Tensor, target) if isinstance(target, str) else target
        assert callable(function)
        return function

    def _has_operands(self) -> bool:
        """Whether there are as many as the operation takes, of which two or more are tensors."""
        args, tensors = self.node.args, self.node.all_input_nodes
        numbers = all(isinstance(one, fx.Node | int | float) for one in args)
        return len(args) == self.count and numbers and len(tensors) > 1 and not self.node.kwargs

    def want(self, flow: Flow) -> None:
        wanted = flow.wanted[self.node]
        for operand in self.node.all_input_nodes:
            dim = self._dim(flow, operand)
            if dim is None:
                flow.want_all(operand)
            else:
                flow.want(operand, dim, wanted)

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted = flow.wanted[self.node]
        operands = {}
        for operand in self.node.all_input_nodes:
            dim = self._dim(flow, operand)
            if dim is not None:
                operands[operand] = flow.take(operand, dim, wanted)
        return flow.copy(self.node, operands)

    def _dim(self, flow: Flow, operand: fx.Node) -> int | None:
        """The operand's dimension that indexes the features, None if one number serves for all."""
        shape = flow.shapes[operand]
        dim = self.dim - len(flow.shapes[self.node]) + len(shape)
        features = flow.shapes[self.node][self.dim]
        return dim if dim >= 0 and shape[dim] == features else None

    def _read(self, flow: Flow, operand: object) -> Features:
        count = flow.shapes[self.node][self.dim]
        if isinstance(operand, int | float):
            value = torch.full((count,), float(operand), dtype=torch.float64)
            return Features.of(self.dim, torch.ones(count, dtype=torch.bool), value)
        assert isinstance(operand, fx.Node)
        dim = self._dim(flow, operand)
        if dim is None:
            return Features.varying(self.dim, count)
        return flow.read(operand, dim)


class Product(Together):
    """A product of two tensors: zero if one of them is."""

    def combine(self, first: Features, second: Features) -> Features:
        zero = (first.constant & (first.value == 0)) | (second.constant & (second.value == 0))
        both = (first.constant & second.constant) | zero
        return Features.of(self.dim, both, torch.where(zero, 0.0, first.value * second.value))


class Sum(Together):
    """A sum of two tensors: each operand contributes only the features that vary in it.

    If the operands then have different features, they are added at their positions in the sum, and
    the constants are added as numbers.
    """

    def learn(self, flow: Flow) -> Features | None:
        self.terms: _Terms | None = None
        features = super().learn(flow)
        operands = self.node.all_input_nodes
        if features is not None and len({flow.shapes[x] for x in (self.node, *operands)}) == 1:
            every = torch.arange(len(features.constant))
            self.terms = _Terms(operands, [every, every], torch.zeros(len(every)), self.dim)
        return features

    def want(self, flow: Flow) -> None:
        if self.terms is None:
            super().want(flow)
        else:
            self.terms.want(flow, flow.wanted[self.node])

    def rewrite(self, flow: Flow) -> fx.Node:
        if self.terms is None:
            return super().rewrite(flow)
        operands, join = self.terms.rewrite(flow, flow.wanted[self.node])
        if join is not None:
            return flow.call(join, operands, self.node.name)
        if len(operands) == 1:
            return operands[0]
        return flow.copy(self.node, dict(zip(self.node.all_input_nodes, operands, strict=True)))


class ThreeTogether(Together):
    """Of three operands, tensors or numbers: ``where``, ``lerp``."""

    count = 3

    def combine(self, *operands: Features) -> Features:
        values = [one.value for one in operands]
        if call_name(self.node) == "where":
            # The method is called on what is taken where the condition holds.
            place = 0 if self.node.target is torch.where else 1
            values[place] = values[place] != 0
        constant = torch.stack([one.constant for one in operands]).all(0)
        return Features.of(self.dim, constant, self.function(*values))


class Scattered(Rule):
    """The sum that ``Sum`` made in a network that is compacted again."""

    module: Scatter

    def learn(self, flow: Flow) -> Features | None:
        operands = self.node.all_input_nodes
        if len(operands) != self.module.count:
            return None
        every = torch.arange(self.module.features)
        places = [index.cpu() if index is not None else every for index in self.module.indices]
        constant = self.module.constant
        number = torch.zeros(len(every)) if constant is None else constant.detach().cpu()
        dim = self.module.dim % len(flow.shapes[self.node])
        self.terms = _Terms(operands, places, number.double(), dim)
        return self.terms.features(flow)

    def want(self, flow: Flow) -> None:
        self.terms.want(flow, flow.wanted[self.node])

    def rewrite(self, flow: Flow) -> fx.Node:
        operands, join = self.terms.rewrite(flow, flow.wanted[self.node])
        if join is None:
            count, dim = int(flow.wanted[self.node].sum()), self.terms.place(flow)
            join = Scatter(count, [None] * len(operands), None, dim)
        return flow.place(self.node, join, *operands)


class _Terms:
    """Operands with the positions of their features in the sum, and a number for each position."""

    def __init__(
        self, operands: list[fx.Node], places: list[Tensor], number: Tensor, dim: int
    ) -> None:
        self.operands = operands
        self.places = places
        self.number = number
        self.dim = dim
        self.takes: list[Tensor] = []

    def features(self, flow: Flow) -> Features:
        constant, value = torch.ones(len(self.number), dtype=torch.bool), self.number
        for operand, places in zip(self.operands, self.places, strict=True):
            x = flow.read(operand, self.dim)
            constant[places] &= x.constant
            value = value.index_add(0, places, x.value)
        return Features.of(self.dim, constant, value)

    def want(self, flow: Flow, wanted: Tensor) -> None:
        for operand, places in zip(self.operands, self.places, strict=True):
            varies = ~flow.read(operand, self.dim).constant
            here = wanted[places]
            self.takes.append(_at_least(varies & here, here, flow.at_least))
        # A wanted sum may be constant, or come from parameters: some tensor must remain to which
        # the numbers are added, and it must have the batch, which other tensors may not have.
        some = [n for n, places in enumerate(self.places) if wanted[places].any()]
        some = some or [n for n, places in enumerate(self.places) if len(places)]
        for n in sorted(some, key=lambda n: -len(flow.inputs[self.operands[n]])):
            taken = [m for m in range(len(self.takes)) if self.takes[m].any()]
            if not taken or not self._covered(flow, n, taken):
                here = wanted[self.places[n]]
                self.takes[n] = _at_least(here, torch.ones_like(here), 1)
        for operand, mask in zip(self.operands, self.takes, strict=True):
            flow.want(operand, self.dim, mask)

    def rewrite(self, flow: Flow, wanted: Tensor) -> tuple[list[fx.Node], Scatter | None]:
        """The new operands, and the module that joins them; None for a sum of all features."""
        number = self.number.double()
        operands, indices = [], []
        new_places = wanted.cumsum(0) - 1
        for operand, places, mask in zip(self.operands, self.places, self.takes, strict=True):
            x = flow.read(operand, self.dim)
            number = number.index_add(0, places, torch.where(mask, 0.0, x.value))
            mask = mask & wanted[places]
            if mask.any():
                operands.append(flow.take(operand, self.dim, mask))
                index = new_places[places[mask]]
                whole = len(index) == int(wanted.sum())
                indices.append(None if whole else index.to(flow.like.device))
        number = number[wanted]
        if not number.any() and all(index is None for index in indices):
            return operands, None
        values = flow.tensor(number) if number.any() else None
        count = range(len(self.operands))
        alike = all(self._covered(flow, n, [m]) for n in count for m in count)
        return operands, Scatter(
            int(wanted.sum()), indices, values, self.place(flow), broadcast=not alike
        )

    def place(self, flow: Flow) -> int:
        """The dimension of the features in the operands."""
        return flow.from_end(self.operands[0], self.dim)

    def _covered(self, flow: Flow, n: int, others: list[int]) -> bool:
        """Whether other operands are at least as large as an operand, for every input."""
        operand, rest = self.operands[n], [self.operands[m] for m in others]
        if not flow.inputs[operand] <= set().union(*(flow.inputs[x] for x in rest)):
            return False
        dims = [dim for dim in range(len(flow.shapes[operand])) if dim != self.dim]
        # A dimension of length 1 in all of them may be so only in this example.
        return all(
            flow.shapes[operand][dim] != 1
            or flow.dimensions.own(operand, dim)
            or any(flow.dimensions.same((operand, dim), (x, dim)) for x in rest)
            for dim in dims
        )


class Expanded(Together):
    """``expand_as``: the first operand, repeated to the positions of the second."""

    def combine(self, first: Features, second: Features) -> Features:
        return Features.of(self.dim, first.constant, first.value)


class Stack(Rule):
    """Tensors with the same features one beside the other, in a new dimension."""

    function: Callable[..., Tensor] = torch.stack
    new_dimensions = 1

    def learn(self, flow: Flow) -> Features | None:
        given = tensors_and_dim(self.node)
        if given is None:
            return None
        self.operands, dim = given
        dims = {flow.features[x].dim for x in self.operands if x in flow.features}
        if len(dims) != 1:
            return None
        self.new_dim, self.old_dim = dim % len(flow.shapes[self.node]), dims.pop()
        pieces = [flow.read(x, self.old_dim) for x in self.operands]
        value = torch.stack([piece.value for piece in pieces])
        alike = (value == value[0]).all(0) & torch.stack([one.constant for one in pieces]).all(0)
        behind = self.new_dim <= self.old_dim
        return Features.of(self.old_dim + self.new_dimensions * behind, alike, value[0])

    def want(self, flow: Flow) -> None:
        for operand in self.operands:
            flow.want(operand, self.old_dim, flow.wanted[self.node])

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted = flow.wanted[self.node]
        new = [flow.take(operand, self.old_dim, wanted) for operand in self.operands]
        return flow.graph.call_function(self.function, (new, self.new_dim))


class Positions(Stack):
    """Tensors with the same features, concatenated along positions."""

    function = torch.cat
    new_dimensions = 0


def with_positions(rule: Rule, flow: Flow) -> Rule:
    """The rule for a concatenation along positions; else the given one."""
    given = tensors_and_dim(rule.node) if type(rule) is Concatenation else None
    if given is None:
        return rule
    dim = given[1] % len(flow.shapes[rule.node])
    at = {flow.features[x].dim for x in given[0] if x in flow.features}
    return Positions(rule.node) if at and dim not in at else rule


def tensors_and_dim(node: fx.Node) -> tuple[list[fx.Node], int] | None:
    """The tensors that a call joins, and along which dimension; None if that is not known."""
    given = arguments(node, tensors=None, dim=0)
    dim, tensors = given.get("axis", given["dim"]), given["tensors"]
    if not isinstance(dim, int) or not isinstance(tensors, (list, tuple)):
        return None
    return list(tensors), dim


class Concatenation(Rule):
    """Tensors concatenated along their features."""

    def learn(self, flow: Flow) -> Features | None:
        given = tensors_and_dim(self.node)
        if given is None:
            return None
        self.operands, dim = given[0], given[1] % len(flow.shapes[self.node])
        if not any(x in flow.features and flow.features[x].dim == dim for x in self.operands):
            return None
        pieces = [flow.read(x, dim) for x in self.operands]
        constant = torch.cat([piece.constant for piece in pieces])
        return Features.of(dim, constant, torch.cat([piece.value for piece in pieces]))

    def want(self, flow: Flow) -> None:
        dim = flow.features[self.node].dim
        for operand, mask in self._pieces(flow):
            flow.want(operand, dim, mask)

    def rewrite(self, flow: Flow) -> fx.Node:
        dim = flow.features[self.node].dim
        new = [flow.take(x, dim, mask) for x, mask in self._pieces(flow) if mask.any()]
        return new[0] if len(new) == 1 else flow.graph.call_function(torch.cat, (new, dim))

    def _pieces(self, flow: Flow) -> list[tuple[fx.Node, Tensor]]:
        dim = flow.features[self.node].dim
        sizes = [flow.shapes[operand][dim] for operand in self.operands]
        return list(zip(self.operands, flow.wanted[self.node].split(sizes), strict=True))


def _at_least(mask: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The mask; if it has fewer than ``count`` elements, with the first of the candidates."""
    missing = max(count - int(mask.sum()), 0)
    others = (candidates & ~mask).nonzero().flatten()[:missing]
    return mask.index_fill(0, others, True)
