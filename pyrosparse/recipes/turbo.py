"""A trained network, its weights taken in clusters by messages, and what is left fine-tuned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pyrosparse.recipes import shared
from pyrosparse.recipes.option import Auto, option
from pyrosparse.recipes.stages import StartsTrained

if TYPE_CHECKING:
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job

# The path, in shares of training: the support shrinks until the first, the unit factor grows until
# the second, and nothing is taken for good before the third.
_SHRINKING, _COUPLING, _PRUNING = 0.75, 0.3, 0.1
_AT_FIRST = 0.12
_CONTRAST = (100.0, 1000.0)
_EXCHANGES = 40


@dataclass(frozen=True)
class IndependentSupport(StartsTrained):
    """Prune single weights as turbo-vbi does, with a prior that has no clusters."""

    name: ClassVar[str] = "independent-support"
    knob: ClassVar[str] = "active"
    keeps_more: ClassVar[str] = "a higher --active"
    takes_more: ClassVar[str] = "a lower --active"
    pair: ClassVar[tuple[float, float]] = (0.3, 0.7)
    epochs: Auto[int] = shared.epochs(shared.at_least(40, 4000))
    batch_size: int = shared.batch_size(128)
    learning_rate: float = shared.learning_rate(1.5e-3)
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))
    kl_scale: Auto[float] = shared.kl_scale()
    active: float = option(
        0.02, "share of the weights that is active at the end", within="(0, 1)", share=True
    )
    fine_tune: Auto[int] = option(
        shared.at_least(30, 2000),
        "epochs of fine-tuning the remaining weights, without the spike",
        within="0..",
    )

    def turbo(self, **units: Any) -> Any:
        """The callback that exchanges messages and prunes."""
        from pyrosparse.infer import schedules
        from pyrosparse.prune import TurboPruner

        return TurboPruner(
            active=schedules.logarithmic(
                max(_AT_FIRST, self.active), self.active, until=_SHRINKING
            ),
            contrast=schedules.logarithmic(*_CONTRAST, until=_SHRINKING),
            strength=lambda progress: min(1.0, progress / _COUPLING),
            prune_from=_PRUNING,
            every=max(1, self.epochs // _EXCHANGES),
            **units,
        )

    def train(self, job: Job) -> Lifted:
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights
        from pyrosparse.methods import GammaSpikeAndSlab, Gaussian
        from pyrosparse.supports import Grid

        net = job.net
        turbo = self.turbo()
        if turbo.units is not None and not has_units(job):
            turbo = IndependentSupport.turbo(self)
        self.pretrained(job)
        # Slab and spike lie where the weights are now.
        prior = lift(
            net, GammaSpikeAndSlab(support=Grid(self.pair, self.pair), contrast=_CONTRAST[0])
        )
        job.fit(
            prior,
            stage="support",
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            kl_scale=self.kl_scale,
            callbacks=[turbo],
        )
        # What is left is fine-tuned as it was pretrained: the spike has nothing more to take.
        bnn = lift(net, Gaussian(scale=self.scale), weights(net))
        bnn.freeze({target.key: net.get_parameter(target.key) != 0 for target in prior.targets})
        if self.fine_tune:
            job.fit(
                bnn,
                stage="fine-tuning",
                epochs=self.fine_tune,
                learning_rate=self.learning_rate,
                schedule=schedules.cosine(0.01),
                seed=job.seed + 1,
            )
        return bnn


@dataclass(frozen=True)
class TurboVBI(IndependentSupport):
    """Prune clusters of weights and whole units by message passing (Xia et al. 2023)."""

    name: ClassVar[str] = "turbo-vbi"
    pair: ClassVar[tuple[float, float]] = (0.4, 0.4)
    unit_cost: float | Mapping[str, float] = option(
        0.0, "evidence that a unit needs to stay, in nats; one number, or numbers by layer"
    )
    least_units: int | Mapping[str, int] = option(
        4, "least number of units in a layer; one number, or numbers by layer", within="1.."
    )

    def turbo(self, **units: Any) -> Any:
        from pyrosparse.supports import UnitFactor

        return super().turbo(units=UnitFactor(cost=self.unit_cost), at_least=self.least_units)


def has_units(job: Job) -> bool:
    """Whether messages can pass from the weights of a layer to those of the next, through the units
    between them. Warns where they cannot: single weights go all the same."""
    from pyrosparse.lifting.target import weights
    from pyrosparse.prune.turbo.ends import units_of

    try:
        units_of(job.net, weights(job.net), job.data.example)
    except ValueError as error:
        warnings.warn(
            f"{job.recipe.name} prunes single weights only, and no units: "
            f"{str(error).removesuffix(': leave out `units`')}",
            stacklevel=2,
        )
        return False
    return True
