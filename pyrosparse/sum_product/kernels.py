"""Messages along chains, compiled for the CPU: blocks of chains side by side, in odds.

In odds a step along a chain is (p01 + p11 x) / (p00 + p10 x): without exponential or logarithm, and
without cancellation, since all terms are positive. The nodes of a block lie chain by chain in the
lanes of vector registers, and two buffers of a block are all the memory that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from pyrosparse.sum_product.transition import Transition

LANES = 64
"""Chains of a block: several vector registers, which hide how long a division takes."""

GROUP, TILE = 16, 32
"""Chains and nodes that are transposed together: the lines stay in the first cache, and the pages
of so many chains in its table."""

LIMITS = {torch.float32: 60.0, torch.float64: 300.0}
"""Log-odds beyond which a node counts as observed: messages stay within 21 nats, so that all odds
are in range, and what an observed node sends is exact to rounding."""

NODES_OF_A_THREAD = 2**17
"""Below this many, starting a thread takes longer than it saves."""

# Fused multiply-adds and reciprocals only: more could undo the order of operations.
FASTMATH = {"contract", "nsz", "arcp"}
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}

FORMATS: dict[Any, tuple[Any, Any, int]] = {
    types.float32: (np.float32, np.int32, 23),
    types.float64: (np.float64, np.int64, 52),
}
"""By type of a number: it, the integer with as many bits, and the bits of its mantissa."""

TERMS = {32: (7, 9), 64: (13, 21)}
"""Last term of the series of exp and log by the bits of a number: rounding hides the others."""


def _reinterpret(context: Any, value: Any, kind: Any) -> Any:
    """The bits of a number read as a number of another kind, both of one width."""
    result = kind.instance_type

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(result))

    return result(value, kind), generate


reinterpret: Any = intrinsic(_reinterpret)


def exp(x: Any) -> Any:
    """e^x of a float32 or float64 in compiled code, in a form that compiles to vectors."""
    raise NotImplementedError


def log(x: Any) -> Any:
    """ln x of a positive normal float32 or float64, in the same form."""
    raise NotImplementedError


@overload(exp, jit_options={"fastmath": FASTMATH})
def _exp(x: Any) -> Callable[[Any], Any]:
    real, integer, mantissa = FORMATS[x]
    terms = tuple(real(1 / math.factorial(k)) for k in range(TERMS[x.bitwidth][0], -1, -1))
    ln2, log2e, half = real(math.log(2)), real(1 / math.log(2)), real(0.5)
    bias = 2 ** (x.bitwidth - mantissa - 2) - 1

    def compiled_exp(x: Any) -> Any:
        # e^x = 2^n e^r with |r| <= ln(2) / 2, where the Taylor series is short.
        n = np.floor(x * log2e + half)
        r = x - n * ln2
        y = terms[0]
        for term in terms[1:]:
            y = y * r + term
        return y * reinterpret(integer((integer(n) + bias) << mantissa), real)

    return compiled_exp


@overload(log, jit_options={"fastmath": FASTMATH})
def _log(x: Any) -> Callable[[Any], Any]:
    real, integer, mantissa = FORMATS[x]
    terms = tuple(real(2 / k) for k in range(TERMS[x.bitwidth][1], 0, -2))
    ln2, one = real(math.log(2)), real(1)
    origin = int(real(math.sqrt(0.5)).view(integer))

    def compiled_log(x: Any) -> Any:
        # ln x = n ln 2 + 2 artanh(z) with x = 2^n m, m within a factor of sqrt 2 of 1.
        bits = reinterpret(x, integer)
        n = integer(integer(bits - origin) >> mantissa)
        m = reinterpret(integer(bits - (n << mantissa)), real)
        z = (m - one) / (m + one)
        square = z * z
        y = terms[0]
        for term in terms[1:]:
            y = y * square + term
        return real(n) * ln2 + y * z

    return compiled_log


# Slices and unsigned indices, because an index that might be negative is slow: it is checked.


@numba.njit(**OPTIONS)
def load(log_odds: Any, heard: Any, with_heard: bool, first: Any, stride: int, node: Any) -> None:
    """Gather what the nodes of a block start from: node[l, w] of lane w at first[w] + l stride."""
    length, lanes = len(node), len(first)
    if stride == 1 and length >= TILE:
        for group in range(0, lanes, GROUP):
            for begin in range(0, length, TILE):
                end = min(begin + TILE, length)
                tile = node[begin:end]
                for w in range(group, min(group + GROUP, lanes)):
                    own = log_odds[first[w] + begin : first[w] + end]
                    for i in range(end - begin):
                        tile[i, w] = own[i]
                    if with_heard:
                        others = heard[first[w] + begin : first[w] + end]
                        for i in range(end - begin):
                            tile[i, w] += others[i]
    elif first[lanes - 1] - first[0] == lanes - 1:
        for i in range(length):
            at = first[0] + i * stride
            own = log_odds[at : at + lanes]
            if with_heard:
                others = heard[at : at + lanes]
                for w in range(lanes):
                    node[i, w] = own[w] + others[w]
            else:
                for w in range(lanes):
                    node[i, w] = own[w]
    else:
        for i in range(length):
            own = log_odds[i * stride :]
            if with_heard:
                others = heard[i * stride :]
                for w in range(lanes):
                    node[i, w] = own[np.uint64(first[w])] + others[np.uint64(first[w])]
            else:
                for w in range(lanes):
                    node[i, w] = own[np.uint64(first[w])]


@numba.njit(**OPTIONS)
def store(total: Any, heard: Any, with_heard: bool, first: Any, stride: int, out: Any) -> None:
    """Scatter what the nodes of a block have heard to where ``load`` found them."""
    length, lanes = len(total), len(first)
    if stride == 1 and length >= TILE:
        for group in range(0, lanes, GROUP):
            for begin in range(0, length, TILE):
                end = min(begin + TILE, length)
                tile = total[begin:end]
                for w in range(group, min(group + GROUP, lanes)):
                    result = out[first[w] + begin : first[w] + end]
                    if with_heard:
                        others = heard[first[w] + begin : first[w] + end]
                        for i in range(end - begin):
                            result[i] = tile[i, w] + others[i]
                    else:
                        for i in range(end - begin):
                            result[i] = tile[i, w]
    elif first[lanes - 1] - first[0] == lanes - 1:
        for i in range(length):
            at = first[0] + i * stride
            result = out[at : at + lanes]
            if with_heard:
                others = heard[at : at + lanes]
                for w in range(lanes):
                    result[w] = total[i, w] + others[w]
            else:
                for w in range(lanes):
                    result[w] = total[i, w]
    else:
        for i in range(length):
            result = out[i * stride :]
            if with_heard:
                others = heard[i * stride :]
                for w in range(lanes):
                    result[np.uint64(first[w])] = total[i, w] + others[np.uint64(first[w])]
            else:
                for w in range(lanes):
                    result[np.uint64(first[w])] = total[i, w]


@numba.njit(**OPTIONS)
def scan(
    node: Any,
    total: Any,
    message: Any,
    start: Any,
    p00: Any,
    p01: Any,
    p10: Any,
    p11: Any,
    limit: Any,
) -> None:
    """Log-odds of the nodes of a block, (length, LANES), to the messages they get, in ``total``."""
    length = len(node)
    for w in range(LANES):
        total[0, w] = start
    for i in range(length):
        for w in range(LANES):
            node[i, w] = exp(min(max(node[i, w], -limit), limit))
        if i + 1 < length:
            for w in range(LANES):
                x = node[i, w] * total[i, w]
                total[i + 1, w] = (p01 + p11 * x) / (p00 + p10 * x)
    for w in range(LANES):
        message[w] = 1
    for back in range(length):
        i = length - 1 - back
        for w in range(LANES):
            x = node[i, w] * message[w]
            total[i, w] = log(total[i, w] * message[w])
            message[w] = (p10 + p11 * x) / (p00 + p01 * x)


def blocks(
    log_odds: Any,
    heard: Any,
    with_heard: bool,
    add_heard: bool,
    out: Any,
    shape: tuple[int, int],
    along_rows: bool,
    odds: Any,
    begin: int,
    end: int,
) -> None:
    """Write the messages of the chains of the blocks from ``begin`` to ``end``.

    log_odds, heard, out: flat, one grid after another; ``out`` may be ``heard``.
    shape: (K, M) of a grid.
    odds:  start, p00, p01, p10, p11 and the limit of log-odds, in the dtype of the others.
    """
    rows, columns = shape
    if along_rows:
        length, stride, inside = columns, 1, 1
    else:
        length, stride, inside = rows, columns, columns
    chains = len(out) // length
    start, p00, p01, p10, p11, limit = odds
    node = np.zeros((length, LANES), out.dtype)
    total = np.empty((length, LANES), out.dtype)
    message = np.empty(LANES, out.dtype)
    first = np.empty(LANES, np.int64)
    for block in range(begin, end):
        lanes = min(LANES, chains - block * LANES)
        grid, chain = divmod(block * LANES, inside)
        for w in range(lanes):
            first[w] = grid * inside * length + chain
            chain += 1
            if chain == inside:
                grid, chain = grid + 1, 0
        load(log_odds, heard, with_heard, first[:lanes], stride, node)
        scan(node, total, message, start, p00, p01, p10, p11, limit)
        store(total, heard, add_heard, first[:lanes], stride, out)


def kept_on_disk(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled at its first call, once for all processes where numba finds a folder that
    it can write to, and once a process elsewhere."""
    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:
        return numba.njit(**OPTIONS)(function)


