"""ThiNet: channels go layer by layer, each time those that the next layer feels least."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrosparse.recipes.masks import Sparse
from pyrosparse.recipes.option import POSITIVE, option

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.lifting.target import Target
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class ThiNet(Sparse):
    """Prune input channels of a trained network, layer by layer (Luo et al. 2017)."""

    name: ClassVar[str] = "thinet"
    sparsity: float = option(
        0.5, "share of the input channels of a layer that is pruned", within="[0, 1)", share=True
    )
    examples: int = option(1000, "training examples that score the channels", within="1..")
    places: int = option(10, "sampled outputs of a layer, for each example", within="1..")
    fine_tune: int = option(1, "epochs after each layer", within="0..")
    last_fine_tune: int = option(12, "epochs after the last layer", within="0..")
    fine_tune_rate: float = option(1e-5, "learning rate after a layer", within=POSITIVE)

    def targets(self, net: nn.Module) -> list[Target]:
        """The weights of all convolutions but the first and those of 1 x 1; where there are none,
        of all dense layers but the first. Warns of layers that cannot be thinned."""
        from pyrosparse.lifting.target import weights
        from pyrosparse.prune.thinet_channels import why_not_thinned

        layers = []
        for one in weights(net):
            owner = one.name.rpartition(".")[0]
            reason = why_not_thinned(net.get_submodule(owner))
            if reason:
                warnings.warn(f"{self.name} leaves {owner!r} as it is: it {reason}", stacklevel=2)
            else:
                layers.append(one)
        convolutions = [one for one in layers if len(one.shape) > 2][1:]
        wide = [one for one in convolutions if math.prod(one.shape[2:]) > 1]
        found = wide or [one for one in layers if len(one.shape) == 2][1:]
        if not found:
            raise ValueError(
                f"{self.name} finds no layer whose input channels can be pruned: "
                "choose another network or recipe"
            )
        return found

    def train(self, job: Job) -> Lifted:
        import torch

        from pyrosparse.evidence.batches import Columns
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.target import inputs
        from pyrosparse.prune import thinet

        targets = self.targets(job.net)
        job.data.some(self.examples, job.seed)  # what cannot be put together is said now
        bnn = self.trained(job)
        for number, target in enumerate(targets, 1):
            layer = target.name.rpartition(".")[0]
            seed = job.seed + number
            gains = thinet(
                job.net,
                Columns(job.data.some(self.examples, seed)),
                self.sparsity,
                on=inputs(job.net, layer),
                places=self.places,
                seed=seed,
            )[f"{layer}.input"].view(1, -1, *[1] * (len(target.shape) - 2))
            with torch.no_grad():
                job.net.get_parameter(target.name).mul_(gains)
            bnn.freeze({target.name: (gains != 0).expand(target.shape)})
            last = number == len(targets)
            epochs = self.last_fine_tune if last else self.fine_tune
            if epochs:
                self.fit(
                    job,
                    bnn,
                    stage=layer,
                    epochs=epochs,
                    learning_rate=self.fine_tune_rate,
                    schedule=schedules.constant,
                    seed=seed,
                )
        return bnn
