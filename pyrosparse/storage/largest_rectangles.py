"""The loops of the search for rectangles, compiled; imported where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Booleans = NDArray[np.bool_]
Integers = NDArray[np.int64]


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(cache=True)(loop)  # type: ignore[no-any-return]
    except RuntimeError:  # there is no folder that could keep it
        return njit(loop)  # type: ignore[no-any-return]


@_compiled
def maximal(free: Booleans, least: int) -> Integers:
    """All rectangles of free cells that cannot grow to any side and have ``least`` cells or more.

    free: (K, M) bool.

    Returns (row, column, height, width) of each, (P, 4) int64.

    >>> maximal(np.array([[True, True, False], [True, True, True]]), 3)
    array([[0, 0, 2, 2],
           [1, 0, 1, 3]])
    """
    rows, columns = free.shape
    found = np.empty((64, 4), dtype=np.int64)
    count = 0
    heights = np.zeros(columns + 1, dtype=np.int64)  # of the free cells that end in this row
    blocked = np.zeros(columns + 1, dtype=np.int64)  # cells left of here that end in this row
    starts = np.empty(columns + 1, dtype=np.int64)  # of rectangles that reach to here, ...
    levels = np.empty(columns + 1, dtype=np.int64)  # ... higher from one to the next
    for row in range(rows):
        for column in range(columns):
            heights[column] = heights[column] + 1 if free[row, column] else 0
            grows = row + 1 < rows and free[row + 1, column]
            blocked[column + 1] = blocked[column] + (0 if grows else 1)
        depth = 0
        for column in range(columns + 1):
            height, start = heights[column], column
            while depth and levels[depth - 1] > height:
                depth -= 1
                start = starts[depth]
                level, width = levels[depth], column - start
                if level * width >= least and blocked[column] > blocked[start]:
                    if count == len(found):
                        longer = np.empty((2 * count, 4), dtype=np.int64)
                        longer[:count] = found
                        found = longer
                    found[count, 0] = row - level + 1
                    found[count, 1] = start
                    found[count, 2] = level
                    found[count, 3] = width
                    count += 1
            if height and (depth == 0 or levels[depth - 1] < height):
                starts[depth] = start
                levels[depth] = height
                depth += 1
    return found[:count]


@_compiled
def claim(free: Booleans, table: Integers, order: Integers) -> Booleans:
    """Take rectangles in this order unless a cell of them is gone; the cells taken are free no
    more, in place.

    free:  (K, M) bool.
    table: (P, 4) int64 rows (row, column, height, width).
    order: (P,) int64, from the largest rectangle to the smallest.

    Returns which were taken, (P,) bool.

    >>> free = np.ones((2, 3), dtype=np.bool_)
    >>> claim(free, np.array([[0, 0, 1, 3], [0, 1, 2, 2]]), np.array([1, 0]))
    array([False,  True])
    >>> free
    array([[ True, False, False],
           [ True, False, False]])
    """
    taken = np.zeros(len(table), dtype=np.bool_)
    for index in order:
        top, left = table[index, 0], table[index, 1]
        bottom, right = top + table[index, 2], left + table[index, 3]
        # The border tells: no larger rectangle lies within, and one that overlaps crosses it.
        whole = True
        for column in range(left, right):
            whole = whole and free[top, column] and free[bottom - 1, column]
        for row in range(top, bottom):
            whole = whole and free[row, left] and free[row, right - 1]
        if whole:
            free[top:bottom, left:right] = False
            taken[index] = True
    return taken