compiled_blocks = kept_on_disk(blocks)


def chain_messages(
    log_odds: Tensor,
    heard: Tensor | None,
    transition: Transition,
    dim: int,
    out: Tensor,
    *,
    add_heard: bool = False,
) -> None:
    """What ``scan.chain_messages`` does, for contiguous tensors on the CPU."""
    real = out.numpy().dtype.type
    probabilities = (transition.p00, transition.p01, transition.p10, transition.p11)
    odds = (math.exp(transition.start), *probabilities, LIMITS[out.dtype])
    arguments = (
        log_odds.view(-1).numpy(),
        (log_odds if heard is None else heard).view(-1).numpy(),
        heard is not None,
        heard is not None and add_heard,
        out.view(-1).numpy(),
        tuple(out.shape[-2:]),
        dim == -1,
        tuple(real(value) for value in odds),
    )
    count = -(-out.numel() // (out.shape[dim] * LANES))
    threads = min(torch.get_num_threads(), count, 1 + out.numel() // NODES_OF_A_THREAD)
    if threads == 1:
        compiled_blocks(*arguments, 0, count)
        return
    # Threads of our own, as many as torch has: those of numba do not survive a fork.
    ends = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        parts = [
            pool.submit(compiled_blocks, *arguments, begin, end) for begin, end in pairwise(ends)
        ]
    for part in parts:
        part.result()
