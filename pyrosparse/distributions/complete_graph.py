r"""The Gibbs law of a mask in which every two elements of a block interact alike.

.. math:: p(m) \propto \exp\Big(\sum_i t_i m_i + J (M^2 - n)\Big), \qquad M = 2 k - n, \;
    k = \sum_i m_i

The coupling sees k alone, so that all is exact in O(n^2). Log odds t have the block in the first
dimension, (n, ...), in float64; J is a number or a tensor without dimensions, and the same in all
blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyrosparse.distributions import gibbs_ops
from pyrosparse.distributions.symmetric_polynomials import draw, draw_index, tables


def pair_sums(n: int, like: Tensor) -> Tensor:
    """M^2 - n for k = 0 ... n of n elements on, (n + 1, 1, ...) to broadcast to ``like``.

    >>> pair_sums(3, torch.zeros(3))
    tensor([ 6., -2., -2.,  6.])
    """
    k = torch.arange(n + 1, dtype=like.dtype, device=like.device)
    return ((2 * k - n) ** 2 - n).view(-1, *[1] * (like.dim() - 1))


def log_normalizer(t: Tensor, coupling: float | Tensor) -> Tensor:
    """The log of the sum of the weights of all 2^n states, (...).

    >>> float(log_normalizer(torch.zeros(3), 0.0).exp())
    8.0
    """
    return torch.logsumexp(_log_weights(tables(t), coupling), 0)


def log_weight(m: Tensor, t: Tensor, coupling: float | Tensor) -> Tensor:
    """The log of the weight of states m in {0, 1}; m (*shape, ..., n) -> (*shape, ...).

    >>> log_weight(torch.ones(2, 3), torch.ones(3), 1.0)
    tensor([9., 9.])
    """
    magnetisation = 2 * m.sum(-1) - len(t)
    return (m * t.movedim(0, -1)).sum(-1) + coupling * (magnetisation**2 - len(t))


def marginals(t: Tensor, coupling: float | Tensor) -> Tensor:
    r"""P(m_i = 1), the gradient of the log normaliser with respect to t; (n, ...), detached.

    >>> marginals(torch.zeros(3), 1.0)
    tensor([0.5000, 0.5000, 0.5000])
    """
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_normalizer(t, coupling).sum(), t)
    return gradient


def mode(t: Tensor, coupling: float | Tensor) -> Tensor:
    """The most probable state, booleans (n, ...): of k on, the k of largest t are best.

    >>> mode(torch.tensor([3.0, -1.0, -1.5]), 1.0)
    tensor([True, True, True])
    """
    values, order = t.sort(0, descending=True)
    sums = torch.cat([torch.zeros_like(t[:1]), values.cumsum(0)])
    count = (sums + coupling * pair_sums(len(t), t)).argmax(0, keepdim=True)
    place = torch.arange(len(t), device=t.device).view(-1, *[1] * (t.dim() - 1))
    return torch.zeros_like(t, dtype=torch.bool).scatter(0, order, place < count)


def sample(t: Tensor, coupling: float | Tensor, shape: torch.Size) -> Tensor:
    """Draw states, booleans (n, *shape, ...): how many are on, and then which.

    On a CPU by the compiled loops of ``gibbs_ops``, which give the same states as the tables here.

    >>> sample(torch.tensor([0.0, 1e6, -1e6]), 0.0, torch.Size())[1:]
    tensor([ True, False])
    """
    n, *batch = t.shape
    full = (*shape, *batch)
    uniforms = torch.rand((*full, n + 1), dtype=torch.float64, device=t.device)
    if t.is_cpu:
        blocks = t.movedim(0, -1).expand(*full, n).reshape(-1, n)
        strength = torch.as_tensor(coupling, dtype=torch.float64)
        drawn = gibbs_ops.complete_graph(blocks, strength, uniforms.view(-1, n + 1))
        return drawn.view(*full, n).movedim(-1, 0)
    return sample_by_tables(t, coupling, uniforms.movedim(-1, 0))


def sample_by_tables(t: Tensor, coupling: float | Tensor, uniforms: Tensor) -> Tensor:
    """Draw states, booleans (n, *shape, ...), by uniform numbers in [0, 1), (n + 1, *shape, ...).

    >>> sample_by_tables(torch.tensor([0.0, 9.0]), 0.0, torch.tensor([0.4, 0.5, 0.6]))
    tensor([True, True])
    """
    shape = uniforms.shape[1 : uniforms.dim() - t.dim() + 1]
    rows = [repeated(row, shape) for row in tables(t)]
    count = draw_index(_log_weights(rows, coupling), uniforms[-1])
    return draw(rows, repeated(t, shape), count, uniforms[:-1])


def _log_weights(rows: list[Tensor], coupling: float | Tensor) -> Tensor:
    """The log weights of k = 0 ... n elements on."""
    return rows[-1] + coupling * pair_sums(len(rows) - 1, rows[-1])


def repeated(tensor: Tensor, shape: torch.Size) -> Tensor:
    """(k, ...) -> (k, *shape, ...), without a copy."""
    if not shape:
        return tensor
    first, *rest = tensor.shape
    return tensor.view(first, *[1] * len(shape), *rest).expand(first, *shape, *rest)
