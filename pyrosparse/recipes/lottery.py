"""Lottery tickets: train, cut the smallest weights, go back to an early step, and train again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pyrosparse.recipes.masks import Sparse
from pyrosparse.recipes.option import Auto, Rule, option

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.infer import Callback
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.lifting.target import Target
    from pyrosparse.recipes.job import Job
    from pyrosparse.recipes.split import Split


def _early(recipe: Any, net: nn.Module, data: Split) -> int:
    return min(500, recipe.epochs * data.steps(recipe.batch_size) // 10)


@dataclass(frozen=True)
class Lottery(Sparse):
    """Cut the smallest weights of all layers, rewind, and train again (Frankle et al. 2019)."""

    name: ClassVar[str] = "lottery"
    fraction: float = option(
        0.2, "share of the remaining weights that each level prunes", within="(0, 1)"
    )
    rewind: Auto[int] = option(
        Rule("500, or a tenth of all steps where that is less", _early),
        "step of the first training to which later trainings rewind",
        within="0..",
    )

    def targets(self, net: nn.Module) -> list[Target]:
        from pyrosparse.lifting.target import weights

        return weights(net)

    def train(self, job: Job) -> Lifted:
        from pyrosparse.prune import lottery

        self.initialise(job, job.seed)
        bnn = self.lifted(job.net)

        def train(level: int, *, first_step: int, callbacks: Sequence[Callback]) -> None:
            stage = f"level-{level}" if level else "training"
            self.fit(job, bnn, stage=stage, first_step=first_step, callbacks=callbacks)
            if not level:
                job.keep()

        lottery(bnn, train, self.sparsity, fraction=self.fraction, rewind=self.rewind)
        return bnn
