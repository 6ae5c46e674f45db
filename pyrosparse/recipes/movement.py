"""Movement pruning of a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrosparse.recipes import shared
from pyrosparse.recipes.masks import Structure, check_share, labelled
from pyrosparse.recipes.option import POSITIVE, Auto, option
from pyrosparse.recipes.stages import StartsTrained

if TYPE_CHECKING:
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class Movement(StartsTrained):
    """Prune weights that training moves towards zero, by learned scores (Sanh 2020)."""

    name: ClassVar[str] = "movement"
    knob: ClassVar[str] = "sparsity"
    keeps_more: ClassVar[str] = "a lower --sparsity"
    epochs: Auto[int] = shared.epochs(shared.at_least(20, 1000))
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(1e-3)
    score_rate: float = option(1e-2, "learning rate of Adam, on the scores", within=POSITIVE)
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))
    sparsity: float = option(
        0.9, "share of the weights that is pruned", within="[0, 1)", share=True
    )
    structure: Structure = option(
        "weight",
        "which weights are pruned together; 2:4: two of every four consecutive inputs stay",
    )
    ramp_start: float = option(
        0.1, "share of training after which the sparsity rises", within="[0, 1)"
    )
    ramp_end: float = option(
        0.7, "share of training after which the sparsity is reached", within="(0, 1]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.structure, self.sparsity)
        if not self.ramp_start < self.ramp_end:
            raise ValueError(
                f"ramp_start must be before ramp_end, got {self.ramp_start} and {self.ramp_end}"
            )

    @property
    def label(self) -> str:
        return labelled(self.name, self.structure)

    def train(self, job: Job) -> Lifted:
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.lift import lift
        from pyrosparse.methods import MovementPruning
        from pyrosparse.prune import Annealing

        self.pretrained(job)
        bnn = lift(job.net, MovementPruning(self.sparsity, self.structure, scale=self.scale))
        rises = schedules.cubic(self.ramp_end, self.ramp_start)
        job.fit(
            bnn,
            epochs=self.epochs,
            learning_rate={"*.scores": self.score_rate, "*": self.learning_rate},
            schedule=schedules.cosine(0.01),
            callbacks=[Annealing(rises, per="step")],
        )
        return bnn
