"""Gibbs pruning: masks that are drawn in every step and annealed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pyrosparse.recipes.masks import Masked
from pyrosparse.recipes.option import POSITIVE, Auto, Rule, option

if TYPE_CHECKING:
    from torch import Tensor

    from pyrosparse import methods
    from pyrosparse.infer import Callback
    from pyrosparse.lifting.target import Target
    from pyrosparse.recipes.job import Job

_BETAS = {"weight": (0.7, 1e4), "kernel": (0.7, 1e4), "filter": (0.003, 1.0)}
_BETAS["2:4"] = _BETAS["weight"]
_COUPLING = {"weight": 0.0, "kernel": 0.01, "filter": 1.0, "2:4": 0.0}

_VARIANCE = 2 / 576
"""Of He's initial weights for 64 channels and 3 x 3 kernels: in a layer of this variance the values
by default are the same law, ``relative`` or not."""


def _by_structure(values: Mapping[str, Any], power: int) -> Any:
    """In units of the layer's variance where the weights are measured in them."""
    return lambda recipe, net, data: (
        values[recipe.structure] * (_VARIANCE**power if recipe.relative else 1.0)
    )


@dataclass(frozen=True)
class Gibbs(Masked):
    """Draw masks in every step, annealed to those of magnitude (Labach and Valaee 2020)."""

    name: ClassVar[str] = "gibbs"
    relative: bool = option(False, "divide weights by the root mean square of their layer")
    coupling: Auto[float] = option(
        Rule("0, or 0.01 for kernels, or 1 for filters", _by_structure(_COUPLING, -1)),
        "coupling c of the weights of one kernel or filter",
    )
    beta_start: Auto[float] = option(
        Rule(
            "0.7, or 0.003 for filters",
            _by_structure({key: pair[0] for key, pair in _BETAS.items()}, 1),
        ),
        "inverse temperature at the start",
        within=POSITIVE,
    )
    beta_end: Auto[float] = option(
        Rule(
            "1e4, or 1 for filters",
            _by_structure({key: pair[1] for key, pair in _BETAS.items()}, 1),
        ),
        "inverse temperature at the end",
        within=POSITIVE,
    )
    annealed: float = option(
        0.64, "share of training during which the inverse temperature rises", within="(0, 1]"
    )
    final: Literal["draw", "mode", "magnitude"] = option(
        "draw", "final mask: one draw, the mode of the distribution, or the magnitude mask"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = not isinstance(self.coupling, Rule) and self.coupling != 0
        if given and self.structure in ("weight", "2:4"):
            raise ValueError(
                f"single weights have no coupling, got {self.coupling}: leave coupling out, or "
                "choose the structure kernel or filter"
            )

    @property
    def label(self) -> str:
        return super().label + ("-relative" if self.relative else "")

    def prior(self) -> methods.GibbsPruning:
        from pyrosparse.methods import GibbsPruning

        return GibbsPruning(
            self.sparsity,
            self.structure,
            self.coupling,
            relative=self.relative,
            final=self.final,
            scale=self.scale,
        )

    def drawn(self) -> bool:
        return True

    def callbacks(self, names: list[str]) -> list[Callback]:
        from pyrosparse.infer import schedules
        from pyrosparse.prune import Annealing

        schedule = schedules.logarithmic(self.beta_start, self.beta_end, until=self.annealed)
        return [Annealing(schedule, per="step")]


@dataclass(frozen=True)
class Reinitialised(Gibbs):
    """Train the masks of gibbs once more, from new weights."""

    name: ClassVar[str] = "reinitialised"

    @property
    def label(self) -> str:
        return Masked.label.fget(self)  # type: ignore[attr-defined,no-any-return]

    def drawn(self) -> bool:
        return False

    def callbacks(self, names: list[str]) -> list[Callback]:
        return []

    def masks(self, job: Job, targets: Mapping[str, Target]) -> Mapping[str, Tensor]:
        before = job.stage(Gibbs.of(self.values()), "first", net=copy.deepcopy(job.net))
        self.reinitialise(job)
        return {name: before.net.get_parameter(name) != 0 for name in targets}
