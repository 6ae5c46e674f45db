"""Schedules: functions of training progress, from 0 at the first step to 1 after the last.

As functions of progress alone they hold no state, so that a resumed run needs none of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """The factor 1.

    >>> constant(0.3)
    1.0
    """
    return 1.0


def cosine(final: float = 0.0) -> Schedule:
    r"""From 1 down to ``final`` along half a cosine.

    .. math:: f + (1 - f)\,(1 + \cos \pi t) / 2

    >>> cosine(final=0.01)(1.0)
    0.01
    """
    return lambda progress: final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def steps(*at: float, factor: float = 0.1) -> Schedule:
    """Multiplied by ``factor`` at each of the given points of progress.

    >>> steps(0.5, 0.8)(0.6)
    0.1
    """
    return lambda progress: factor ** sum(progress >= point for point in at)


def cubic(end: float = 1.0, start: float = 0.0) -> Schedule:
    r"""From 0 up to 1 between ``start`` and ``end``, fast first: a sparsity ramp.

    .. math:: 1 - (1 - (t - t_0) / (t_1 - t_0))^3

    Source: Zhu and Gupta (2017), eq. 1.

    Raises ValueError unless 0 <= start < end.

    >>> cubic(end=0.5)(0.25)
    0.875
    """
    if not 0 <= start < end:
        raise ValueError(f"a ramp needs 0 <= start < end, got {start} and {end}")
    return lambda progress: 1 - (1 - min(max((progress - start) / (end - start), 0.0), 1.0)) ** 3


def geometric(start: float, final: float, end: float = 1.0) -> Schedule:
    """From ``start`` to ``final``, by the same factor in equal shares of training, until ``end``.

    Raises ValueError unless start, final and end are positive.

    >>> round(geometric(0.1, 0.001, end=0.5)(0.25), 6)
    0.01
    """
    if not min(start, final, end) > 0:
        raise ValueError(
            f"a geometric path needs positive start, final and end, got {start}, {final}, {end}"
        )
    return lambda progress: start * (final / start) ** min(progress / end, 1.0)
