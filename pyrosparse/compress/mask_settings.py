"""The settings of training under drawn masks, and of what that is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyrosparse.errors import unknown_name
from pyrosparse.infer import Annealing, schedules
from pyrosparse.infer.schedules import Schedule
from pyrosparse.methods import Gibbs

if TYPE_CHECKING:
    from pyrosparse.compress.settings import Settings

_BETAS = {"weight": (0.7, 1e4), "kernel": (0.7, 1e4), "filter": (0.003, 1.0)}

_VARIANCE = 2 / 576
"""Of He's initial weights for 64 channels and 3 x 3 kernels: in a layer of this variance the values
by default are the same law, ``relative`` or not."""

RATES: dict[str, Schedule] = {
    # A tenth of the rate from epoch 80 of the paper's 200 on, and again every 40.
    "steps": schedules.steps(0.4, 0.6, 0.8),
    "cosine": schedules.cosine(0.01),
}


def gibbs(settings: Settings) -> Gibbs:
    """The method of the masks as the settings say.

    Raises ValueError on options out of range.

    >>> from pyrosparse.compress import Settings
    >>> gibbs(Settings(method="gibbs", structure="kernel")).coupling
    0.01
    """
    coupling = settings.coupling
    if coupling is None and settings.relative:
        coupling = Gibbs(structure=settings.structure).coupling / _VARIANCE
    return Gibbs(
        settings.sparsity,
        settings.structure,
        coupling,
        relative=settings.relative,
        final=settings.final,
        scale=1.0 if settings.scale is None else settings.scale,
    )


def annealing(settings: Settings) -> Annealing:
    """The callback that anneals the masks as the settings say.

    Raises ValueError on options out of range.

    >>> from pyrosparse.compress import Settings
    >>> annealing(Settings(method="gibbs")).schedule(1.0)
    10000.0
    """
    unit = _VARIANCE if settings.relative else 1.0
    start, end = (unit * beta for beta in _BETAS[settings.structure])
    schedule = schedules.logarithmic(
        start if settings.beta_start is None else settings.beta_start,
        end if settings.beta_end is None else settings.beta_end,
        until=settings.annealed,
    )
    return Annealing(schedule, per="step")


def check(settings: Settings) -> None:
    """Refuse options out of range."""
    if settings.rate_schedule not in RATES:
        raise unknown_name("rate_schedule", settings.rate_schedule, RATES)
    if not 0 < settings.annealed <= 1:
        raise ValueError(f"annealed is a share of training, in (0, 1], got {settings.annealed}")
    if settings.flip and settings.augment is False:
        raise ValueError("flip is a part of augment, which is off: leave one of the two out")
    gibbs(settings)
    annealing(settings)


def scale_for(n: int) -> float:
    """The standard deviation of the prior that is the weight decay of the authors' code, 1e-4 |w|^2
    beside the mean loss of n data.

    >>> round(scale_for(50_000), 3)
    0.316
    """
    return (2 * 1e-4 * n) ** -0.5
