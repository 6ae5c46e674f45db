"""Units go first and weights after them, each under messages, and what is left is trained long."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pyrosparse.recipes import shared
from pyrosparse.recipes.option import POSITIVE, Auto, Rule, option
from pyrosparse.recipes.stages import Pretraining, StartsTrained
from pyrosparse.recipes.turbo import has_units

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.infer.schedules import Schedule
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job
    from pyrosparse.recipes.split import Split
    from pyrosparse.supports import SupportPrior

# The units' stage: from the first of these shares of it until the second, layers lose units.
_UNITS = (0.1, 0.9)
_COUPLING = 0.3
_ACTIVE_OF_KEPT = 0.3
# The weights' stage: until the second share of it they go, and then the spike does.
_WEIGHTS = (0.05, 0.6)
_CONTRAST = (100.0, 1000.0)


@dataclass(frozen=True)
class TurboUnitsFirst(StartsTrained):
    """Prune whole units by message passing, then single weights (after Xia et al. 2023)."""

    name: ClassVar[str] = "turbo-units-first"
    knob: ClassVar[str] = "active"
    keeps_more: ClassVar[str] = "a higher --active"
    takes_more: ClassVar[str] = "a lower --active"
    pretrain: Auto[int] = option(
        shared.at_least(8, 1000), "epochs of pretraining; 0 for a trained network", within="0.."
    )
    unit_epochs: Auto[int] = option(
        shared.at_least(16, 2000), "epochs in which units are pruned", within="1.."
    )
    epochs: Auto[int] = option(
        shared.at_least(60, 4000),
        "epochs in which weights are pruned and then train without the spike",
        within="1..",
    )
    fine_tune: Auto[int] = option(
        shared.at_least(60, 4000),
        "epochs of fine-tuning the remaining weights, on the labels alone",
        within="0..",
    )
    batch_size: int = shared.batch_size(64)
    learning_rate: float = shared.learning_rate(5e-3)
    unit_rate: float = option(
        2e-3, "learning rate of Adam before and while units are pruned", within=POSITIVE
    )
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))
    kl_scale: float = option(
        0.15, "weight of the KL divergence while weights are pruned", within="[0, inf)"
    )
    unit_kl_scale: float = option(
        0.5, "weight of the KL divergence while units are pruned", within="[0, inf)"
    )
    active: float = option(
        0.02, "share of the weights that is active at the end", within="(0, 1)", share=True
    )
    unit_cost: float | Mapping[str, float] = option(
        1000.0, "evidence that a unit needs to stay, in nats; one number, or numbers by layer"
    )
    least_units: Auto[int | Mapping[str, int]] = option(
        Rule(
            f"of each layer's units the share sqrt(active / {_ACTIVE_OF_KEPT})",
            lambda recipe, net, data: _units_by_layer(recipe.active, net, data),
        ),
        "units that a layer keeps; one number, or numbers by layer",
        within="1..",
    )
    distillation: float = option(
        0.9,
        "share of the pretrained network, as a teacher, in the likelihood while units and weights"
        " are pruned",
        within="[0, 1]",
    )
    messages: bool = option(
        True, "exchange messages between neighbouring weights; otherwise supports are independent"
    )
    rates: Literal["common", "information"] = option(
        "information",
        "rates of slab and spike: the same for all weights (`common`), or scaled by the Fisher "
        "information of each (`information`)",
    )

    def pretrained(self, job: Job) -> None:
        if self.pretrain:
            options = {"epochs": self.pretrain, "learning_rate": self.unit_rate}
            job.stage(Pretraining.of(self.values() | options), Pretraining.name)
        job.keep()

    def train(self, job: Job) -> Lifted:
        self.pretrained(job)
        taught = self.taught(job)
        units = has_units(job)
        if units:
            self.take_units(taught)
        self.take_weights(taught, units)
        bnn = self.plain(job)
        if self.fine_tune:
            from pyrosparse.infer import schedules

            job.fit(
                bnn,
                stage="fine-tuning",
                epochs=self.fine_tune,
                learning_rate=self.learning_rate,
                schedule=schedules.cosine(0.01),
                seed=job.seed + 3,
            )
        return bnn

    def taught(self, job: Job) -> Job:
        """The same job with the likelihood that also imitates the trained network, where a datum
        has one class. Another likelihood, and that of a teacher of the user's, stay."""
        from pyrosparse.models import classifier
        from pyrosparse.recipes.named import Teacher

        model = job.model(job.net)
        one_class = isinstance(model, classifier) and job.data.batch[-1].dim() == 1
        if not self.distillation or not one_class:
            return job
        assert job.original is not None
        taught = copy.copy(job)
        taught.likelihood = Teacher(job.original, self.distillation, 2.0, model.output)
        return taught

    def take_units(self, job: Job) -> None:
        """Take units until each layer has ``least_units``; the weights of the others all stay."""
        from pyrosparse.lifting.lift import lift
        from pyrosparse.methods import GammaSpikeAndSlab
        from pyrosparse.prune import TurboPruner
        from pyrosparse.supports import UnitFactor

        prior = lift(job.net, GammaSpikeAndSlab(support=self.support(), contrast=_CONTRAST[0]))
        pruner = TurboPruner(
            units=UnitFactor(cost=self.unit_cost),
            active=lambda progress: _ACTIVE_OF_KEPT,
            strength=lambda progress: min(1.0, progress / _COUPLING),
            takes="units",
            prune_from=_UNITS[0],
            units_until=_UNITS[1],
            at_least=self.least_units,
        )
        job.fit(
            prior,
            stage="units",
            epochs=self.unit_epochs,
            learning_rate=self.unit_rate,
            kl_scale=self.unit_kl_scale,
            callbacks=[pruner],
        )

    def take_weights(self, job: Job, units: bool) -> None:
        """Take weights until ``active`` are left, then train these without the spike, along one
        rate schedule."""
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights
        from pyrosparse.methods import GammaSpikeAndSlab
        from pyrosparse.prune import TurboPruner
        from pyrosparse.supports import UnitFactor

        along = schedules.cosine(0.01)
        first = max(1, min(round(self.epochs * _WEIGHTS[1]), self.epochs - 1))
        end = first / self.epochs
        targets = weights(job.net)
        left = {one.key: job.net.get_parameter(one.key) != 0 for one in targets}
        kept = sum(int(mask.sum()) for mask in left.values())
        share = kept / sum(mask.numel() for mask in left.values())

        def prior(key: str) -> GammaSpikeAndSlab:
            # Where the prior starts; the first exchange places slab and spike for all at once.
            alive = float(left[key].float().mean())
            return GammaSpikeAndSlab(
                support=self.support(),
                contrast=_CONTRAST[0],
                inactive=1 - alive / 2,
                rates=self.rates,
            )

        bnn = lift(job.net, [(prior(one.key), [one]) for one in targets])
        bnn.freeze(left)
        ramp = schedules.cubic(end=1.0, start=_WEIGHTS[0] / end)
        pruner = TurboPruner(
            units=UnitFactor() if units else None,
            active=lambda at: share + (min(self.active, share) - share) * ramp(at),
            contrast=schedules.logarithmic(*_CONTRAST),
            strength=lambda progress: 0.0,
            takes="ranked",
            prune_from=_WEIGHTS[0],
            at_least=self.least_units,
        )
        job.fit(
            bnn,
            stage="weights",
            epochs=first,
            learning_rate=self.learning_rate,
            schedule=_part(along, 0.0, end),
            kl_scale=self.kl_scale,
            callbacks=[pruner],
            seed=job.seed + 1,
        )
        if first == self.epochs:
            return
        job.fit(
            self.plain(job),
            stage="settling",
            epochs=self.epochs - first,
            learning_rate=self.learning_rate,
            schedule=_part(along, end, 1.0),
            seed=job.seed + 2,
        )

    def support(self) -> SupportPrior:
        """Chains along rows and columns; of transitions of one half they say nothing."""
        from pyrosparse.supports import Grid

        pair = (0.4, 0.4) if self.messages else (0.5, 0.5)
        return Grid(pair, pair)

    def plain(self, job: Job) -> Lifted:
        """The network under the Gaussian prior alone, with all that is zero frozen."""
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights
        from pyrosparse.methods import Gaussian

        targets = weights(job.net)
        bnn = lift(job.net, Gaussian(scale=self.scale), targets)
        bnn.freeze({one.key: job.net.get_parameter(one.key) != 0 for one in targets})
        return bnn


def _units_by_layer(active: float, net: nn.Module, data: Split) -> int | dict[str, int]:
    """How many units each layer keeps, so that about ``_ACTIVE_OF_KEPT`` of the weights between
    kept units are active in the end; 1 where there are no units."""
    from pyrosparse.lifting.target import weights
    from pyrosparse.prune.turbo.ends import units_of

    try:
        size = units_of(net, weights(net), data.example).size
    except ValueError:  # training says why
        return 1
    share = min(1.0, math.sqrt(active / _ACTIVE_OF_KEPT))
    return {layer: math.ceil(share * units) for layer, units in size.items()}


def _part(schedule: Schedule, start: float, end: float) -> Schedule:
    """A piece of a schedule, stretched over all of a training."""
    return lambda progress: schedule(start + (end - start) * progress)
