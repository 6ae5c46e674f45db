"""Weights or whole units are pruned that have more noise than signal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pyrosparse.recipes import gated, shared
from pyrosparse.recipes.gated import Gated, targets_on
from pyrosparse.recipes.noise import by_layer
from pyrosparse.recipes.option import POSITIVE, Auto, Rule, option
from pyrosparse.recipes.stages import StartsTrained

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job

_GROUP_SCALE = math.exp(-4.5)
"""Of weights and gates at the start, as in the authors' code."""


def _share(part: int) -> Any:
    return lambda recipe, net, data: round(recipe.epochs / part)


def _falling(progress: float) -> float:
    """Constant for half of training, then linear to 0."""
    return min(1.0, 2 * (1 - progress))


def fine_tune(recipe: Any, job: Job, bnn: Lifted, **options: Any) -> None:
    """Train what is left for the recipe's ``fine_tune`` epochs, under another seed."""
    from pyrosparse.infer import schedules

    if recipe.fine_tune:
        job.fit(
            bnn,
            stage="fine-tuning",
            epochs=recipe.fine_tune,
            schedule=schedules.cosine(0.01),
            seed=job.seed + 1,
            **options,
        )


@dataclass(frozen=True)
class VariationalDropout(StartsTrained):
    """Prune the weights with more noise than signal (Molchanov et al. 2017)."""

    name: ClassVar[str] = "variational-dropout"
    knob: ClassVar[str] = "kl_scale"
    keeps_more: ClassVar[str] = "a lower --kl-scale"
    takes_more: ClassVar[str] = "a higher --kl-scale or more --epochs"
    epochs: Auto[int] = shared.epochs(shared.at_least(40, 4000))
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(1e-3)
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))
    kl_scale: float = option(
        1.0, "weight of the KL divergence: a larger value leaves fewer weights", within=POSITIVE
    )
    kl_free: Auto[int] = option(
        Rule("a fortieth of all", _share(40)),
        "epochs without the KL divergence, at the start",
        within="0..",
    )
    kl_warmup: Auto[int] = option(
        Rule("three fortieths of all", lambda recipe, net, data: round(3 * recipe.epochs / 40)),
        "epochs after these in which the weight of the KL divergence rises from 0",
        within="0..",
    )
    noise_rate: float = option(0.01, "learning rate of the noise, and of gates", within=POSITIVE)
    empirical_bayes: bool = option(
        False, "use the normal prior with the largest evidence; otherwise the log-uniform prior"
    )
    log_alpha: float | Mapping[str, float] = option(
        3.0, "log ratio of noise to signal, in variances, above which a weight is pruned"
    )
    fine_tune: Auto[int] = option(shared.at_least(15, 1000), "epochs of fine-tuning", within="0..")

    def __post_init__(self) -> None:
        super().__post_init__()
        known = isinstance(self.kl_free, int) and isinstance(self.epochs, int)
        if known and self.kl_free >= self.epochs:
            raise ValueError(
                f"kl_free leaves no epoch with the KL divergence: got {self.kl_free} of "
                f"{self.epochs} epochs; lower kl_free or raise epochs"
            )

    def priors(self, net: nn.Module, example: tuple[Any, ...]) -> list[Any]:
        """The methods with their targets, as ``lift`` takes them."""
        from pyrosparse import methods

        method = methods.VariationalDropout(empirical_bayes=self.empirical_bayes)
        return by_layer(method, net, example)

    def train(self, job: Job) -> Lifted:
        from pyrosparse.lifting.lift import lift
        from pyrosparse.methods import VariationalDropout as Method

        priors = self.priors(job.net, job.data.example)
        bnn = lift(job.net, priors)  # what cannot be lifted is said now
        noisy = [e.target.key for e in bnn.guide.entries if isinstance(e.method, Method)]
        thresholds = {key: math.exp(-self._limit(key) / 2) for key in noisy}
        self.pretrained(job)
        if self.kl_free:
            job.fit(
                bnn,
                stage="noise",
                epochs=self.kl_free,
                learning_rate=self.rates,
                kl_scale=0.0,
                seed=job.seed + 2,
            )
        job.fit(
            bnn,
            stage="training",
            epochs=self.epochs - self.kl_free,
            learning_rate=self.rates,
            schedule=_falling,
            kl_scale=self.kl_scale,
            kl_warmup=self.kl_warmup,
        )
        bnn.freeze(bnn.masks(thresholds))
        return self.fine_tuned(job, bnn)

    @property
    def rates(self) -> dict[str, float]:
        return {"guide.*": self.noise_rate, "*": self.learning_rate}

    def fine_tuned(self, job: Job, bnn: Lifted) -> Lifted:
        """What is left, trained without noise as the network was before."""
        from pyrosparse.lifting.lift import lift
        from pyrosparse.methods import Gaussian

        plain = lift(job.net, Gaussian(scale=self.scale), bnn.targets)
        plain.freeze({entry.target.key: entry.mask for entry in bnn.guide.entries})
        fine_tune(self, job, plain, learning_rate=self.learning_rate)
        return plain

    def _limit(self, key: str) -> float:
        from pyrosparse.util.globs import first_match

        if not isinstance(self.log_alpha, Mapping):
            return self.log_alpha
        glob = first_match(self.log_alpha, key)
        if glob is None:
            raise ValueError(
                f"log_alpha has no number for {key!r}: it has {', '.join(self.log_alpha)}; add "
                'one for "*"'
            )
        return self.log_alpha[glob]


@dataclass(frozen=True)
class GroupVariationalDropout(VariationalDropout):
    """Prune the units and inputs with more noise than signal (Louizos et al. 2017)."""

    name: ClassVar[str] = "group-variational-dropout"
    log_alpha: float | Mapping[str, float] = option(
        -3.0,
        "log ratio of noise to signal, in variances, above which a unit is pruned; one number, or "
        "numbers by the names of gates",
    )
    on: Gated = gated.on()

    def priors(self, net: nn.Module, example: tuple[Any, ...]) -> list[Any]:
        from pyrosparse import methods

        gate = methods.VariationalDropout(
            initial_scale=_GROUP_SCALE, empirical_bayes=self.empirical_bayes
        )
        slab = methods.Gaussian(
            posterior="normal", estimator="activations", initial_scale=_GROUP_SCALE
        )
        return [(gate, targets_on(net, self.on, example)), *by_layer(slab, net, example)]

    def fine_tuned(self, job: Job, bnn: Lifted) -> Lifted:
        """What is left, trained on with its noise: what stays has little."""
        fine_tune(self, job, bnn, learning_rate=self.rates, kl_scale=self.kl_scale)
        return bnn
