"""Messages along chains by a loop over their nodes, in torch: any device."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrosparse.sum_product.transition import Transition


def forward(x: Tensor, transition: Transition) -> Tensor:
    r"""The message from a node to the next, log-odds of any shape.

    .. math:: f(x) = \ln \frac{p_{01} + p_{11} e^x}{p_{00} + p_{10} e^x}

    x: log-odds of the node with all that it has heard, infinite ones included.
    """
    return _log_ratio(x, transition.p01, transition.p11, transition.p00, transition.p10)


def backward(x: Tensor, transition: Transition) -> Tensor:
    r"""The message from a node to the one before it, log-odds of any shape.

    .. math:: f(x) = \ln \frac{p_{10} + p_{11} e^x}{p_{00} + p_{01} e^x}
    """
    return _log_ratio(x, transition.p10, transition.p11, transition.p00, transition.p01)


def _log_ratio(x: Tensor, a: float, b: float, c: float, d: float) -> Tensor:
    # Divided by 1 + e^x, so that nothing overflows; all terms are positive, so nothing cancels.
    zero, one = torch.sigmoid(-x), torch.sigmoid(x)
    return (a * zero + b * one).log() - (c * zero + d * one).log()


def chain_messages(
    log_odds: Tensor,
    heard: Tensor | None,
    transition: Transition,
    dim: int,
    out: Tensor,
    *,
    add_heard: bool = False,
) -> None:
    """Write the messages that every node gets from its chain, the chains along one dimension.

    log_odds:  (..., K, M), of each node alone.
    heard:     the same shape: what each node has heard from elsewhere; None for nothing.
    dim:       -1 for chains along rows, -2 along columns.
    out:       the same shape; it may be ``heard``. With ``add_heard`` what was heard is added.
    """
    node = (log_odds if heard is None else log_odds + heard).movedim(dim, 0).contiguous()
    length = len(node)
    total = torch.empty_like(node)
    message = torch.full_like(node[0], transition.start)
    for i in range(length):
        total[i] = message
        if i + 1 < length:
            message = forward(node[i] + message, transition)
    message = torch.zeros_like(message)
    for i in range(length - 1, 0, -1):
        message = backward(node[i] + message, transition)
        total[i - 1] += message
    total = total.movedim(0, dim)
    if heard is not None and add_heard:
        torch.add(total, heard, out=out)
    else:
        out.copy_(total)
