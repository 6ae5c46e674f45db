"""Convergence of the ELBO: does it still rise?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ElboTrace:
    """The ELBO by epoch or step, and whether it still rises.

    elbo:           the values tested, (steps,) float64, nats.
    gain:           the mean of the last quarter minus the mean of the quarter before, nats.
    standard_error: the standard error of the gain, nats.
    """

    elbo: Tensor
    gain: float
    standard_error: float

    @property
    def z(self) -> float:
        """The gain in standard errors; 0 if the gain is 0."""
        if not self.gain:
            return 0.0
        return self.gain / self.standard_error if self.standard_error else math.inf * self.gain

    @property
    def converged(self) -> bool:
        """Whether the gain is less than two standard errors."""
        return self.z < 2

    def __repr__(self) -> str:
        state = "has stopped rising" if self.converged else "still rises"
        return (
            f"ElboTrace of {len(self.elbo)} values: the ELBO {state}, by {self.gain:.3g} +- "
            f"{self.standard_error:.2g} nats from one quarter to the last"
        )


def elbo_trace(history: Sequence[Mapping[str, Any]] | Sequence[float]) -> ElboTrace:
    r"""Test whether the ELBO still rises: Geweke's comparison of two windows of the trace.

    .. math::
        z = \frac{\bar e_{\text{last quarter}} - \bar e_{\text{quarter before}}}
                 {\sqrt{v_1 / m_1 + v_2 / m_2}}

    with the variances v and effective sizes m of the two windows, so that a slowly wandering trace
    is not mistaken for a stationary one. For long converged traces z is standard normal; below 2
    the trace counts as converged. An ELBO that has stopped rising need not be high, and another
    start may reach another value.

    history: ``Fit.history``, or losses (negative ELBOs), one for each step. In a history only the
             last epochs with the same ``kl_scale`` count, as the others maximise another objective.

    Raises ValueError if there are fewer than 40 values, or one is not finite.

    Source: Geweke (1992), "Evaluating the accuracy of sampling-based approaches to the calculation
    of posterior moments", section 3.2; the windows are ours.

    >>> losses = [100 * 0.97**step + step % 3 for step in range(400)]
    >>> elbo_trace(losses).converged, elbo_trace(losses[:80]).converged
    (True, False)
    """
    # Here, not at the top: arviz_stats takes as long to import as pyrosparse.
    from arviz_stats.base import array_stats

    values = torch.tensor([-loss for loss in _losses(history)], dtype=torch.float64)
    if len(values) < 40:
        raise ValueError(
            f"there are {len(values)} values of one objective, but the test needs 40 epochs or "
            "steps: train for longer"
        )
    if not values.isfinite().all():
        raise ValueError(f"{int((~values.isfinite()).sum())} of the losses are not finite")
    quarter = len(values) // 4
    means, errors = [], []
    for window in (values[-2 * quarter : -quarter], values[-quarter:]):
        size = float(array_stats.ess(window.numpy()[None], method="mean"))
        means.append(float(window.mean()))
        errors.append(float(window.var()) / size)
    return ElboTrace(values, means[1] - means[0], math.sqrt(sum(errors)))


def _losses(history: Sequence[Any]) -> list[float]:
    if not history or not isinstance(history[0], Mapping):
        return [float(loss) for loss in history]
    scale = history[-1].get("kl_scale")
    losses: list[float] = []
    for entry in reversed(history):
        if entry.get("kl_scale") != scale:
            break
        losses.append(float(entry["loss"]))
    return losses[::-1]
