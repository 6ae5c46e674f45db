"""Tests of recipes are of stages, schedules and what is left: they take short runs."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.short import short_runs


@pytest.fixture
def whole() -> None:
    """For tests whose steps are to be captured: one path of each recipe, and runs of many steps,
    which take less time so."""


@pytest.fixture(autouse=True)
def short(request: pytest.FixtureRequest) -> Iterator[None]:
    with contextlib.nullcontext() if "whole" in request.fixturenames else short_runs():
        yield
