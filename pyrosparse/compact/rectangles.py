"""A support cut into rectangles: its clusters by location and size, and what lies in none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Booleans = NDArray[np.bool_]
Integers = NDArray[np.int64]


def rectangles(
    support: Booleans, *, value_bytes: int = 4, record_bytes: int = 6, index_bytes: int = 1
) -> tuple[Integers, Booleans]:
    r"""Disjoint rectangles in which the non-zeros of a matrix lie, and the non-zeros outside them.

    The largest rectangle of non-zeros is taken first, then the largest of what it leaves, and so on
    (rectangles that overlap a larger one are looked for anew when all others have been taken, until
    a round covers less than a hundredth of the non-zeros). A zero with non-zeros on three sides or
    on all four counts as a non-zero, so that a hole does not split a cluster. A rectangle of
    :math:`A` cells with :math:`z` non-zeros stays if its record takes fewer bytes than its elements
    one by one,

    .. math:: r + A v < z (v + i).

    support:      (K, M) bool.
    value_bytes:  :math:`v`, of one element.
    record_bytes: :math:`r`, of a rectangle's place and size; 0 where only elements cost.
    index_bytes:  :math:`i`, of the place of an element outside the rectangles.

    Returns the rectangles as rows (row, column, height, width), (P, 4) int64, in the order of
    their places, and the non-zeros outside them, (K, M) bool.

    Raises ValueError where the support is no matrix.

    Source: the clusters of Xia, Tsang, Lau, "Structured Bayesian Compression for Deep Neural
    Networks Based on the Turbo-VBI Approach"; the search and the break-even in bytes are ours.

    >>> support = np.zeros((6, 8), dtype=bool)
    >>> support[1:4, 2:7] = True
    >>> support[2, 4] = False  # a hole
    >>> support[5, 0] = True
    >>> table, rest = rectangles(support)
    >>> table
    array([[1, 2, 3, 5]])
    >>> np.argwhere(rest)
    array([[5, 0]])
    """
    if support.ndim != 2:
        raise ValueError(f"a support is a matrix, got {support.ndim} dimensions")
    from pyrosparse.compact.largest_rectangles import claim, maximal  # compiles with numba

    free = _holes_filled(support)
    # A smaller one could not pay even if it were full of non-zeros.
    least = record_bytes // index_bytes + 1
    found = [np.zeros((0, 4), dtype=np.int64)]
    enough = int(np.count_nonzero(free)) / 100
    while True:
        candidates = maximal(free, least)
        areas = candidates[:, 2] * candidates[:, 3]
        taken = candidates[claim(free, candidates, np.argsort(-areas, kind="stable"))]
        found.append(taken)
        if len(taken) == len(candidates) or (taken[:, 2] * taken[:, 3]).sum() < enough:
            break
    table = np.concatenate(found)
    areas = table[:, 2] * table[:, 3]
    pays = record_bytes + areas * value_bytes < _counts(support, table) * (
        value_bytes + index_bytes
    )
    table = table[pays]
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    rest = support.copy().reshape(-1)
    rest[cells(table, support.shape[1])] = False
    return table, rest.reshape(support.shape)


def cells(table: Integers, columns: int) -> Integers:
    """Where the cells of rectangles are in a matrix laid out row by row: rectangle by rectangle,
    and row by row in each.

    table:   (P, 4) int64, rows (row, column, height, width).
    columns: of the matrix.

    >>> cells(np.array([[0, 1, 2, 2], [3, 0, 1, 3]]), columns=10)
    array([ 1,  2, 11, 12, 30, 31, 32])
    """
    # One run of neighbours for each row of each rectangle.
    heights, widths = table[:, 2], np.repeat(table[:, 3], table[:, 2])
    starts = np.repeat(table[:, 0] * columns + table[:, 1], heights) + columns * _counters(heights)
    places: Integers = np.repeat(starts, widths) + _counters(widths)
    return places


def _counters(lengths: Integers) -> Integers:
    """0, 1, .. of every length, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    counters: Integers = np.arange(total) - np.repeat(ends - lengths, lengths)
    return counters


def _holes_filled(support: Booleans) -> Booleans:
    around = np.pad(support, 1).astype(np.uint8)
    sides = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    filled: Booleans = support | (sides >= 3)
    return filled


def _counts(support: Booleans, table: Integers) -> Integers:
    """The non-zeros in each rectangle."""
    rows, columns = support.shape
    sums = np.zeros((rows + 1, columns + 1), dtype=np.int64)
    np.cumsum(support, axis=0, dtype=np.int64, out=sums[1:, 1:])
    np.cumsum(sums, axis=1, out=sums)
    top, left = table[:, 0], table[:, 1]
    bottom, right = top + table[:, 2], left + table[:, 3]
    counts: Integers = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return counts
