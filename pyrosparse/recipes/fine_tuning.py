"""What a recipe left of a network trains on, and what is zero stays zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pyrosparse.recipes.stages import Pretraining

if TYPE_CHECKING:
    from torch import Tensor

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
        return train_what_is_left(
            job,
            {name: job.net.get_parameter(name) != 0 for name in self.others},
            scale=self.scale,  # type: ignore[arg-type]
            learning_rate=self.learning_rate,
            epochs=self.epochs,
        )


def train_what_is_left(
    job: Job,
    others: Mapping[str, Tensor],
    *,
    scale: float,
    learning_rate: float,
    epochs: int,
    stage: str = "",
) -> Lifted:
    """Train the weights of a job's network that are not zero under the Gaussian prior alone, with
    new draws of batches; returns it lifted, with what is zero frozen.

    others: masks of parameters that are no weights of layers, by their names; False: frozen as
            it is.
    epochs: 0 for none.
    """
    from pyrosparse.infer import schedules
    from pyrosparse.lifting.lift import lift
    from pyrosparse.lifting.target import weights
    from pyrosparse.methods import Gaussian

    net = job.net
    targets = weights(net)
    more = sorted(set(others) - {target.name for target in targets})
    masks = {target.key: net.get_parameter(target.name) != 0 for target in targets}
    if more:
        added = weights(net, more)
        targets += added
        masks |= {target.key: others[target.name] for target in added}
    bnn = lift(net, Gaussian(scale=scale), targets)
    bnn.freeze(masks)
    if epochs:
        job.fit(
            bnn,
            stage=stage,
            epochs=epochs,
            learning_rate=learning_rate,
            schedule=schedules.cosine(0.01),
            seed=job.seed + 1,
        )
    return bnn


def fold_and_fine_tune(
    job: Job, masks: Mapping[str, Tensor], *, scale: float, learning_rate: float, epochs: int
) -> Lifted:
    """Fold masks and gains into the network of a job, and train what is left of it, as
    ``train_what_is_left`` does."""
    from pyrosparse.compaction.masked import masked
    from pyrosparse.compaction.read_elsewhere import read_elsewhere

    job.net = masked(job.net, masks, unfolded=read_elsewhere(job.net, job.data.example))
    parameters = dict(job.net.named_parameters())
    # Scales and shifts of normalisations that masks are of; masks of gates are in the weights now.
    others = {key: mask for key, mask in masks.items() if key in parameters}
    return train_what_is_left(
        job,
        others,
        scale=scale,
        learning_rate=learning_rate,
        epochs=epochs,
        stage=FineTuning.name,
    )


def fine_tuned(job: Job, bnn: Lifted) -> Lifted:
    """Train on what the recipe of a job left of its network, for ``fine_tune`` epochs and with the
    recipe's rate, batches and prior on the weights; returns the posterior of that.

    Gains of gates are folded into the weights first: what is fine-tuned is an ordinary network.

    Raises ValueError if gates depend on the input, which no weights can hold.
    """
    from pyrosparse.compaction.masked import masked
    from pyrosparse.compaction.read_elsewhere import read_elsewhere

    recipe = job.recipe
    if bnn.gates():
        raise ValueError(
            f"{recipe.name} ends with gates that depend on the input, which cannot be fine-tuned "
            "as an ordinary network: set fine_tune to 0, and give its own stages more epochs"
        )
    if any(target.kind != "weight" for target in bnn.targets):
        elsewhere = read_elsewhere(job.net, job.data.example)
        job.net = masked(job.net, bnn.masks(), unfolded=elsewhere)
    left = [target.name for target in bnn.targets if target.kind == "weight"]
    parameters = dict(job.net.named_parameters())
    stage = FineTuning.of(recipe.values() | {"epochs": recipe.fine_tune, "fine_tune": 0})
    stage = replace(stage, others=tuple(name for name in left if name in parameters))
    return job.stage(stage, FineTuning.name)
