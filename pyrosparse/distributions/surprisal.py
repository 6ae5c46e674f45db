"""Probabilities too close to 0 or 1 for a number: their surprisals, and the logs of those.

The surprisal of an event of probability p is w = -log p, in nats. Its opposite has
y = -log(1 - p), and the two are tied by exp(-w) + exp(-y) = 1: where one is huge, the other is
exponentially small and underflows. So one of the two is carried as its logarithm, which reaches
from p = exp(-1e300) to p = 1 - exp(-1e300).

Each function here has one formula on either side of p = 1/2. Both are computed, the one that is
not used at a harmless argument. Their derivatives are ratios of which both parts underflow
together: both are then the smallest number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from pyrosparse.distributions.elementwise import elementwise

_LOG_2 = math.log(2.0)


def log_surprisal_of_opposite(surprisal: Tensor) -> Tensor:
    r"""The log of the surprisal of the opposite event.

    .. math:: \lambda = \log(-\log(1 - e^{-y}))

    surprisal: y > 0 in nats, any shape and floating dtype.

    >>> import torch
    >>> log_surprisal_of_opposite(torch.tensor([1e-30, 1e5]))
    tensor([ 4.2352e+00, -1.0000e+05])
    """
    return elementwise(_log_surprisal_of_opposite, _its_derivative, surprisal)


def _log_surprisal_of_opposite(surprisal: Tensor) -> Tensor:
    is_small = surprisal < _LOG_2
    small = torch.where(is_small, surprisal, _LOG_2)
    large = torch.where(is_small, _LOG_2, surprisal)
    likely = torch.log(-torch.log(-torch.expm1(-small)))
    # For large y the inner logarithm is exp(-y) times nearly 1: the exponent is taken out before
    # it underflows.
    p = _not_zero(torch.exp(-large))
    unlikely = torch.log(-torch.log1p(-p) / p) - large
    return torch.where(is_small, likely, unlikely)


def _its_derivative(surprisal: Tensor, _value: Tensor) -> tuple[Tensor]:
    r""":math:`\lambda'(y) = p / ((1 - p) \log(1 - p))`, with :math:`p = e^{-y}`."""
    p, minus_q = _not_zero(torch.exp(-surprisal)), torch.expm1(-surprisal)
    log_q = torch.where(surprisal < _LOG_2, torch.log(-minus_q), torch.log1p(-p))
    return (-p / (minus_q * log_q),)


def surprisal_of_opposite(log_surprisal: Tensor) -> Tensor:
    r"""The surprisal of the opposite event, from the log of the event's own.

    .. math:: y = -\log(1 - \exp(-e^\lambda))

    The inverse of ``log_surprisal_of_opposite``.

    log_surprisal: lambda, the log of nats; any shape and floating dtype.

    >>> import torch
    >>> surprisal_of_opposite(torch.tensor([-1e5, 0.0, 4.0]))
    tensor([1.0000e+05, 4.5868e-01, 1.9423e-24])
    """
    return elementwise(_surprisal_of_opposite, _derivative_of_opposite, log_surprisal)


def _surprisal_of_opposite(log_surprisal: Tensor) -> Tensor:
    surprisal = log_surprisal.exp()
    is_small = surprisal < _LOG_2
    small = torch.where(is_small, _not_zero(surprisal), _LOG_2)
    large = torch.where(is_small, _LOG_2, surprisal)
    likely = -log_surprisal - torch.log(-torch.expm1(-small) / small)
    unlikely = -torch.log1p(-torch.exp(-large))
    return torch.where(is_small, likely, unlikely)


def _derivative_of_opposite(log_surprisal: Tensor, _opposite: Tensor) -> tuple[Tensor]:
    r""":math:`y'(\lambda) = -w / (e^w - 1)`, with :math:`w = e^\lambda`."""
    numbers = torch.finfo(log_surprisal.dtype)
    w = log_surprisal.exp().clamp(numbers.tiny, numbers.max)
    return (-w / torch.expm1(w),)


def logit_of_log_surprisal(log_surprisal: Tensor) -> Tensor:
    r"""The log odds of an event from the log of its surprisal.

    .. math:: \operatorname{logit} p = -e^\lambda - \log(1 - \exp(-e^\lambda))

    log_surprisal: lambda, the log of nats; any shape and floating dtype.

    >>> import torch
    >>> logit_of_log_surprisal(torch.tensor([-1e5, 10.0]))
    tensor([100000.0000, -22026.4648])
    """
    return surprisal_of_opposite(log_surprisal) - log_surprisal.exp()


def log_surprisal_of_logit(logit: Tensor) -> Tensor:
    r"""The log of an event's surprisal from its log odds.

    .. math:: \lambda = \log \log(1 + e^{-\ell})

    The inverse of ``logit_of_log_surprisal``.

    logit: the log odds, any shape and floating dtype.

    >>> import torch
    >>> log_surprisal_of_logit(torch.tensor([1e5, 0.0, -1e5]))
    tensor([-1.0000e+05, -3.6651e-01,  1.1513e+01])
    """
    return elementwise(_log_surprisal_of_logit, _derivative_by_logit, logit)


def _log_surprisal_of_logit(logit: Tensor) -> Tensor:
    is_likely = logit > 0
    positive = torch.where(is_likely, logit, 0.0)
    negative = torch.where(is_likely, 0.0, logit)
    odds_against = _not_zero(torch.exp(-positive))
    likely = torch.log(torch.log1p(odds_against) / odds_against) - positive
    unlikely = torch.log(torch.log1p(torch.exp(negative)) - negative)
    return torch.where(is_likely, likely, unlikely)


def _derivative_by_logit(logit: Tensor, _value: Tensor) -> tuple[Tensor]:
    r""":math:`\lambda'(\ell) = -(1 - p) / \log(1 + e^{-\ell})`."""
    surprisal = functional.softplus(-logit, threshold=80)
    return (-_not_zero(torch.sigmoid(-logit)) / _not_zero(surprisal),)


def _not_zero(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)
