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

    Raises ValueError if the support is no matrix.

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
    from pyrosparse.storage.largest_rectangles import claim, maximal  # compiles with numba

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
    one_by_one = _counts(support, table) * (value_bytes + index_bytes)
    table = table[record_bytes + areas * value_bytes < one_by_one]
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    return table, support & ~covered(table, support.shape)


def covered(table: Integers, shape: tuple[int, int]) -> Booleans:
    """The cells of a matrix that lie in rectangles, bool of that shape.

    table: (P, 4) int64, rows (row, column, height, width).

    >>> covered(np.array([[0, 1, 2, 2]]), (3, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    inside = np.zeros(shape, dtype=bool)
    for row, column, height, width in table.tolist():
        inside[row : row + height, column : column + width] = True
    return inside


def _holes_filled(support: Booleans) -> Booleans:
    around = np.pad(support, 1).astype(np.uint8)
    sides = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    filled: Booleans = support | (sides >= 3)
    return filled


def _counts(support: Booleans, table: Integers) -> Integers:
    """The non-zeros in each rectangle."""
    rows, columns = support.shape
    sums = np.zeros((rows + 1, columns + 1), dtype=np.int32 if support.size < 2**31 else np.int64)
    np.cumsum(support, axis=0, dtype=sums.dtype, out=sums[1:, 1:])
    np.cumsum(sums, axis=1, out=sums)
    top, left = table[:, 0], table[:, 1]
    bottom, right = top + table[:, 2], left + table[:, 3]
    counts: Integers = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return counts
