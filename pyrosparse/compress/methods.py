"""What the settings make of a method: the callback that prunes, or the gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyrosparse.infer import Turbo, schedules
from pyrosparse.methods import BetaBernoulli, SupportMRF
from pyrosparse.prune import BayesFactorPruner, Pruner, ReductionPruner
from pyrosparse.supports import Grid, UnitFactor

if TYPE_CHECKING:
    from pyrosparse.compress.settings import Settings


def pruner(settings: Settings) -> Pruner | None:
    """The callback that prunes as the settings say; None for the unpruned network.

    Raises ValueError on options out of range.

    >>> from pyrosparse.compress import Settings
    >>> pruner(Settings(method="none")) is None
    True
    """
    if settings.method == "none":
        return None
    if not 0 <= settings.ramp <= 1:
        raise ValueError(f"ramp is a share of training, in [0, 1], got {settings.ramp}")
    ramp = schedules.cubic(end=settings.ramp) if settings.ramp > 0 else schedules.constant
    criterion = settings.method.removeprefix("bayesian-")
    if criterion == settings.method:
        return Pruner(criterion, settings.sparsity, ramp=ramp, freeze=settings.freeze)
    return BayesFactorPruner(
        criterion,
        settings.sparsity,
        threshold=settings.threshold,
        likelihood=settings.likelihood,
        per_datum=settings.per_datum,
        ramp=ramp,
        freeze=settings.freeze,
    )


def reduction_pruner(settings: Settings) -> ReductionPruner | None:
    """The callback that prunes by model reduction as the settings say; None for the unpruned
    network.

    Raises ValueError on options out of range.

    >>> from pyrosparse.compress import Settings
    >>> reduction_pruner(Settings(method="mean-field")) is None
    True
    """
    pruner = ReductionPruner(
        fraction=settings.fraction,
        rows=settings.rows,
        warmup=settings.warmup or 0,
        # Where there are many short epochs, some lie between two batches.
        every=max(1, (settings.epochs or 0) // 30),
        draws=64,
        subset=5000,
    )
    return pruner if settings.method == "model-reduction" else None


def beta_bernoulli(settings: Settings) -> BetaBernoulli:
    """The method of the gates as the settings say.

    Raises ValueError on options out of range.

    >>> from pyrosparse.compress import Settings
    >>> beta_bernoulli(Settings(kl_scale=4)).kl_scale
    4
    """
    return BetaBernoulli(
        temperature=settings.temperature,
        kl_scale=settings.kl_scale,
        pi=settings.pi,
        initial=settings.initial,
    )


# The path of Turbo-VBI, in shares of training: the support shrinks until the first, the unit factor
# grows until the second, and nothing is taken for good before the third.
_SHRINKING, _COUPLING, _PRUNING = 0.75, 0.3, 0.1
_AT_FIRST = 0.12
_CONTRAST = (100.0, 1000.0)
_EXCHANGES = 40


def support_prior(settings: Settings) -> SupportMRF:
    """The method of Turbo-VBI as the settings say: with messages between weights, or none.

    >>> from pyrosparse.compress import Settings
    >>> support_prior(Settings(method="independent-support")).support.row
    (0.3, 0.7)
    """
    coupled = settings.method == "turbo-vbi"
    pair = (0.4, 0.4) if coupled else (0.3, 0.7)
    return SupportMRF(support=Grid(pair, pair), contrast=_CONTRAST[0])


def turbo(settings: Settings) -> Turbo:
    """The callback that exchanges messages and prunes, as the settings say.

    Raises ValueError on options out of range.

    >>> from pyrosparse.compress import Settings
    >>> turbo(Settings(method="turbo-vbi", least_units=3)).at_least
    3
    """
    if not 0 < settings.active < 1:
        raise ValueError(f"active is a share of the weights, in (0, 1), got {settings.active}")
    if isinstance(settings.kl_scale, Mapping):
        raise ValueError(f"{settings.method} takes one kl_scale for all, got {settings.kl_scale}")
    coupled = settings.method == "turbo-vbi"
    return Turbo(
        units=UnitFactor(cost=settings.unit_cost) if coupled else None,
        active=schedules.logarithmic(max(_AT_FIRST, settings.active), settings.active, _SHRINKING),
        contrast=schedules.logarithmic(*_CONTRAST, _SHRINKING),
        strength=lambda progress: min(1.0, progress / _COUPLING),
        prune_from=_PRUNING,
        every=max(1, (settings.epochs or 1) // _EXCHANGES),
        at_least=settings.least_units if coupled else 1,
    )
