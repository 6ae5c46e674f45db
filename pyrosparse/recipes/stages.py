"""Stages that several recipes have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pyrosparse.recipes import shared
from pyrosparse.recipes.option import Auto, Rule, option
from pyrosparse.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class Pretraining(Recipe):
    """Train under the Gaussian prior alone."""

    name: ClassVar[str] = "pretraining"
    epochs: int = shared.epochs(20)
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(2e-3)
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))

    def train(self, job: Job) -> Lifted:
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.lift import lift
        from pyrosparse.methods import Gaussian

        bnn = lift(job.net, Gaussian(scale=self.scale))
        job.fit(
            bnn,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            schedule=schedules.cosine(0.01),
        )
        return bnn


@dataclass(frozen=True)
class FineTuning(Pretraining):
    """Train on what is left under the Gaussian prior alone; weights that are zero stay zero.

    others: names of parameters that are no weights of layers and whose zeros stay as well, such as
            scales of normalisations.
    """

    name: ClassVar[str] = "fine-tuning"
    others: Sequence[str] = ()

    def values(self) -> dict[str, Any]:
        return super().values() | {"others": list(self.others)}

    def train(self, job: Job) -> Lifted:
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights
        from pyrosparse.methods import Gaussian

        net = job.net
        targets = weights(net)
        more = set(self.others) - {target.name for target in targets}
        targets += weights(net, sorted(more)) if more else []
        bnn = lift(net, Gaussian(scale=self.scale), targets)
        bnn.freeze({target.key: net.get_parameter(target.name) != 0 for target in targets})
        job.fit(
            bnn,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            schedule=schedules.cosine(0.01),
            seed=job.seed + 1,
        )
        return bnn


def fine_tuned(job: Job, bnn: Lifted) -> Lifted:
    """Train on what the recipe of a job left of its network, for ``fine_tune`` epochs and with the
    recipe's rate, batches and prior on the weights; returns the posterior of that.

    Gains of gates are folded into the weights first: what is fine-tuned is an ordinary network.

    Raises ValueError where gates depend on the input, which no weights can hold.
    """
    from pyrosparse.compaction.masked import masked

    recipe = job.recipe
    if bnn.gates():
        raise ValueError(
            f"{recipe.name} leaves gates that depend on the input, which cannot be fine-tuned as "
            "an ordinary network: set fine_tune to 0, and give its own stages more epochs"
        )
    if any(target.kind != "weight" for target in bnn.targets):
        job.net = masked(job.net, bnn.masks())
    left = [target.name for target in bnn.targets if target.kind == "weight"]
    parameters = dict(job.net.named_parameters())
    stage = FineTuning.of(recipe.values() | {"epochs": recipe.fine_tune, "fine_tune": 0})
    stage = replace(stage, others=tuple(name for name in left if name in parameters))
    return job.stage(stage, FineTuning.name)


@dataclass(frozen=True)
class StartsTrained(Recipe):
    """A recipe that begins with a trained network.

    pretrain: 0 says that it is trained already.
    """

    pretrain: Auto[int] = option(
        shared.at_least(20, 1000), "epochs before; 0 where the network is trained", within="0.."
    )

    def pretrained(self, job: Job) -> None:
        """Train the network of a job, unless it is trained; it is kept as it is then."""
        if self.pretrain:
            values = self.values() | {"epochs": self.pretrain, "fine_tune": 0}
            job.stage(Pretraining.of(values), Pretraining.name)
        job.keep()


def begins_trained(recipe: Recipe) -> Recipe:
    """The recipe for a network that is trained already: without pretraining of its own.

    Raises ValueError where it says how long it pretrains.

    >>> from pyrosparse.recipes import BetaBernoulli
    >>> begins_trained(BetaBernoulli()).pretrain
    0
    """
    if not isinstance(recipe, StartsTrained):
        return recipe
    if not isinstance(recipe.pretrain, Rule) and recipe.pretrain:
        raise ValueError(
            f"{recipe.name} pretrains for {recipe.pretrain} epochs a network that is trained "
            "already: leave pretrain out, or the start"
        )
    return replace(recipe, pretrain=0)
