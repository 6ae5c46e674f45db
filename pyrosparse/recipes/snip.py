"""SNIP: weights go before training, by how much the loss of one batch feels them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pyrosparse.recipes.masks import Masked
from pyrosparse.recipes.option import option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pyrosparse.lifting.target import Target
    from pyrosparse.prune.keep import Scope
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class Snip(Masked):
    """Prune all layers before training, from one batch, then train the rest (Lee et al. 2019)."""

    name: ClassVar[str] = "snip"
    first_weights: Literal["kept", "redrawn"] = option(
        "kept", "train from the scored weights (kept), or from new weights with the same masks"
    )
    score_batch: int = option(128, "training examples that score the weights", within="1..")

    @property
    def label(self) -> str:
        return super().label + ("-redrawn" if self.first_weights == "redrawn" else "")

    def targets(self, net: nn.Module) -> list[Target]:
        """All of them; of n:m those whose inputs are in whole groups."""
        from pyrosparse.lifting.target import weights
        from pyrosparse.structures import ratio

        found, group = weights(net), ratio(self.structure)
        if group is not None:
            found = [one for one in found if one.shape[1] % group[1] == 0]
        if not found:
            raise ValueError(
                "no layer has a number of inputs that can be divided into groups for "
                f"structure={self.structure!r}: choose another structure"
            )
        return found

    def masks(self, job: Job, targets: Mapping[str, Target]) -> Mapping[str, Tensor]:
        from pyrosparse.prune import connection_sensitivity, keep_largest
        from pyrosparse.structures import ratio

        bnn = self.lifted(job.net)
        batch = job.data.some(self.score_batch, job.seed)
        all_scores = connection_sensitivity(job.model(bnn), bnn, batch)
        scores = {name: all_scores[name] for name in targets}
        scope: Scope = "global" if ratio(self.structure) is None else "tensor"
        masks = keep_largest(scores, self.sparsity, scope=scope, structure=self.structure)
        if self.first_weights == "redrawn":
            self.reinitialise(job)
        return masks
