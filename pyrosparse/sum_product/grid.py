"""Sum-product on grids of binary nodes whose rows and columns are Markov chains."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrosparse.sum_product.transition import Transition

Pair = tuple[float, float]


class LoopyRegimeWarning(UserWarning):
    """Rows and columns are coupled so strongly that sum-product may not converge."""


@dataclass(frozen=True)
class Messages:
    """What sum-product found on a grid.

    log_odds: (..., K, M), the extrinsic log-odds: all that a node hears from its chains.
    column:   (..., K, M), the part of it that comes along columns, where a later call can start;
              None where only one axis has chains.
    residual: the largest change of a message in the last sweep, in nats; 0 for one axis.
    sweeps:   how many were made.
    """

    log_odds: Tensor
    column: Tensor | None
    residual: float
    sweeps: int


@torch.no_grad()
def sum_product(
    log_odds: Tensor,
    row: Pair | None,
    column: Pair | None = None,
    *,
    sweeps: int = 6,
    damping: float = 0.0,
    tolerance: float | None = None,
    start: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""Extrinsic log-odds of a binary Markov random field on a grid: what each node hears from the
    others, without its own log-odds.

    .. math::
        p(s) \propto \prod_n e^{u_n s_n}
            \prod_{r} p(s_{r,1}) \prod_{m > 1} p^{row}(s_{r,m} \mid s_{r,m-1})
            \prod_{m} p(s_{1,m}) \prod_{r > 1} p^{col}(s_{r,m} \mid s_{r-1,m})

    The messages along a chain with :math:`v_m = u_m` plus what node m has heard from the other axis
    are

    .. math::
        F_1 = \ln\frac{p_{01}}{p_{10}}, \quad
        F_{m+1} = \ln\frac{p_{01} + p_{11} e^{v_m + F_m}}{p_{00} + p_{10} e^{v_m + F_m}}, \qquad
        G_M = 0, \quad
        G_m = \ln\frac{p_{10} + p_{11} e^{v_{m+1} + G_{m+1}}}{p_{00} + p_{01} e^{v_{m+1} + G_{m+1}}}

    and a node hears F + G. A sweep updates all rows, then all columns. With chains along one axis
    the result is exact after one pass; with both, ``u + sum_product(u, ...)`` approximates the
    log-odds of the marginals. Where :math:`p_{00} p_{11} < 4 p_{01} p_{10} < 16 p_{00} p_{11}` on
    both axes, the fixed point is unique and sweeps converge to it without damping.

    log_odds:  u, (K, M) or (..., K, M) for a batch of grids, float32 or float64, in nats; infinite
               where a node is observed.
    row:       (p01, p10) along rows, between neighbours in the last dimension; p01 is the
               probability of a 1 after a 0, p10 of a 0 after a 1. None for no chains.
    column:    the same along columns, the dimension before. None for no chains.
    sweeps:    how many at most.
    damping:   delta in [0, 1): a message becomes (1 - delta) new + delta old, in log-odds.
    tolerance: stop when no message changes by more than this in a sweep, in nats.
    start:     the shape of ``log_odds``: messages along columns to start from
               (``Messages.column``); zero by default. Without effect for one axis.
    out:       the shape of ``log_odds``: a tensor to write the result to.

    Returns the shape and dtype of ``log_odds``; no gradient passes. On the CPU it is compiled and
    runs on as many threads as torch does; without damping or tolerance it takes no memory beyond
    the result but two buffers of 64 chains a thread. Elsewhere it is a loop in torch.

    Warns with LoopyRegimeWarning where both axes are coupled and one of them not within the bound.
    Raises ValueError on log-odds that are NaN, empty or without two dimensions, on probabilities
    less than 1e-9 away from 0 or 1, and on other arguments out of range; TypeError on another
    dtype.

    Source: Xia et al. (2023), eqs. 36 and 37; Kschischang et al. (2001).

    >>> import torch
    >>> u = torch.tensor([[4.0, 0.0, 0.0]])
    >>> sum_product(u, row=(0.1, 0.1))
    tensor([[0.0000, 2.0467, 1.4402]])
    """
    chains = _checked(log_odds, row, column, sweeps, damping, tolerance, start)
    _check_out(out, log_odds)
    log_odds = log_odds.detach().contiguous()
    result = torch.empty_like(log_odds) if out is None or not out.is_contiguous() else out
    if len(chains) == 1:
        chains[0].messages(log_odds, None, out=result)
    elif damping == 0 and tolerance is None:
        # Of what one axis says, nothing is needed once the other has heard it.
        heard = None if start is None else result.copy_(start)
        for sweep in range(sweeps):
            for chain in chains:
                last = sweep == sweeps - 1 and chain is chains[-1]
                chain.messages(log_odds, heard, out=result, add_heard=last)
                heard = result
    else:
        by_axis, _, _ = _iterate(log_odds, chains, sweeps, damping, tolerance, start)
        torch.add(*by_axis, out=result)
    return result if out is None or out is result else out.copy_(result)


