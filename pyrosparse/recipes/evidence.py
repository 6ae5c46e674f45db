"""A normal posterior, pruned as far as the evidence goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrosparse.recipes import shared
from pyrosparse.recipes.noise import by_layer
from pyrosparse.recipes.option import Auto, Rule, option
from pyrosparse.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pyrosparse.infer import Callback
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job
    from pyrosparse.recipes.split import Split

# Standard deviations move by their logarithm, and have further to go than locations.
_SCALE_RATE = 10.0


@dataclass(frozen=True)
class MeanField(Recipe):
    """Train with a normal posterior, without pruning; the baseline of model-reduction."""

    name: ClassVar[str] = "mean-field"
    knob: ClassVar[str] = "scale"
    epochs: Auto[int] = shared.epochs(shared.at_least(30, 4000))
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(1e-3)
    scale: float = shared.scale(0.3)

    def callbacks(self, data: Split) -> list[Callback]:
        """What happens after every epoch."""
        return []

    def train(self, job: Job) -> Lifted:
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.lift import lift
        from pyrosparse.methods import Gaussian

        method = Gaussian(scale=self.scale, posterior="normal", estimator="activations")
        bnn = lift(job.net, by_layer(method, job.net, job.data.example))
        job.fit(
            bnn,
            epochs=self.epochs,
            learning_rate={"guide.*": _SCALE_RATE * self.learning_rate, "*": self.learning_rate},
            schedule=schedules.cosine(0.01),
            callbacks=self.callbacks(job.data),
        )
        return bnn


@dataclass(frozen=True)
class ModelReduction(MeanField):
    """Prune weights as long as the evidence grows; the data choose the sparsity."""

    name: ClassVar[str] = "model-reduction"
    unpruned: ClassVar[type[Recipe] | None] = MeanField
    keeps_more: ClassVar[str] = "a lower --fraction"
    takes_more: ClassVar[str] = "a lower --fraction, a larger --scale or more --epochs"
    fraction: float = option(
        0.5, "largest share of the remaining weights that one batch prunes", within="(0, 1)"
    )
    rows: bool = option(False, "prune whole rows of weights; otherwise single weights")
    warmup: Auto[int] = option(
        Rule("a quarter of all", lambda recipe, net, data: -(-recipe.epochs // 4)),
        "epochs before the first batch is pruned",
        within="0..",
    )

    @property
    def label(self) -> str:
        return self.name + ("-rows" if self.rows else "")

    def callbacks(self, data: Split) -> list[Callback]:
        from pyrosparse.prune import ReductionPruner
        from pyrosparse.recipes.parts import in_memory

        pruner = ReductionPruner(
            fraction=self.fraction,
            rows=self.rows,
            warmup=self.warmup,
            # Where there are many short epochs, some lie between two batches.
            every=max(1, self.epochs // 30),
            draws=64,
            # Of loaders all data: no others can be drawn from them again.
            subset=5000 if in_memory(data.train) else None,
        )
        return [pruner]
