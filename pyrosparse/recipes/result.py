"""What a recipe leaves of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pyrosparse.lifting.lift import Lifted
from pyrosparse.measure import Report
from pyrosparse.recipes.compaction import Compaction
from pyrosparse.recipes.job import Stage
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.split import Split


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a recipe; print it.

    recipe:     the recipe, with numbers for all options whose defaults depend on the network and
                the data.
    data:       the training, validation and test data.
    net:        the network at its old size: pruned weights are exactly zero, and gains of gates are
                folded into its weights. Gates that depend on the input are not included.
    whole:      the network that predicts: ``net`` with the gates that depend on the input.
    original:   the network before pruning if there is one, else ``net``.
    posterior:  the lifted network, with its guide, masks and gates.
    model:      the Pyro model in which it was trained.
    guide:      the guide for all latent variables of the model: the model's own guide if it learns
                more than the network, else that of the posterior; for ``nuts`` one of its draws.
    small:      the compact network, with its ``account``; None where there is none.
    compaction: the costs of the compact network, or why there is none.
    scores:     the scores of ``before``, ``after`` and ``compact`` on the test data (on the
                training data if there are none): ``nll``, in nats per datum; for classifiers
                ``accuracy`` and ``ece``; for values ``rmse``, ``crps`` and the coverage of
                intervals, ``coverage_50``; for language models ``perplexity``, and ``nll`` and
                ``accuracy`` per token.
    stages:     each training with its name and history.
    """

    recipe: Recipe
    data: Split
    net: nn.Module
    whole: nn.Module
    original: nn.Module
    posterior: Lifted
    model: Any
    guide: Any
    small: nn.Module | None
    compaction: Compaction
    scores: Mapping[str, Mapping[str, float]]
    stages: list[Stage]

    @property
    def quality(self) -> Mapping[str, float]:
        """The scores of the network that predicts, ``whole``."""
        return self.scores["after"]

    @property
    def report(self) -> Report | None:
        """Parameters, operations, bytes and times before and after; None without ``small``."""
        return self.compaction.report

    @property
    def account(self) -> str:
        """The summary of the compaction, layer by layer, or why there is no compact network."""
        return self.compaction.account or self.compaction.problem

    @property
    def history(self) -> list[dict[str, Any]]:
        """The history of the last stage."""
        return self.stages[-1].history if self.stages else []

    @property
    def prunable(self) -> list[str]:
        """The names of the parameters that can be pruned; after ``fine_tune`` those of all
        weights."""
        return [target.name for target in self.posterior.targets if target.kind == "weight"]

    @property
    def sparsity(self) -> float:
        """The share of the prunable weights that is exactly zero, in [0, 1]."""
        weights = [self.net.get_parameter(name) for name in self.prunable]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        return zeros / sum(weight.numel() for weight in weights)

    @property
    def took_nothing(self) -> bool:
        """Whether a recipe that chooses the sparsity itself pruned nothing."""
        units = self.compaction.units.values()
        if not self.recipe.takes_more:
            return False
        return all(kept == of for kept, of in units) if units else self.sparsity == 0

    @property
    def seconds(self) -> float:
        """The training time of all stages, including validation, in seconds."""
        return sum(stage.seconds for stage in self.stages)

    def __repr__(self) -> str:
        rows = [("recipe", self.recipe.name), ("sparsity", f"{100 * self.sparsity:.2f} %")]
        if self.compaction.kept:
            rows.append(("units kept", self.compaction.kept))
        if self.took_nothing:
            rows.append(("pruned", f"nothing; try {self.recipe.takes_more}"))
        for name in self.quality:
            told = [f"{which} {scores[name]:.4f}" for which, scores in self.scores.items()]
            rows.append((f"test {name}" if self.data.test is not None else name, ", ".join(told)))
        rows.append(("training", f"{self.seconds:.1f} s"))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, str(self.report) if self.report else self.account])
