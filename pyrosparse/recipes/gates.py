"""Gates close on units and inputs, and what is dead is cut out while the training goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pyrosparse.recipes import gated, shared
from pyrosparse.recipes.gated import Gated, targets_on
from pyrosparse.recipes.option import POSITIVE, Auto, Rule, option
from pyrosparse.recipes.stages import StartsTrained

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.infer import Callback
    from pyrosparse.infer.schedules import Schedule
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.lifting.method import Method
    from pyrosparse.recipes.job import Job

# A cut costs about as much as some hundred steps of a small network.
_STEPS_BETWEEN_CUTS = 500


@dataclass(frozen=True)
class Gates(StartsTrained):
    """Train gates together with the weights; subclass it, and write ``method``."""

    # Gates move by the gate rate a step: few data need more epochs for as many steps.
    epochs: Auto[int] = shared.epochs(shared.at_least(30, 2000))
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(2e-3)
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))
    gate_rate: float = option(0.05, "learning rate of the gates", within=POSITIVE)
    on: Gated = gated.on()
    kl_warmup: Auto[int] = option(
        Rule("a fifteenth of all", lambda recipe, net, data: round(recipe.epochs / 15)),
        "epochs in which the weight of the KL divergence rises from 0",
        within="0..",
    )

    def method(self, net: nn.Module) -> Method:
        """The gates' prior and guide for a network."""
        raise NotImplementedError

    def schedule(self) -> Schedule:
        """Of all learning rates."""
        from pyrosparse.infer import schedules

        return schedules.cosine(0.01)

    def callbacks(self) -> list[Callback]:
        """What records while the gates are trained."""
        from pyrosparse.recipes.kept_units import KeptUnits

        return [KeptUnits()]

    def train(self, job: Job) -> Lifted:
        from pyrosparse import methods
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights

        net = job.net
        prior = methods.Gaussian(scale=self.scale)
        targets = targets_on(net, self.on, job.data.example)
        pairs = [(prior, weights(net)), (self.method(net), targets)]
        bnn = lift(net, pairs)  # before the pretraining: what cannot be gated is said now
        self.pretrained(job)
        self.fit_gates(job, bnn, epochs=self.epochs, kl_warmup=self.kl_warmup)
        bnn.freeze(bnn.masks())
        return bnn

    def fit_gates(self, job: Job, bnn: Lifted, *, epochs: int, kl_warmup: int) -> None:
        """Train gates together with the weights, and cut what is dead meanwhile."""
        job.fit(
            bnn,
            epochs=epochs,
            learning_rate={"guide.*": self.gate_rate, "*": self.learning_rate},
            schedule=self.schedule(),
            kl_warmup=kl_warmup,
            callbacks=self.callbacks(),
            compact_every=self._epochs_between_cuts(job, bnn),
        )

    def _epochs_between_cuts(self, job: Job, bnn: Lifted) -> int | None:
        """None where the network cannot be traced, does not use all gates, or has gates of heads,
        whose posterior cannot be cut: it is then trained whole."""
        from pyrosparse.compaction.cut import cut
        from pyrosparse.compaction.posterior import unreached

        if any(target.block > 1 for target in bnn.targets):
            return None
        try:
            made = cut(job.net, {}, job.data.batch[:-1])
        except ValueError:
            return None
        if unreached(made, bnn.guide.entries):
            return None
        return math.ceil(_STEPS_BETWEEN_CUTS / job.data.steps(self.batch_size))


@dataclass(frozen=True)
class BetaBernoulli(Gates):
    """Close gates on units and inputs by a sparse prior (Lee et al. 2019)."""

    name: ClassVar[str] = "beta-bernoulli"
    knob: ClassVar[str] = "kl_scale"
    keeps_more: ClassVar[str] = "a lower --kl-scale"
    takes_more: ClassVar[str] = (
        "a higher --kl-scale, or more --epochs (gates move by --gate-rate a step and need "
        "some 2,000 steps)"
    )
    kl_scale: float | Mapping[str, float] = option(
        1.0,
        "weight gamma of the gates' KL divergence: a larger value leaves fewer units",
        within=POSITIVE,
    )
    temperature: float = option(0.3, "temperature of the relaxed gates", within=POSITIVE)
    pi: Literal["sampled", "collapsed"] = option(
        "collapsed",
        "draw the gates' probabilities once a step (sampled), or use their mean (collapsed)",
    )
    initial: float = option(0.95, "mean of the gates at the start", within="(0, 1)")

    def method(self, net: nn.Module) -> Method:
        from pyrosparse import methods

        return methods.BetaBernoulli(
            temperature=self.temperature,
            kl_scale=self.kl_scale,
            pi=self.pi,
            initial=self.initial,
        )


@dataclass(frozen=True)
class DependentBetaBernoulli(BetaBernoulli):
    """Close gates, then learn for which inputs each unit is needed (Lee et al. 2019)."""

    name: ClassVar[str] = "dependent-beta-bernoulli"
    second_epochs: Auto[int] = option(
        Rule("as in the first stage", lambda recipe, net, data: recipe.epochs),
        "epochs of gates that depend on the input",
        within="1..",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fine_tune:
            raise ValueError(
                "gates that depend on the input cannot be fine-tuned as an ordinary network, got "
                f"fine_tune {self.fine_tune}: leave it out, and give second_epochs more"
            )
        if "heads" in self.on.split("+"):
            raise ValueError(
                "gates of heads cannot depend on the input, as these depend on the mean of one "
                f"feature each; got on={self.on!r}: choose on='ffn', or beta-bernoulli"
            )

    def train(self, job: Job) -> Lifted:
        from pyrosparse import methods
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights
        from pyrosparse.measure import active_features

        before = job.stage(BetaBernoulli.of(self.values()), "first")
        method = methods.DependentBetaBernoulli(before)
        prior = methods.Gaussian(scale=self.scale)
        bnn = lift(job.net, [(prior, weights(job.net)), (method, method.targets(job.net))])
        bnn.freeze(before.masks())
        self.fit_gates(job, bnn, epochs=self.second_epochs, kl_warmup=0)
        # What passes for no input of the training data goes altogether.
        passing = active_features(bnn, job.data.train)
        bnn.freeze({key: gate.union for key, gate in passing.items()})
        return bnn
