"""Dimensions of tensors that always have the same size, and sizes that the network fixes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import fx

Dimension = tuple[fx.Node, int]


class Dimensions:
    """Classes of dimensions that have the same size for every input of the network.

    A class is the network's *own* if its size is the same number for every input, as the width of a
    layer is. All other sizes are assumed to depend on the input.

    >>> graph = fx.Graph()
    >>> x, y = graph.placeholder("x"), graph.placeholder("y")
    >>> known = Dimensions()
    >>> known.join((x, 0), (y, 1))
    >>> known.fix((x, 0))
    >>> known.own(y, 1), known.own(y, 0)
    (True, False)
    """

    def __init__(self) -> None:
        self._parents: dict[Dimension, Dimension] = {}
        self._own: set[Dimension] = set()
        self._limits: dict[Dimension, Dimension] = {}
        self._products: dict[Dimension, tuple[Dimension, ...]] = {}

    def _first(self, dimension: Dimension) -> Dimension:
        first = dimension
        while first in self._parents:
            first = self._parents[first]
        if first != dimension:
            self._parents[dimension] = first  # a shorter path the next time
        return first

    def join(self, one: Dimension, other: Dimension) -> None:
        """Record that two dimensions have the same size."""
        first, second = self._first(one), self._first(other)
        if first != second:
            self._parents[second] = first
            if second in self._own:
                self._own.add(first)
            if second in self._limits:
                self._limits.setdefault(first, self._limits[second])
            if second in self._products:
                self._products.setdefault(first, self._products[second])

    def fix(self, *dimensions: Dimension) -> None:
        """Record that the network accepts and produces only one size there."""
        self._own.update(self._first(dimension) for dimension in dimensions)

    def multiply(self, dimension: Dimension, others: Iterable[Dimension]) -> None:
        """Record that a size is the product of others."""
        self._products.setdefault(self._first(dimension), tuple(others))

    def factors(
        self, dimension: Dimension, of: frozenset[Dimension] = frozenset()
    ) -> list[Dimension]:
        """One dimension of each class whose sizes multiplied give a size; its own if no others do.

        of: sizes of which it is itself a factor."""
        first = self._first(dimension)
        if first in of or first not in self._products:
            return [first]
        parts = (self.factors(part, of | {first}) for part in self._products[first])
        return [factor for part in parts for factor in part]

    def limit(self, dimension: Dimension, other: Dimension) -> None:
        """Record that a dimension was cut to the size of another, whose length is not 1."""
        self._limits[self._first(dimension)] = other

    def within(self, dimension: Dimension, other: Dimension) -> bool:
        """Whether a dimension was cut to the size of the other: together they have that size."""
        limit = self._limits.get(self._first(dimension))
        return limit is not None and self.same(limit, other)

    def same(self, one: Dimension, other: Dimension) -> bool:
        """Whether two dimensions are known to have the same size."""
        first, second = self._first(one), self._first(other)
        if first == second or not (first in self._products or second in self._products):
            return first == second
        return Counter(self.factors(first)) == Counter(self.factors(second))

    def own(self, node: fx.Node, *dims: int) -> bool:
        """Whether the sizes of these dimensions are the network's own."""
        return all(self._first((node, dim)) in self._own for dim in dims)

    def all_own(self, dimensions: Iterable[Dimension]) -> bool:
        """Whether the sizes of all these dimensions are the network's own."""
        return all(self._first(dimension) in self._own for dimension in dimensions)
