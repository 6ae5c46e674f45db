"""A criterion that sees a training run: its data, its gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrosparse.infer import Fit
from pyrosparse.lifting.masks import Masks
from pyrosparse.prune.keep import Scope, keep_largest
from pyrosparse.structures import Structure


@dataclass(kw_only=True)
class RunCriterion:
    """A criterion for ``Pruner`` that can use the training run. Subclass it and write ``scores``.

    scope, at_least, structure: as for ``keep_largest``. Weights that are already frozen at zero are
                                pruned first.

    What ``state_dict`` returns, tensors by name, goes into the checkpoint of the run and comes back
    to ``load_state_dict``.

    >>> from pyrosparse.prune.pruner import weights_of
    >>> class Largest(RunCriterion):
    ...     def scores(self, run):
    ...         return {name: weight.detach() for name, weight in weights_of(run).items()}
    >>> Largest(scope="global").scope
    'global'
    """

    scope: Scope = "tensor"
    at_least: int = 1
    structure: Structure = "weight"

    def scores(self, run: Fit) -> dict[str, Tensor]:
        """The score of each weight among the targets, by name and of its shape."""
        raise NotImplementedError

    def start(self, run: Fit) -> None:
        """Before the first step, or the first after resuming."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive an interruption."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""

    def masks(self, run: Fit, sparsity: float) -> Masks:
        """What stays at a sparsity."""
        frozen = {entry.target.key: ~entry.mask for entry in run.lifted.guide.entries}
        scores = {
            name: score.masked_fill(frozen[name], -torch.inf)
            for name, score in self.scores(run).items()
        }
        return keep_largest(
            scores,
            sparsity,
            scope=self.scope,
            at_least=self.at_least,
            structure=self.structure,
        )
