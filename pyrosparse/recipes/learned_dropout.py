"""Noise on units and inputs whose size is learned: what beta-Bernoulli dropout is compared with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pyrosparse.recipes import shared
from pyrosparse.recipes.gated import targets_on
from pyrosparse.recipes.gates import Gates
from pyrosparse.recipes.option import POSITIVE, Auto, option
from pyrosparse.recipes.stages import StartsTrained

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.infer import Callback
    from pyrosparse.infer.schedules import Schedule
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.lifting.method import Method
    from pyrosparse.lifting.target import Target
    from pyrosparse.recipes.job import Job

_NOISE = "draw the gates' noise once for each step, or for each example"


@dataclass(frozen=True)
class StructuredBayesianPruning(Gates):
    """Prune units whose gain has more noise than mean (Neklyudov et al. 2017)."""

    name: ClassVar[str] = "structured-bayesian-pruning"
    knob: ClassVar[str] = "kl_scale"
    keeps_more: ClassVar[str] = "a lower --kl-scale"
    takes_more: ClassVar[str] = "a higher --kl-scale or more --epochs"
    learning_rate: float = shared.learning_rate(1e-3)
    gate_rate: float = option(0.01, "learning rate of the gates", within=POSITIVE)
    kl_warmup: int = option(
        0, "epochs in which the weight of the KL divergence rises from 0", within="0.."
    )
    kl_scale: float | Mapping[str, float] = option(
        1.0,
        "weight of the gates' KL divergence: a larger value leaves fewer units",
        within=POSITIVE,
    )
    noise: Literal["step", "example"] = option("step", _NOISE)

    def method(self, net: nn.Module) -> Method:
        from pyrosparse import methods

        return methods.StructuredBayesianPruning(kl_scale=self.kl_scale, noise=self.noise)

    def schedule(self) -> Schedule:
        from pyrosparse.infer import schedules

        return schedules.linear_decay(start=0.5)


@dataclass(frozen=True)
class HardConcrete(Gates):
    """Close gates by a cost on each remaining weight (Louizos et al. 2018)."""

    name: ClassVar[str] = "hard-concrete"
    knob: ClassVar[str] = "cost"
    keeps_more: ClassVar[str] = "a lower --cost"
    takes_more: ClassVar[str] = "a higher --cost"
    learning_rate: float = shared.learning_rate(1e-3)
    gate_rate: float = option(0.01, "learning rate of the gates", within=POSITIVE)
    kl_warmup: int = option(0, "epochs in which the cost rises from 0", within="0..")
    cost: float | Mapping[str, float] = option(
        0.02,
        "cost of a weight whose gate is open, in nats: a larger value leaves fewer weights",
        within=POSITIVE,
    )
    noise: Literal["step", "example"] = option("step", _NOISE)
    gain: Literal["paper", "expectation"] = option(
        "paper", "gains at test time: the paper's, or the expectation of the gates"
    )
    initial: float = option(0.8, "sigmoid(log alpha) at the start", within="(0, 1)")

    def method(self, net: nn.Module) -> Method:
        from pyrosparse import methods
        from pyrosparse.lifting.method import kl_scale_of

        cost = {
            target.key: kl_scale_of(self.cost, target, "cost") * weights_of(net, target)
            for target in targets_on(net, self.on)
        }
        return methods.HardConcrete(
            cost=cost, noise=self.noise, gain=self.gain, initial=self.initial
        )

    def callbacks(self) -> list[Callback]:
        from pyrosparse.recipes.kept_units import GainSums

        return [*super().callbacks(), GainSums()]

    def _epochs_between_cuts(self, job: Job, bnn: Lifted) -> int | None:
        # A gate whose gain has come to 0 still opens in 31 % of the steps, and may return.
        return None


@dataclass(frozen=True)
class GeneralizedDropout(Gates):
    """Learn a dropout rate for each unit and input (Srinivas and Babu 2016)."""

    name: ClassVar[str] = "generalized-dropout"
    knob: ClassVar[str] = "alpha"
    keeps_more: ClassVar[str] = "a lower --kl-scale"
    takes_more: ClassVar[str] = "a higher --kl-scale"
    alpha: float = option(1e-4, "alpha of the prior Beta(alpha, 1) on a gate", within=POSITIVE)
    kl_scale: float | Mapping[str, float] = option(
        1.0, "weight of the gates' prior: a larger value leaves fewer units", within=POSITIVE
    )
    temperature: float = option(0.3, "temperature of the relaxed gates", within=POSITIVE)
    initial: float = option(0.95, "mean of the gates at the start", within="(0, 1)")

    def method(self, net: nn.Module) -> Method:
        from pyrosparse import methods

        return methods.GeneralizedDropout(
            alpha=self.alpha,
            kl_scale=self.kl_scale,
            temperature=self.temperature,
            initial=self.initial,
        )


@dataclass(frozen=True)
class ConcreteDropout(StartsTrained):
    """Learn a dropout rate for each layer; nothing is pruned (Gal et al. 2017)."""

    name: ClassVar[str] = "concrete-dropout"
    epochs: Auto[int] = shared.epochs(shared.at_least(30, 2000))
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(1e-3)
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))
    temperature: float = option(0.1, "temperature of the relaxed dropout", within=POSITIVE)
    initial: float = option(0.1, "dropout rate at the start", within="(0, 1)")

    def train(self, job: Job) -> Lifted:
        from pyrosparse import methods
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights

        method = methods.ConcreteDropout(self.scale, self.temperature, self.initial)
        bnn = lift(job.net, method)
        taken = {target.key for target in bnn.targets}
        left = [target.key for target in weights(job.net) if target.key not in taken]
        if left:
            warnings.warn(
                f"{self.name} learns no rates for {', '.join(left)}, which stay as they are: "
                "their second dimension is not that of a layer's inputs. generalized-dropout "
                "learns rates for these, too",
                stacklevel=2,
            )
        self.pretrained(job)
        job.fit(
            bnn,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            schedule=schedules.cosine(0.01),
        )
        return bnn


def weights_of(net: nn.Module, target: Target) -> int:
    """How many weights a gate of a target multiplies: of a gate behind batch normalisation, those
    of the layer before it.

    >>> from torch import nn
    >>> from pyrosparse.lifting.target import gates
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    >>> [weights_of(net, target) for target in gates(net)]
    [75, 2]
    """
    from pyrosparse.lifting.target import weights

    sizes = {one.name.rpartition(".")[0]: math.prod(one.shape) for one in weights(net)}
    names = [name for name, _ in net.named_modules()]
    before = [name for name in names[: names.index(target.name) + 1] if name in sizes]
    return sizes[before[-1]] // target.shape[0]
