"""Other packages' ways to prune, from the same start and with the same training as ours."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any, ClassVar

from pyrosparse.recipes import shared
from pyrosparse.recipes.fine_tuning import FineTuning
from pyrosparse.recipes.option import Auto, option
from pyrosparse.recipes.stages import StartsTrained

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job
    from pyrosparse.recipes.recipe import Recipe

_DATA = 1000
"""Training data that gradients are taken of."""


def missing_package(recipe: Recipe) -> str:
    """Why a recipe cannot run here and what to do; "" where it can.

    >>> from pyrosparse.recipes import Magnitude
    >>> missing_package(Magnitude())
    ''
    """
    if not recipe.needs:
        return ""
    try:
        distribution(recipe.needs)
    except PackageNotFoundError:
        return (
            f"{recipe.name} runs the package {recipe.needs}, which is not installed: "
            f"pip install {recipe.needs}"
        )
    return ""


@dataclass(frozen=True)
class TorchPruningMagnitude(StartsTrained):
    """Prune units by the norms of their weights with Torch-Pruning (Fang et al. 2023)."""

    name: ClassVar[str] = "torch-pruning-magnitude"
    knob: ClassVar[str] = "sparsity"
    needs: ClassVar[str] = "torch-pruning"
    epochs: Auto[int] = shared.epochs(shared.at_least(20, 1000))
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(2e-3)
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))
    sparsity: float = option(
        0.5, "share of the units of every layer that goes", within="[0, 1)", share=True
    )

    def importance(self, package: Any) -> Any:
        """The criterion, as the package has it."""
        return package.importance.GroupMagnitudeImportance(p=2)

    def prepare(self, job: Job, net: nn.Module) -> None:
        """Make ready the network that the package judges."""

    def train(self, job: Job) -> Lifted:
        reason = missing_package(self)
        if reason:
            raise ValueError(reason)
        output = getattr(job.model(job.net), "output", None)
        if output is not None:
            raise ValueError(
                f"{self.name} needs a network that returns a tensor, but this network returns "
                f"{output!r} by name: wrap it in a module that returns only {output!r}, or choose "
                "another recipe"
            )
        self.pretrained(job)
        self._prune(job)
        # What is left trains on as under any other recipe.
        stage = FineTuning.of(self.values() | {"fine_tune": 0})
        return job.stage(stage, "training")

    def _prune(self, job: Job) -> None:
        """Set to zero what the package would cut."""
        import copy
        from importlib import import_module

        import torch
        from torch import nn

        package = import_module("torch_pruning")
        net = copy.deepcopy(job.net).eval()
        self.prepare(job, net)
        ours = dict(job.net.named_modules())
        names = {module: name for name, module in net.named_modules()}
        layers = [one for one in net.modules() if isinstance(one, (nn.Linear, nn.Conv2d))]
        pruner = package.pruner.BasePruner(
            net,
            job.data.example,
            importance=self.importance(package),
            pruning_ratio=self.sparsity,
            ignored_layers=layers[-1:],  # whose outputs are the classes
        )
        for group in pruner.step(interactive=True):
            for dependency, units in group:
                layer = ours.get(names.get(dependency.target.module, "-"))
                if layer is None or not list(layer.parameters(recurse=False)):
                    continue
                if not isinstance(layer, (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm1d)):
                    raise ValueError(
                        f"{self.name} prunes Linear, Conv2d and batch normalisation, not "
                        f"{type(layer).__name__}: choose another recipe or network"
                    )
                entering = "in_channels" in dependency.handler.__name__
                with torch.no_grad():
                    if entering and not isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d)):
                        layer.weight[:, units] = 0
                    else:
                        for parameter in layer.parameters(recurse=False):
                            parameter[units] = 0


@dataclass(frozen=True)
class TorchPruningTaylor(TorchPruningMagnitude):
    """Prune units by weight times gradient with Torch-Pruning (Fang et al. 2023)."""

    name: ClassVar[str] = "torch-pruning-taylor"

    def importance(self, package: Any) -> Any:
        return package.importance.GroupTaylorImportance()

    def prepare(self, job: Job, net: nn.Module) -> None:
        import torch

        from pyrosparse.evidence.batches import batches

        *inputs, y = next(iter(batches(job.data.train, _DATA)))
        torch.nn.functional.cross_entropy(net(*inputs), y).backward()
