"""Loops that draw Gibbs masks block by block on a CPU, compiled by numba.

They draw no entropy of their own: it comes in as uniform numbers or as seeds, from torch.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]

_LARGEST_LOG = 600.0
"""Sums of odds up to exp of this are formed as they are; beyond, as logarithms."""

_DECIDED = 40.0
"""Log odds beyond which nothing is drawn: exp(-40) is far below the grid of the uniforms."""

_MODERATE = 150.0
"""Log odds up to which odds are multiplied instead of log odds added."""


@numba.njit(cache=True)
def complete_graph(t: Array, coupling: float, uniforms: Array, out: Array) -> None:
    """States of ``complete_graph.sample`` for the same uniforms.

    t: (blocks, n) float64; uniforms: (blocks, n + 1) float64; out: (blocks, n) bool.
    """
    blocks, n = t.shape
    tables, odds = np.zeros((n + 1, n + 1)), np.empty(n)
    log_bias, bias, cumulative = np.empty(n + 1), np.empty(n + 1), np.empty(n + 1)
    for k in range(n + 1):
        log_bias[k] = coupling * ((2.0 * k - n) ** 2 - n * n)  # at most 0, and 0 for k = 0
        bias[k] = math.exp(log_bias[k])
    for block in range(blocks):
        size = n * math.log(2.0)
        for i in range(n):
            size += max(t[block, i], 0.0)
        direct = size < _LARGEST_LOG
        _fill(tables, odds, t[block], 0.0, n, direct)
        total = 0.0
        if direct:
            for k in range(n + 1):
                total += tables[n, k] * bias[k]
                cumulative[k] = total
        else:
            largest = -np.inf
            for k in range(n + 1):
                largest = max(largest, tables[n, k] + log_bias[k])
            for k in range(n + 1):
                total += math.exp(tables[n, k] + log_bias[k] - largest)
                cumulative[k] = total
        level = uniforms[block, n] * total
        left = 0
        while left < n and cumulative[left] <= level:
            left += 1
        _draw(tables, odds, uniforms[block], left, direct, out[block])


@numba.njit(cache=True)
def fixed_count(t: Array, count: int, uniforms: Array, out: Array) -> None:
    """States with ``count`` on, of ``conditional_bernoulli.sample_by_tables``.

    t, uniforms: (blocks, n) float64; out: (blocks, n) bool.
    """
    blocks, n = t.shape
    tables, odds = np.zeros((n + 1, count + 1)), np.empty(n)
    for block in range(blocks):
        # Only differences count: the largest odds are 1, and no table is above 2^n.
        largest, smaller = t[block].max(), 0.0
        for i in range(n):
            smaller += largest - t[block, i]
        direct = smaller < _LARGEST_LOG
        _fill(tables, odds, t[block], largest, count, direct)
        _draw(tables, odds, uniforms[block], count, direct, out[block])


@numba.njit(cache=True, inline="always")
def _fill(tables: Array, odds: Array, t: Array, shift: float, most: int, direct: bool) -> None:
    """The polynomials of the first i odds, up to ``most`` on: as they are, or their logarithms."""
    tables[0, 0] = 1.0 if direct else 0.0
    for i in range(1, len(t) + 1):
        one = math.exp(t[i - 1] - shift) if direct else t[i - 1] - shift
        odds[i - 1] = one
        tables[i, 0] = tables[0, 0]
        if i <= most:
            tables[i, i] = tables[i - 1, i - 1] * one if direct else tables[i - 1, i - 1] + one
        for k in range(1, min(i, most + 1)):
            without, rest = tables[i - 1, k], tables[i - 1, k - 1]
            tables[i, k] = without + one * rest if direct else _log_add(without, one + rest)


@numba.njit(cache=True, inline="always")
def _draw(tables: Array, odds: Array, uniforms: Array, left: int, direct: bool, out: Array) -> None:
    """Which are on, backwards, given how many are left."""
    for i in range(len(odds), 0, -1):
        if left == 0 or left == i:
            on = left == i
        elif direct:
            with_it = odds[i - 1] * tables[i - 1, left - 1]
            on = uniforms[i - 1] * tables[i, left] < with_it
        else:
            log_p = odds[i - 1] + tables[i - 1, left - 1] - tables[i, left]
            on = uniforms[i - 1] < math.exp(log_p)
        out[i - 1] = on
        left -= on


@numba.njit(cache=True)
def _log_add(a: float, b: float) -> float:
    larger, smaller = max(a, b), min(a, b)
    if larger - smaller > _DECIDED:
        return larger
    return larger + math.log1p(math.exp(smaller - larger))


_STEP = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(cache=True, inline="always")
def _uniform(state: Any, index: int) -> float:
    """The number at a place of a stream of SplitMix64 (Steele, Lea and Flood, 2014), in (0, 1)."""
    z = state + np.uint64(index) * _STEP
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (np.float64(z >> np.uint64(12)) + 0.5) * 2.0**-52


@numba.njit(cache=True)
def bipartite(
    t: Array, coupling: float, second: Array, seeds: Array, split: int, sweeps: int, out: Array
) -> None:
    """Sweeps of the chromatic sampler: the first colour given the second, then the other way.

    t:      (blocks, n) float64, the log odds of each element alone.
    second: (blocks,) float64, the sum of x over the second colour at the start.
    seeds:  (blocks,) uint64.
    split:  how many elements the first colour has.
    out:    (blocks, n) bool.
    """
    blocks, n = t.shape
    odds_against = np.empty(n)
    bounds = (0, split, n)
    low, high = np.empty(2), np.empty(2)
    sums = np.empty(2)
    for block in range(blocks):
        moderate = True
        for colour in range(2):
            low[colour], high[colour] = np.inf, -np.inf
            for i in range(bounds[colour], bounds[colour + 1]):
                low[colour] = min(low[colour], t[block, i])
                high[colour] = max(high[colour], t[block, i])
                moderate &= abs(t[block, i]) <= _MODERATE
        if moderate:
            for i in range(n):
                odds_against[i] = math.exp(-t[block, i])
        state = seeds[block]
        sums[1] = second[block]
        for sweep in range(sweeps):
            last = sweep == sweeps - 1
            for colour in range(2):
                start, end = bounds[colour], bounds[colour + 1]
                push = 2.0 * coupling * sums[1 - colour]
                if low[colour] + push > _DECIDED or high[colour] + push < -_DECIDED:
                    on = low[colour] + push > _DECIDED
                    sums[colour] = (end - start) * (1.0 if on else -1.0)
                    if last:
                        out[block, start:end] = on
                    continue
                if moderate:
                    # Beyond this the push alone decides.
                    push = min(max(push, -2 * _MODERATE), 2 * _MODERATE)
                    count = _draw_moderate(
                        odds_against[start:end], math.exp(-push), state, out[block, start:end]
                    )
                else:
                    count = _draw_any(t[block, start:end], push, state, out[block, start:end])
                state = state + np.uint64(end - start) * _STEP
                sums[colour] = 2.0 * count - (end - start)


@numba.njit(cache=True)
def _draw_moderate(odds_against: Array, factor: float, state: Any, out: Array) -> int:
    """Switch each element on with odds 1 / (factor odds_against); returns how many are on."""
    count = 0
    for i in range(len(out)):
        on = _uniform(state, i) * (1.0 + factor * odds_against[i]) < 1.0
        out[i] = on
        count += on
    return count


@numba.njit(cache=True)
def _draw_any(t: Array, push: float, state: Any, out: Array) -> int:
    """The same with the log odds t + push, of any size."""
    count = 0
    for i in range(len(out)):
        uniform = _uniform(state, i)
        on = math.log(uniform) - math.log1p(-uniform) < t[i] + push
        out[i] = on
        count += on
    return count
