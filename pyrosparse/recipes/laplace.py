"""The l1 penalty: weights that it made small are cut, and what is left is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrosparse.recipes.fine_tuning import fold_and_fine_tune
from pyrosparse.recipes.masks import Masked
from pyrosparse.recipes.option import POSITIVE, Auto, Rule, option

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class Laplace(Masked):
    """Train with an l1 penalty, prune by magnitude and fine-tune."""

    name: ClassVar[str] = "laplace"
    penalty: float = option(
        1e-3, "weight lambda of the l1 norm, added to the mean loss", within=POSITIVE
    )
    laplace_scale: Auto[float] = option(
        Rule("1 / (lambda n)", lambda recipe, net, data: 1 / (recipe.penalty * data.n)),
        "scale b of the Laplace prior",
        within=POSITIVE,
    )
    fine_tune: Auto[int] = option(
        Rule("a fifth of all", lambda recipe, net, data: max(1, round(recipe.epochs / 5))),
        "epochs of fine-tuning the remaining weights, without the l1 norm",
        within="0..",
    )

    def lifted(self, net: nn.Module) -> Lifted:
        from pyrosparse.lifting.lift import lift
        from pyrosparse.methods import LaplacePrior

        laplace = LaplacePrior(self.laplace_scale)  # type: ignore[arg-type]
        plain = super().lifted(net)
        names = {target.name for target in self.prior().targets(net)}
        pairs = [
            (laplace if entry.target.name in names else entry.method, [entry.target])
            for entry in plain.guide.entries
        ]
        return lift(net, pairs)

    def train(self, job: Job) -> Lifted:
        super().train(job)
        keep = self.prior().magnitude_mask
        names = [target.name for target in self.prior().targets(job.net)]
        return fold_and_fine_tune(
            job,
            {name: keep(job.net.get_parameter(name)) for name in names},
            scale=self.scale,  # type: ignore[arg-type]
            learning_rate=self.learning_rate,
            epochs=self.fine_tune,  # type: ignore[arg-type]
        )
