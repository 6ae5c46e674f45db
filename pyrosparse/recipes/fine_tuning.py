"""What a recipe left of a network trains on, and what is zero stays zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pyrosparse.recipes.stages import Pretraining

if TYPE_CHECKING:
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job


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
