"""Elementary symmetric polynomials of positive numbers, in log space: the law of how many are on.

The numbers are odds r_i = exp(t_i) of n independent switches. The polynomial

    e_k(r) = sum over subsets S of size k of prod_{i in S} r_i

is the weight of all states with k switches on, and a state of given k is drawn from the tables of
the first i switches, i = 1 ... n, by going backwards. O(n^2) for all k.

Tensors have the switches in the first dimension, so that what runs side by side is contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor


def tables(log_odds: Tensor) -> list[Tensor]:
    r"""log e_k of the first i numbers, for every i.

    .. math:: e_k(r_1 \dots r_i) = e_k(r_1 \dots r_{i-1}) + r_i \, e_{k-1}(r_1 \dots r_{i-1})

    log_odds: t = log r, (n, ...), floating and finite.

    Returns n + 1 tensors; the i-th, i = 0 ... n, is (i + 1, ...): k = 0 ... i.

    >>> import torch
    >>> tables(torch.tensor([1.0, 2.0, 3.0]).log())[3].exp().round()
    tensor([ 1.,  6., 11.,  6.])
    """
    row = log_odds.new_zeros((1, *log_odds.shape[1:]))
    rows = [row]
    for one in log_odds:
        with_it = row + one
        # No k is impossible in what is added, so that there is no infinity to take a gradient of.
        both = torch.logaddexp(row[1:], with_it[:-1])
        row = torch.cat([row[:1], both, with_it[-1:]])
        rows.append(row)
    return rows


def draw(rows: list[Tensor], log_odds: Tensor, count: Tensor, uniforms: Tensor) -> Tensor:
    r"""Draw which switches are on, given how many.

    .. math:: P(x_i = 1 \mid k \text{ left among the first } i)
        = r_i \, \frac{e_{k-1}(r_1 \dots r_{i-1})}{e_k(r_1 \dots r_i)}

    rows:     of ``tables(log_odds)``.
    log_odds: (n, ...).
    count:    k, int64, (...).
    uniforms: in [0, 1), (n, ...), in the dtype of the log odds.

    Returns booleans, (n, ...), with exactly ``count`` on.

    >>> import torch
    >>> t = torch.zeros(3, 2)
    >>> draw(tables(t), t, torch.tensor([3, 1]), torch.rand(3, 2)).sum(0)
    tensor([3, 1])
    """
    left = count.unsqueeze(0)
    states = []
    for i in range(len(log_odds), 0, -1):
        less = (left - 1).clamp_(0, i - 1)
        log_p = rows[i - 1].gather(0, less) + log_odds[i - 1] - rows[i].gather(0, left)
        on = uniforms[i - 1] < log_p.exp()
        # Certain, whatever rounding says: none are left, or as many as there are places.
        on = (on & (left > 0)) | (left == i)
        left = left - on.long()
        states.append(on)
    return torch.cat(states[::-1]) if states else torch.empty_like(uniforms, dtype=torch.bool)


def draw_index(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw an index of the first dimension with probabilities in proportion to the weights.

    log_weights: (k, ...); uniforms: in [0, 1), (...), of the same dtype. Returns int64, (...).

    >>> import torch
    >>> draw_index(torch.tensor([0.0, 0.0, -1e6]), torch.tensor(0.7))
    tensor(1)
    """
    cumulative = log_weights.softmax(0).cumsum(0)
    return (cumulative[:-1] <= uniforms * cumulative[-1]).sum(0)
