"""Networks under masks of magnitude, or at random: what Gibbs pruning is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pyrosparse.recipes import shared
from pyrosparse.recipes.option import Auto, Rule, option
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.stages import draw_he_normal, reinitialise

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pyrosparse.infer import Callback
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.lifting.target import Target
    from pyrosparse.methods.masked_weights import MasksBySize
    from pyrosparse.recipes.job import Job
    from pyrosparse.recipes.split import Split

Structure = Literal["weight", "kernel", "filter", "2:4"]


def check_share(structure: Structure, sparsity: float) -> None:
    """Refuse a share of the weights that a structure does not leave open.

    Raises ValueError."""
    if structure == "2:4" and sparsity != 0.5:
        raise ValueError(
            f"the structure 2:4 prunes half of the weights: set sparsity to 0.5, got {sparsity}"
        )


def labelled(name: str, structure: Structure) -> str:
    """The name of a recipe with the structure, which is part of the names of files.

    >>> labelled("gibbs", "weight"), labelled("gibbs", "2:4")
    ('gibbs', 'gibbs-2-of-4')
    """
    return name if structure == "weight" else f"{name}-{structure.replace(':', '-of-')}"


def _shifts(recipe: Any, data: Split) -> bool:
    return recipe.flip is True or data.shift


@dataclass(frozen=True)
class Dense(Recipe):
    """Train as gibbs does, without masks."""

    name: ClassVar[str] = "dense"
    epochs: int = shared.epochs(200)
    batch_size: int = shared.batch_size(128)
    learning_rate: float = shared.learning_rate(1e-3)
    scale: Auto[float] = shared.scale(shared.weight_decay(2e-4))
    rate_schedule: Literal["steps", "cosine"] = option(
        "steps",
        "fall of the learning rate: to a tenth after 0.4, 0.6 and 0.8 of training (steps), or to "
        "1 % (cosine)",
    )
    initial_scale: float = option(
        0.0,
        "factor on He's normal distribution, from which prunable weights are drawn first; 0: keep "
        "the network's own weights",
        within="[0, inf)",
    )
    augment: Auto[bool] = option(
        Rule(
            "only if they have 10 pixels or more", lambda recipe, net, data: _shifts(recipe, data)
        ),
        "shift training images by up to a tenth",
    )
    flip: Auto[bool] = option(
        Rule(
            "if the data set says that a mirror image keeps its class",
            lambda recipe, net, data: recipe.augment and data.flip,
        ),
        "mirror half of the images",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flip is True and self.augment is False:
            raise ValueError("flip is a part of augment, which is off: leave one of the two out")

    def prior(self) -> MasksBySize:
        """The method of the masks, whose targets are those of all its baselines."""
        from pyrosparse.methods import GibbsPruning

        return GibbsPruning(scale=self.scale)

    def drawn(self) -> bool:
        """Whether the masks are drawn in training."""
        return False

    def callbacks(self, names: list[str]) -> list[Callback]:
        """What happens while the weights of these names are trained."""
        return []

    def masks(self, job: Job, targets: Mapping[str, Target]) -> Mapping[str, Tensor]:
        """What is frozen from the start; may give the network other weights to start from."""
        return {}

    def finish(self, job: Job, bnn: Lifted, names: list[str]) -> None:
        """What happens after the last epoch."""

    def targets(self, net: nn.Module) -> list[Target]:
        """The weights of which some may go."""
        return self.prior().targets(net)

    def initialise(self, job: Job, seed: int) -> None:
        """Give the weights that may go their first values, where ``initial_scale`` says so."""
        if self.initial_scale:
            names = [target.name for target in self.targets(job.net)]
            # Another seed than that of random masks, which would be those of these weights.
            draw_he_normal(job.net, names, self.initial_scale, seed + 2_000_003)

    def reinitialise(self, job: Job) -> None:
        """Draw all weights of the network anew, with another seed than at first."""
        reinitialise(job.net, job.seed + 1_000_003)
        self.initialise(job, job.seed + 1_000_003)

    def train(self, job: Job) -> Lifted:
        self.initialise(job, job.seed)
        targets = {target.name: target for target in self.targets(job.net)}
        masks = self.masks(job, targets)
        bnn = self.lifted(job.net)
        bnn.freeze(dict(masks))
        self.fit(job, bnn, callbacks=self.callbacks(list(targets)))
        self.finish(job, bnn, list(targets))
        return bnn

    def fit(self, job: Job, bnn: Lifted, **options: Any) -> None:
        """Train on augmented data while the rate falls, or with other options of ``job.fit``."""
        from pyrosparse.data import Augmented, Examples
        from pyrosparse.infer import schedules

        rates = {"steps": schedules.steps(0.4, 0.6, 0.8), "cosine": schedules.cosine(0.01)}
        data = job.data.train
        images = isinstance(data, Examples) and data.x.dim() == 4
        if self.augment and not images:
            raise ValueError(
                f"{self.name} can augment only images (N, C, H, W) in memory that are the "
                "network's only argument: leave augment out, or augment in the loader"
            )
        own: dict[str, Any] = {
            "data": Augmented(data, flip=self.flip) if self.augment else data,
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "schedule": rates[self.rate_schedule],
        }
        job.fit(bnn, **own | options)

    def trained(self, job: Job) -> Lifted:
        """The network of a job trained without masks, and kept as it is then."""
        self.initialise(job, job.seed)
        bnn = self.lifted(job.net)
        self.fit(job, bnn, stage="training")
        job.keep()
        return bnn

    def lifted(self, net: nn.Module) -> Lifted:
        """The network with the Gaussian prior on all its convolutions (without any, on all its
        weights), and with masks where they are drawn."""
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights
        from pyrosparse.methods import Gaussian

        targets = self.targets(net)
        names = {target.name for target in targets}
        others = [one for one in weights(net) if one.name not in names and len(one.shape) > 2]
        plain = Gaussian(scale=self.scale)
        first: Any = self.prior() if self.drawn() else plain
        return lift(net, [(one, some) for one, some in ((first, targets), (plain, others)) if some])


@dataclass(frozen=True)
class Sparse(Dense):
    """A recipe that takes a share of the weights."""

    knob: ClassVar[str] = "sparsity"
    unpruned: ClassVar[type[Recipe] | None] = Dense
    keeps_more: ClassVar[str] = "a lower --sparsity"
    sparsity: float = option(
        0.9, "share of the weights that is pruned", within="[0, 1)", share=True
    )


@dataclass(frozen=True)
class Masked(Sparse):
    """A recipe that takes a share of the weights, kernels or filters."""

    structure: Structure = option(
        "weight",
        "which weights are pruned together; 2:4: two of every four consecutive inputs stay",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.structure, self.sparsity)

    @property
    def label(self) -> str:
        return labelled(self.name, self.structure)

    def prior(self) -> MasksBySize:
        from pyrosparse.methods import GibbsPruning

        return GibbsPruning(self.sparsity, self.structure, scale=self.scale)


@dataclass(frozen=True)
class OneShot(Masked):
    """Train as gibbs does, without masks, and prune by magnitude at the end."""

    name: ClassVar[str] = "one-shot"

    def finish(self, job: Job, bnn: Lifted, names: list[str]) -> None:
        keep = self.prior().magnitude_mask
        bnn.freeze({name: keep(job.net.get_parameter(name)) for name in names})


@dataclass(frozen=True)
class OneShotRecalibrated(OneShot):
    """Prune as one-shot does, then recompute the statistics of batch normalisation."""

    name: ClassVar[str] = "one-shot-recalibrated"

    def finish(self, job: Job, bnn: Lifted, names: list[str]) -> None:
        from pyrosparse.prune import recalibrate

        super().finish(job, bnn, names)
        recalibrate(job.net, job.data.train)


@dataclass(frozen=True)
class Cut(Masked):
    """Train as gibbs does, prune once by magnitude when its annealing ends, and train on."""

    name: ClassVar[str] = "cut"
    annealed: float = option(
        0.64, "share of training after which weights are pruned", within="(0, 1]"
    )

    def callbacks(self, names: list[str]) -> list[Callback]:
        from pyrosparse.recipes.cut_once import CutOnce

        return [CutOnce(self.prior().magnitude_mask, names, self.annealed)]


@dataclass(frozen=True)
class GradualMagnitude(Masked):
    """Train as gibbs does, and prune by magnitude in many small steps (Zhu and Gupta 2017)."""

    name: ClassVar[str] = "gradual-magnitude"
    ramp: float = option(
        0.64,
        "share of training over which the sparsity rises along a cubic",
        within="(0, 1]",
    )
    every: int = option(100, "steps between cuts", within="1..")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.structure == "2:4":
            raise ValueError(
                "the structure 2:4 always keeps two of four, so its sparsity cannot rise "
                "gradually: choose another structure, or the recipe cut"
            )

    def callbacks(self, names: list[str]) -> list[Callback]:
        from pyrosparse.infer import schedules
        from pyrosparse.recipes.gradual_cuts import GradualCuts

        def keep(weight: Tensor, share: float) -> Tensor:
            return replace(self, sparsity=share * self.sparsity).prior().magnitude_mask(weight)

        return [GradualCuts(keep, names, schedules.cubic(self.ramp), self.every)]


@dataclass(frozen=True)
class RandomMask(Masked):
    """Train as gibbs does, under one random mask from the start."""

    name: ClassVar[str] = "random-mask"

    def masks(self, job: Job, targets: Mapping[str, Target]) -> Mapping[str, Tensor]:
        """By the magnitude of random weights: random blocks, as many."""
        import torch

        generator = torch.Generator().manual_seed(job.seed)
        keep = self.prior().magnitude_mask
        return {
            name: keep(torch.randn(target.shape, generator=generator))
            for name, target in targets.items()
        }
