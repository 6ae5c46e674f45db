"""Weights, kernels or filters of the smallest norm go in steps, with training after each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pyrosparse.recipes.masks import Sparse
from pyrosparse.recipes.option import POSITIVE, option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.lifting.masks import Masks
    from pyrosparse.lifting.target import Target
    from pyrosparse.methods.masked_weights import MasksBySize
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class Iterative(Sparse):
    """A recipe that cuts a trained network in equal steps, and fine-tunes it after each."""

    cuts: int = option(9, "number of cuts, of equal size", within="1..")
    fine_tune: int = option(10, "epochs after each cut", within="1..")
    fine_tune_rate: float = option(1e-5, "learning rate after a cut", within=POSITIVE)

    @property
    def together(self) -> str:
        """What goes together."""
        return "weight"

    def train(self, job: Job) -> Lifted:
        from pyrosparse.infer import schedules
        from pyrosparse.prune import Pruner, magnitude

        names = [target.name for target in self.targets(job.net)]

        def smallest(weights: Mapping[str, Tensor], sparsity: float, _: Any) -> Masks:
            some = {name: weights[name] for name in names}
            return magnitude(some, sparsity, structure=self.together)

        bnn = self.trained(job)
        weights = {name: job.net.get_parameter(name) for name in names}
        bnn.freeze(smallest(weights, self.sparsity / self.cuts, None))
        ramp = schedules.staircase(self.cuts)
        self.fit(
            job,
            bnn,
            stage="cuts",
            epochs=self.cuts * self.fine_tune,
            learning_rate=self.fine_tune_rate,
            schedule=schedules.constant,
            callbacks=[Pruner(smallest, self.sparsity, ramp=ramp, freeze=True)],
            seed=job.seed + 1,
        )
        return bnn


@dataclass(frozen=True)
class Han(Iterative):
    """Cut the smallest weights of each layer in steps, and fine-tune (Han et al. 2015)."""

    name: ClassVar[str] = "han"


@dataclass(frozen=True)
class L1Norm(Iterative):
    """Cut filters or kernels of the smallest l1 norm in steps, and fine-tune (Li et al. 2017)."""

    name: ClassVar[str] = "l1-norm"
    structure: Literal["kernel", "filter"] = option("filter", "what is pruned together")

    @property
    def label(self) -> str:
        return f"{self.name}-{self.structure}"

    @property
    def together(self) -> str:
        return self.structure

    def prior(self) -> MasksBySize:
        from pyrosparse.methods import GibbsPruning

        return GibbsPruning(self.sparsity, self.structure, scale=self.scale)

    def targets(self, net: nn.Module) -> list[Target]:
        from pyrosparse.lifting.target import weights

        found = super().targets(net)
        last = weights(net)[-1]
        # A filter of the last layer is a class.
        return [one for one in found if one.name != last.name] if len(found) > 1 else found
