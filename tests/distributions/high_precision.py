"""Textbook formulas in as many digits as they need: what numbers of a computer are judged by.

With enough digits (100 where 1 - pi is 1e-100) nothing underflows or cancels, so that the
formulas can be written down as in the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext


def precise(digits: float) -> localcontext:
    return localcontext(Context(prec=60 + math.ceil(digits), Emax=MAX_EMAX, Emin=MIN_EMIN))


def derivative(function: Callable[[Decimal], Decimal], at: Decimal) -> Decimal:
    """The central difference, right to 40 digits."""
    step = Decimal("1e-25") * (abs(at) or 1)
    return (function(at + step) - function(at - step)) / (2 * step)


def logit(p: Decimal) -> Decimal:
    return (p / (1 - p)).ln()


def kumaraswamy_quantile(probability: Decimal, a: Decimal, b: Decimal) -> Decimal:
    """Lee et al. (2019), eq. 14, with u = 1 - probability."""
    u = 1 - probability
    return (1 - u ** (1 / b)) ** (1 / a)


def kumaraswamy_log_density(pi: Decimal, a: Decimal, b: Decimal) -> Decimal:
    """Lee et al. (2019), eq. 13."""
    return (a * b * pi ** (a - 1) * (1 - pi**a) ** (b - 1)).ln()


def kumaraswamy_logit_gradient(
    probability: float, log_a: float, log_b: float
) -> tuple[float, float]:
    """The gradient of a draw's log odds with respect to log a and log b."""
    p, x, y = (Decimal(number) for number in (probability, log_a, log_b))

    def by(log_a: Decimal, log_b: Decimal) -> Decimal:
        return logit(kumaraswamy_quantile(p, log_a.exp(), log_b.exp()))

    return (
        float(derivative(lambda varied: by(varied, y), x)),
        float(derivative(lambda varied: by(x, varied), y)),
    )
