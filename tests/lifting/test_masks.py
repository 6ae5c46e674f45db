"""Masks: what stays, counted."""

import torch
from hypothesis import given
from hypothesis import strategies as st

import pyrosparse as ps
from pyrosparse.lifting.masks import largest


def test_counts_are_over_all_targets_and_gains_count_once():
    masks = ps.Masks(
        {"a.weight": torch.tensor([[True, False]]), "b.input": torch.tensor([0.0, 0.3, 2.0, 0.0])}
    )
    assert (masks.kept, masks.size, masks.sparsity) == (3, 6, 0.5)


def test_table_has_a_row_for_each_target():
    masks = ps.Masks({"a.weight": torch.tensor([True, False, False, False])})
    header, row = masks.table().splitlines()
    assert header.split() == ["target", "kept", "of", "sparsity"]
    assert row.split() == ["a.weight", "1", "4", "75.00%"]


def test_no_targets_are_no_sparsity():
    assert ps.Masks().sparsity == 0.0
    assert ps.Masks().table().split() == ["target", "kept", "of", "sparsity"]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(-2, 40))
def test_largest_keeps_exactly_so_many_and_none_smaller_than_what_goes(values, count):
    scores = torch.tensor(values, dtype=torch.float32)
    mask = largest(scores, count)
    kept = min(max(count, 0), len(values))
    assert int(mask.sum()) == kept
    if 0 < kept < len(values):
        assert scores[mask].min() >= scores[~mask].max()


def test_largest_keeps_the_shape():
    scores = torch.rand(2, 3, 4)
    assert largest(scores, 5).shape == scores.shape