@torch.no_grad()
def sum_product_messages(
    log_odds: Tensor,
    row: Pair | None,
    column: Pair | None = None,
    *,
    sweeps: int = 6,
    damping: float = 0.0,
    tolerance: float | None = None,
    start: Tensor | None = None,
) -> Messages:
    """``sum_product`` with an account of its convergence, and what a later call can start from.

    Arguments, warnings and errors are those of ``sum_product``. It takes the memory of three more
    tensors.

    >>> import torch
    >>> u = torch.tensor([[4.0, 0.0], [0.0, -2.0]])
    >>> found = sum_product_messages(u, (0.3, 0.4), (0.3, 0.4), sweeps=50, tolerance=1e-5)
    >>> found.residual <= 1e-5, found.sweeps < 50
    (True, True)
    """
    chains = _checked(log_odds, row, column, sweeps, damping, tolerance, start)
    log_odds = log_odds.detach().contiguous()
    if len(chains) == 1:
        result = torch.empty_like(log_odds)
        chains[0].messages(log_odds, None, out=result)
        return Messages(result, None, 0.0, 1)
    (by_row, by_column), residual, made = _iterate(
        log_odds, chains, sweeps, damping, tolerance, start
    )
    return Messages(by_row.add_(by_column), by_column, residual, made)


def _iterate(
    log_odds: Tensor,
    chains: list[_Chains],
    sweeps: int,
    damping: float,
    tolerance: float | None,
    start: Tensor | None,
) -> tuple[list[Tensor], float, int]:
    """The messages of both axes, the residual of the last sweep, and the number of sweeps."""
    by_axis = [torch.zeros_like(log_odds), torch.zeros_like(log_odds)]
    if start is not None:
        by_axis[1].copy_(start)
    new = torch.empty_like(log_odds)
    for made in range(1, sweeps + 1):  # noqa: B007
        residual = 0.0
        for chain, old, heard in zip(chains, by_axis, reversed(by_axis), strict=True):
            chain.messages(log_odds, heard, out=new)
            change = new.sub_(old)
            residual = max(residual, float(torch.linalg.vector_norm(change, math.inf)))
            old.add_(change, alpha=1 - damping)
        if tolerance is not None and residual <= tolerance:
            break
    return by_axis, residual, made


@dataclass(frozen=True)
class _Chains:
    """All chains along one axis: -1 for rows, -2 for columns."""

    dim: int
    transition: Transition

    def messages(
        self, log_odds: Tensor, heard: Tensor | None, *, out: Tensor, add_heard: bool = False
    ) -> None:
        if log_odds.is_cpu:
            # Here, because the compiler takes longer to import than many programs need.
            from pyrosparse.sum_product.kernels import chain_messages
        else:
            from pyrosparse.sum_product.scan import chain_messages
        chain_messages(log_odds, heard, self.transition, self.dim, out, add_heard=add_heard)


def _checked(
    log_odds: Tensor,
    row: Pair | None,
    column: Pair | None,
    sweeps: int,
    damping: float,
    tolerance: float | None,
    start: Tensor | None,
) -> list[_Chains]:
    """The chains that the arguments of ``sum_product`` name, rows before columns."""
    if log_odds.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"log_odds must be float32 or float64, got {log_odds.dtype}")
    if log_odds.dim() < 2 or not log_odds.numel():
        raise ValueError(
            "log_odds must have the shape (K, M) or (..., K, M) and not be empty, got "
            f"{tuple(log_odds.shape)}"
        )
    _refuse_nan("log_odds", log_odds)
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, got {sweeps}")
    if not 0 <= damping < 1:
        raise ValueError(f"damping must be in [0, 1), got {damping}")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0 nats or None, got {tolerance}")
    if start is not None:
        if (start.shape, start.dtype) != (log_odds.shape, log_odds.dtype):
            raise ValueError(
                f"start must be like log_odds, {tuple(log_odds.shape)} of {log_odds.dtype}, got "
                f"{tuple(start.shape)} of {start.dtype}"
            )
        _refuse_nan("start", start)
    chains = [
        _Chains(dim, Transition.of(name, pair))
        for name, pair, dim in (("row", row, -1), ("column", column, -2))
        if pair is not None
    ]
    if not chains:
        raise ValueError("row and column are both None: give (p01, p10) for at least one axis")
    couplings = [abs(chain.transition.coupling) for chain in chains]
    if len(chains) == 2 and min(couplings) > 1e-12 and max(couplings) >= math.log(4):
        warnings.warn(
            f"rows {row} and columns {column} are coupled beyond p00 p11 = 4 p01 p10 (or, where "
            "neighbours differ, p01 p10 = 4 p00 p11): there sum-product on a grid need not "
            "converge, nor to one answer; weaken the coupling, or use damping and look at the "
            "residual of sum_product_messages",
            LoopyRegimeWarning,
            stacklevel=4,
        )
    return chains


def _refuse_nan(name: str, values: Tensor) -> None:
    # Unlike isnan, this takes no memory: the least of numbers with NaN among them is NaN.
    if bool(values.amin().isnan()):
        raise ValueError(f"{name} holds NaN, expected log-odds, finite or infinite")


def _check_out(out: Tensor | None, log_odds: Tensor) -> None:
    if out is None:
        return
    if (out.shape, out.dtype, out.device) != (log_odds.shape, log_odds.dtype, log_odds.device):
        raise ValueError(
            f"out must be like log_odds, {tuple(log_odds.shape)} of {log_odds.dtype} on "
            f"{log_odds.device}, got {tuple(out.shape)} of {out.dtype} on {out.device}"
        )
    if out.untyped_storage().data_ptr() == log_odds.untyped_storage().data_ptr():
        raise ValueError("out must not share memory with log_odds, which every sweep reads")
