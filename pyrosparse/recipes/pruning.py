"""Weights are set to zero as training goes on, all at liberty or where the Bayes factor allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pyrosparse.recipes import shared
from pyrosparse.recipes.option import ANY, option
from pyrosparse.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pyrosparse.infer import Callback
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class NoPruning(Recipe):
    """Train without pruning; the unpruned baseline."""

    name: ClassVar[str] = "none"
    epochs: int = shared.epochs(30)
    batch_size: int = shared.batch_size(64)
    learning_rate: float = shared.learning_rate(1e-3)
    scale: float = shared.scale(1.0)

    def callback(self, job: Job) -> Callback:
        """What happens after every epoch."""
        from pyrosparse.infer import Evaluation

        return Evaluation("train", job.data.train)

    def train(self, job: Job) -> Lifted:
        from pyrosparse.lifting.lift import lift
        from pyrosparse.methods import Gaussian

        bnn = lift(job.net, Gaussian(scale=self.scale))
        job.fit(
            bnn,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            callbacks=[self.callback(job)],
        )
        return bnn


@dataclass(frozen=True)
class Magnitude(NoPruning):
    """Prune the smallest weights."""

    name: ClassVar[str] = "magnitude"
    knob: ClassVar[str] = "sparsity"
    unpruned: ClassVar[type[Recipe] | None] = NoPruning
    keeps_more: ClassVar[str] = "a lower --sparsity"
    criterion: ClassVar[str] = "magnitude"
    sparsity: float = option(
        0.9, "share of the weights that is pruned", within="[0, 1)", share=True
    )
    ramp: float = option(
        0.6, "share of training during which the sparsity rises; 0: at once", within="[0, 1]"
    )
    freeze: bool = option(
        True,
        "hold pruned weights at zero; otherwise they still get gradients and may become nonzero",
    )

    def pruner(self, pruner: Any, **options: Any) -> Callback:
        """The callback that prunes, of a class of ``pyrosparse.prune``."""
        from pyrosparse.infer import schedules

        ramp = schedules.cubic(end=self.ramp) if self.ramp > 0 else schedules.constant
        made: Callback = pruner(
            self.criterion, self.sparsity, ramp=ramp, freeze=self.freeze, **options
        )
        return made

    def callback(self, job: Job) -> Callback:
        from pyrosparse.prune import Pruner

        return self.pruner(Pruner)


@dataclass(frozen=True)
class Random(Magnitude):
    """Prune weights at random."""

    name: ClassVar[str] = "random"
    criterion: ClassVar[str] = "random"


@dataclass(frozen=True)
class BayesianMagnitude(Magnitude):
    """Prune the smallest weights where the Bayes factor allows (Mathew and Rowe 2023)."""

    name: ClassVar[str] = "bayesian-magnitude"
    threshold: float = option(
        -0.105,
        "least log Bayes factor of an accepted round, in nats (the default is log 0.9)",
        within=ANY,
    )
    likelihood: Literal["sum", "mean"] = option(
        "sum", "sum or mean of the log likelihood over the training data, in the Bayes factor"
    )
    per_datum: bool = option(
        True, "divide the log Bayes factor by the number of data before it is compared"
    )

    def callback(self, job: Job) -> Callback:
        from pyrosparse.prune import BayesFactorPruner

        return self.pruner(
            BayesFactorPruner,
            threshold=self.threshold,
            likelihood=self.likelihood,
            per_datum=self.per_datum,
        )


@dataclass(frozen=True)
class BayesianRandom(BayesianMagnitude):
    """Prune weights at random where the Bayes factor allows (Mathew and Rowe 2023)."""

    name: ClassVar[str] = "bayesian-random"
    criterion: ClassVar[str] = "random"
