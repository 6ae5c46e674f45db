"""Schedules: functions of training progress, from 0 at the first step to 1 after the last.

They depend on progress alone and hold no state, so that a resumed run needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Schedule = Callable[[float], float]


def check_schedule(name: str, schedule: Any) -> None:
    """Raise TypeError if a schedule is no function.

    >>> check_schedule("ramp", constant)
    """
    if not callable(schedule):
        raise TypeError(
            f"{name} is a function of progress in [0, 1], such as those of ps.infer.schedules or "
            f"lambda progress: {schedule!r}; got {schedule!r}"
        )


def constant(progress: float) -> float:
    """The factor 1.

    >>> constant(0.3)
    1.0
    """
    return 1.0


def cosine(final: float = 0.0) -> Schedule:
    r"""Decreases from 1 to ``final`` along half a cosine.

    .. math:: f + (1 - f)\,(1 + \cos \pi t) / 2

    >>> cosine(final=0.01)(1.0)
    0.01
    """
    return lambda progress: final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def linear_decay(start: float = 0.0, final: float = 0.0) -> Schedule:
    """1 until ``start``, then decreases linearly to ``final``.

    Raises ValueError unless 0 <= start < 1.

    >>> linear_decay(start=0.5)(0.25), linear_decay(start=0.5)(0.75)
    (1.0, 0.5)
    """
    if not 0 <= start < 1:
        raise ValueError(f"a line needs 0 <= start < 1, got {start}")
    return lambda progress: 1 - (1 - final) * max(progress - start, 0.0) / (1 - start)


def steps(*at: float, factor: float = 0.1) -> Schedule:
    """Multiplies the rate by ``factor`` at each of the given points of progress.

    >>> steps(0.5, 0.8)(0.6)
    0.1
    """
    return lambda progress: factor ** sum(progress >= point for point in at)


def linear(end: float = 1.0, start: float = 0.0) -> Schedule:
    """Increases linearly from 0 to 1 between ``start`` and ``end``.

    Raises ValueError unless 0 <= start < end.

    >>> linear(end=0.5)(0.25)
    0.5
    """
    if not 0 <= start < end:
        raise ValueError(f"a ramp needs 0 <= start < end, got {start} and {end}")
    return lambda progress: min(max((progress - start) / (end - start), 0.0), 1.0)


def cubic(end: float = 1.0, start: float = 0.0) -> Schedule:
    r"""Increases from 0 to 1 between ``start`` and ``end``, fast at first: a sparsity ramp.

    .. math:: 1 - (1 - (t - t_0) / (t_1 - t_0))^3

    Source: Zhu and Gupta (2017), eq. 1.

    Raises ValueError unless 0 <= start < end.

    >>> cubic(end=0.5)(0.25)
    0.875
    """
    rises = linear(end, start)
    return lambda progress: 1 - (1 - rises(progress)) ** 3


def logarithmic(start: float, end: float, until: float = 1.0) -> Schedule:
    r"""From ``start`` to ``end`` by equal factors, constant after ``until``.

    .. math:: b_0 (b_1 / b_0)^{\min(t / t_1, 1)}

    Source: Labach and Valaee (2020), section III-A, for an inverse temperature.

    Raises ValueError unless start, end and until are positive and finite.

    >>> round(logarithmic(0.01, 1.0, until=0.5)(0.25), 6)
    0.1
    """
    for name, value in (("start", start), ("end", end), ("until", until)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    ratio = math.log(end / start)

    def at(progress: float) -> float:
        return end if progress >= until else start * math.exp(ratio * progress / until)

    return at


def after(point: float) -> Schedule:
    """0 before a point of progress, 1 from there on: a ramp that prunes everything at once.

    >>> after(0.64)(0.63), after(0.64)(0.64)
    (0.0, 1.0)
    """
    return lambda progress: float(progress >= point)


def staircase(levels: int, start: float = 0.0) -> Schedule:
    r"""0 before ``start``, then increases to 1 in equal steps at equal intervals, with one interval
    after the last step: a sparsity ramp with the same training after every cut.

    .. math:: (1 + \lfloor L\, (t - t_0) / (1 - t_0) \rfloor) / L, \quad t \ge t_0

    For example, ``Pruner`` prunes to 10 %, 20 %, ... of all weights, nine times, after 50 of 140
    epochs and then every ten:
    ``Pruner("magnitude", 0.9, ramp=staircase(9, start=50 / 140), freeze=True)``.

    Source: Han et al. (2015), section 3, for pruning in steps.

    Raises ValueError unless levels is a positive whole number and 0 <= start < 1.

    >>> ramp = staircase(2, start=0.5)
    >>> ramp(0.4), ramp(0.5), ramp(0.75), ramp(1.0)
    (0.0, 0.5, 1.0, 1.0)
    """
    if int(levels) != levels or levels < 1:
        raise ValueError(f"levels must be a positive whole number, got {levels}")
    if not 0 <= start < 1:
        raise ValueError(f"start must be in [0, 1), got {start}")

    def at(progress: float) -> float:
        # Epochs over epochs are not exact: a step is due within a rounding error.
        steps = math.floor(levels * (progress - start) / (1 - start) + 1e-9)
        return min(max(steps + 1, 0), levels) / levels

    return at
