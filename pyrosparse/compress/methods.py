"""What the settings make of a method: the callback that prunes, or the gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyrosparse.infer import schedules
from pyrosparse.methods import BetaBernoulli
from pyrosparse.prune import BayesFactorPruner, Pruner, ReductionPruner

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
