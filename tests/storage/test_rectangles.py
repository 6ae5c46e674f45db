"""Supports cut into rectangles: nothing lost, nothing twice, and bytes saved."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numba import njit

from pyrosparse.storage import largest_rectangles
from pyrosparse.storage.largest_rectangles import maximal
from pyrosparse.storage.rectangles import covered, rectangles

SUPPORTS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12))


@given(SUPPORTS, st.sampled_from([1, 2, 4, 8]), st.sampled_from([0, 4, 6]))
@settings(max_examples=300, deadline=None)
def test_rectangles_and_rest_are_the_support(
    support: np.ndarray, value_bytes: int, record_bytes: int
) -> None:
    before = support.copy()
    table, rest = rectangles(support, value_bytes=value_bytes, record_bytes=record_bytes)
    assert (support == before).all()
    counts = np.zeros(support.shape, dtype=int)
    for row, column, height, width in table:
        inside = support[row : row + height, column : column + width]
        assert inside.size == height * width
        assert record_bytes + inside.size * value_bytes < inside.sum() * (value_bytes + 1)
        counts[row : row + height, column : column + width] += 1
    assert counts.max(initial=0) <= 1
    assert (rest == (support & (counts == 0))).all()
    assert (covered(table, support.shape) == (counts == 1)).all()


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=6)), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_maximal_rectangles_are_those_of_enumeration(support: np.ndarray, least: int) -> None:
    rows, columns = support.shape
    full = {
        (top, left, bottom, right)
        for top in range(rows)
        for left in range(columns)
        for bottom in range(top + 1, rows + 1)
        for right in range(left + 1, columns + 1)
        if support[top:bottom, left:right].all()
    }

    def grows(top: int, left: int, bottom: int, right: int) -> bool:
        larger = {(top - 1, left, bottom, right), (top, left - 1, bottom, right)}
        larger |= {(top, left, bottom + 1, right), (top, left, bottom, right + 1)}
        return bool(larger & full)

    ends = np.array([rectangle for rectangle in full if not grows(*rectangle)]).reshape(-1, 4)
    ends[:, 2:] -= ends[:, :2]
    expected = set(map(tuple, ends.tolist()))
    found = [tuple(row) for row in maximal(support, least).tolist()]
    assert len(found) == len(set(found))
    assert set(found) == {row for row in expected if row[2] * row[3] >= least}


def test_the_largest_comes_first() -> None:
    support = np.zeros((20, 20), dtype=bool)
    support[2:12, 3:13] = True
    support[10:18, 5:9] = True  # overlaps it, and is cut where it does
    assert rectangles(support)[0].tolist() == [[2, 3, 10, 10], [12, 5, 6, 4]]


def test_blocks_are_found_again() -> None:
    planted = np.random.default_rng(0).random((30, 40)) < 0.2
    table, rest = rectangles(np.kron(planted, np.pad(np.ones((7, 7), dtype=bool), (0, 1))))
    assert not rest.any()
    assert sorted(map(tuple, table[:, :2] // 8)) == sorted(map(tuple, np.argwhere(planted)))
    assert (table[:, 2:] == 7).all()


def test_a_hole_is_filled_only_where_that_pays() -> None:
    support = np.ones((5, 5), dtype=bool)
    support[2, 2] = False
    assert rectangles(support)[0].tolist() == [[0, 0, 5, 5]]
    # A plus with its middle gone: two thirds of the row would be left.
    support = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
    table, rest = rectangles(support)
    assert not len(table) and (rest == support).all()


def test_loops_compile_where_no_folder_can_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_a_folder(loop: Any = None, *, cache: bool = False) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(loop)

    monkeypatch.setattr(largest_rectangles, "njit", without_a_folder)
    double = largest_rectangles._compiled(lambda x: 2 * x)
    assert double(3) == 6


def test_only_matrices_are_cut() -> None:
    with pytest.raises(ValueError, match="matrix"):
        rectangles(np.ones(3, dtype=bool))
