"""Targeted dropout: of the smallest weights some are dropped in every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pyrosparse.recipes.masks import Masked
from pyrosparse.recipes.option import Auto, Rule, option

if TYPE_CHECKING:
    from pyrosparse.infer import Callback
    from pyrosparse.methods.masked_weights import MasksBySize


@dataclass(frozen=True)
class TargetedDropout(Masked):
    """Drop some of the smallest weights in every step, and all of them at the end (Gomez 2019)."""

    name: ClassVar[str] = "targeted-dropout"
    rate: Auto[float] = option(
        Rule(
            "0.75, or 0.9 for filters",
            lambda recipe, net, data: 0.9 if recipe.structure == "filter" else 0.75,
        ),
        "probability that a candidate is dropped in a step",
        within="(0, 1]",
    )
    among: Literal["output", "tensor"] = option(
        "output", "rank weights and kernels within each output, or within the whole tensor"
    )
    ramp: float = option(
        0.0,
        "share of training during which the candidates and their rate increase to their final "
        "values; 0: final values from the start",
        within="[0, 1]",
    )

    def prior(self) -> MasksBySize:
        from pyrosparse import methods

        return methods.TargetedDropout(
            self.sparsity, self.structure, self.rate, self.among, scale=self.scale
        )

    def drawn(self) -> bool:
        return True

    def callbacks(self, names: list[str]) -> list[Callback]:
        from pyrosparse.infer import schedules
        from pyrosparse.prune import Annealing

        rises = schedules.linear(self.ramp) if self.ramp > 0 else schedules.constant
        return [Annealing(rises, per="step")]
