"""Stages that several recipes have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pyrosparse.recipes import shared
from pyrosparse.recipes.option import Auto, option
from pyrosparse.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

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
class StartsTrained(Recipe):
    """A recipe that begins with a trained network.

    pretrain: 0 says that it is trained already.
    """

    pretrain: Auto[int] = option(
        shared.at_least(20, 1000), "epochs of pretraining; 0 for a trained network", within="0.."
    )

    def pretrained(self, job: Job) -> None:
        """Train the network of a job, unless it is trained; it is kept as it is then."""
        if self.pretrain:
            values = self.values() | {"epochs": self.pretrain, "fine_tune": 0}
            job.stage(Pretraining.of(values), Pretraining.name)
        job.keep()


def draw_he_normal(net: nn.Module, names: Iterable[str], scale: float, seed: int) -> None:
    r"""Draw the weights of these names anew; the caller's generators are left alone.

    .. math:: w \sim \mathcal N(0,\; s^2 \cdot 2 / n_\text{in})

    Source: He et al. (2015), eq. 10, for s = 1.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            weight = net.get_parameter(name)
            deviation = scale * math.sqrt(2 / weight[0].numel())
            weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)


def reinitialise(net: nn.Module, seed: int) -> None:
    """Draw all weights anew as the layers' classes do; the caller's generators are left alone."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in net.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
