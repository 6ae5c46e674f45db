"""What keeps all weights and knows how unsure it is: deep ensembles, SWAG, SGLD, Laplace."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pyrosparse.recipes import shared
from pyrosparse.recipes.option import POSITIVE, option
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.stages import reinitialise

if TYPE_CHECKING:
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class _Point(Recipe):
    """Maxima a posteriori of all weights and biases, which the references begin with."""

    knob: ClassVar[str] = "scale"
    epochs: int = shared.epochs(30)
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(1e-3)
    scale: float = shared.scale(0.3)

    def check(self, model: Any, job: Job) -> None:
        """Refuse, before the training, a model whose posterior this is not."""
        from pyrosparse.models.latents import ModelGuide

        if isinstance(getattr(model, "guide", None), ModelGuide):
            raise ValueError(
                f"{self.name} draws only the network's weights, but this model learns more, such "
                "as its noise: give a model with known noise"
            )

    def _fitted(self, job: Job, net: Any, seed: int) -> Lifted:
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights
        from pyrosparse.methods import Gaussian

        bnn = lift(net, Gaussian(scale=self.scale), weights(net, "*"))
        self.check(job.model(bnn), job)
        job.fit(
            bnn,
            stage=f"start-{seed}",
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            schedule=schedules.cosine(0.01),
            seed=seed,
        )
        return bnn


@dataclass(frozen=True)
class DeepEnsemble(_Point):
    """Train the network from several random starts and mix their predictions (Lakshminarayanan et
    al. 2017)."""

    name: ClassVar[str] = "ensemble"
    members: int = option(5, "networks that are trained", within="2..")

    def train(self, job: Job) -> Lifted:
        import torch

        from pyrosparse.evidence.given import AnyDraw

        draws: dict[str, list[torch.Tensor]] = {}
        first = None
        for number in range(self.members):
            net = job.net if first is None else copy.deepcopy(job.net)
            if first is not None:
                reinitialise(net, job.seed * 1_000_003 + number)
            bnn = self._fitted(job, net, job.seed * 1_000_003 + number)
            first = bnn if first is None else first
            for target in bnn.targets:
                assert target.value is not None
                draws.setdefault(target.site, []).append(target.value.detach().clone())
        assert first is not None
        job.guide = AnyDraw({site: torch.stack(values) for site, values in draws.items()})
        return first


@dataclass(frozen=True)
class Swag(_Point):
    """Take the weights that SGD goes through for a normal law (Maddox et al. 2019)."""

    name: ClassVar[str] = "swag"
    iterates: int = option(20, "epochs of SGD, each of which gives one iterate", within="2..")
    rate: float = option(0.01, "learning rate of SGD, on the mean loss of a datum", within=POSITIVE)

    def train(self, job: Job) -> Lifted:
        import torch

        from pyrosparse.infer import SWAG

        bnn = self._fitted(job, job.net, job.seed)
        steps = -(-job.data.n // self.batch_size)
        swag = SWAG(burn_in=0, every=steps, rank=min(20, self.iterates))
        job.fit(
            bnn,
            stage="sgd",
            epochs=self.iterates,
            # The loss is of all data; the momentum is the paper's.
            learning_rate=self.rate / job.data.n,
            optimizer=partial(torch.optim.SGD, momentum=0.9),
            callbacks=[swag],
            checkpoints=False,
        )
        with torch.no_grad():
            for target in bnn.targets:
                assert target.value is not None
                target.value.copy_(swag.mean[target.site])
        job.guide = swag
        return bnn


@dataclass(frozen=True)
class Langevin(_Point):
    """Draw weights and biases by stochastic gradient Langevin dynamics (Welling and Teh 2011)."""

    name: ClassVar[str] = "sgld"
    samples: int = option(50, "draws that are kept, one an epoch", within="2..")
    step: float = option(1e-6, "step epsilon, in squared units of the weights", within=POSITIVE)

    def train(self, job: Job) -> Lifted:
        from pyrosparse.infer import SGLD, KeepDraws

        bnn = self._fitted(job, job.net, job.seed)
        steps = -(-job.data.n // self.batch_size)
        kept = KeepDraws(burn_in=0, every=steps)
        job.fit(
            bnn,
            stage="langevin",
            epochs=self.samples,
            learning_rate=self.step,
            optimizer=SGLD,
            callbacks=[kept],
            checkpoints=False,
        )
        bnn.match_moments(kept.draws)
        job.guide = kept.guide
        return bnn


@dataclass(frozen=True)
class LastLayerLaplace(_Point):
    """Approximate the posterior of the last layer by a normal law (Daxberger et al. 2021)."""

    name: ClassVar[str] = "last-layer-laplace"
    needs: ClassVar[str] = "laplace-torch"
    structure: Literal["full", "kron", "diag"] = option(
        "kron", "structure of the precision: a Kronecker product, or without approximation"
    )

    def check(self, model: Any, job: Job) -> None:
        from pyrosparse.infer.last_layer_laplace import last_layer, likelihood
        from pyrosparse.recipes.peers import missing_package

        super().check(model, job)
        if reason := missing_package(self):
            raise ValueError(reason)
        likelihood(model)
        last_layer(job.net, *job.data.example)

    def train(self, job: Job) -> Lifted:
        from pyrosparse.infer import LastLayerLaplace

        bnn = self._fitted(job, job.net, job.seed)
        job.guide = LastLayerLaplace(job.fitted, job.data.train, structure=self.structure)
        return bnn
