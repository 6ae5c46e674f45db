"""Schedules: values at known points, and their shape."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.infer.schedules import after, constant, cosine, cubic, logarithmic, steps

PROGRESS = st.floats(0, 1)


@pytest.mark.parametrize(
    ("schedule", "progress", "value"),
    [
        (constant, 0.7, 1.0),
        (cosine(), 0.0, 1.0),
        (cosine(), 0.5, 0.5),
        (cosine(), 1.0, 0.0),
        (cosine(0.2), 1 / 3, 0.8),
        (steps(0.5, 0.8), 0.49, 1.0),
        (steps(0.5, 0.8), 0.5, 0.1),
        (steps(0.5, 0.8), 0.9, 0.01),
        (steps(0.5, factor=0.3), 1.0, 0.3),
        (logarithmic(0.7, 1e4), 0.5, math.sqrt(7e3)),
        (logarithmic(0.7, 1e4, until=0.64), 0.0, 0.7),
        (logarithmic(0.7, 1e4, until=0.64), 0.64, 1e4),
        (logarithmic(0.7, 1e4, until=0.64), 0.9, 1e4),
        (logarithmic(4.0, 1.0), 0.5, 2.0),
        (after(0.64), 0.6, 0.0),
        (after(0.64), 0.64, 1.0),
        (cubic(), 0.5, 0.875),
        (cubic(end=0.6), 0.6, 1.0),
        (cubic(start=0.2, end=0.6), 0.1, 0.0),
        (cubic(start=0.2, end=0.6), 0.4, 0.875),
        (cubic(start=0.2, end=0.6), 1.0, 1.0),
    ],
)
def test_values(schedule, progress, value):
    assert math.isclose(schedule(progress), value, abs_tol=1e-12)


@given(st.floats(0, 1), PROGRESS, PROGRESS)
def test_cosine_falls_from_one_to_its_end(final, a, b):
    schedule = cosine(final)
    early, late = sorted((a, b))
    assert schedule(early) >= schedule(late) - 1e-12
    assert final - 1e-12 <= schedule(a) <= 1 + 1e-12


@given(st.floats(0, 0.98), st.floats(0.01, 1), PROGRESS, PROGRESS)
def test_cubic_rises_from_zero_to_one(start, length, a, b):
    schedule = cubic(start=start, end=start + length)
    early, late = sorted((a, b))
    assert 0 <= schedule(early) <= schedule(late) <= 1


@given(st.lists(PROGRESS, max_size=4), PROGRESS)
def test_steps_multiply(points, progress):
    passed = sum(point <= progress for point in points)
    assert math.isclose(steps(*points, factor=0.5)(progress), 0.5**passed)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5)])
def test_ramps_that_do_not_rise_are_refused(start, end):
    with pytest.raises(ValueError, match="start < end"):
        cubic(start=start, end=end)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (1.0, float("inf")), (1.0, 2.0, 0.0)])
def test_logarithms_need_positive_numbers(bad):
    with pytest.raises(ValueError, match="must be positive and finite"):
        logarithmic(*bad)
