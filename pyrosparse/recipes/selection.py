"""A trained network under a prior that selects its units or weights, cut and fine-tuned."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pyrosparse.recipes import gated, shared
from pyrosparse.recipes.fine_tuning import fold_and_fine_tune
from pyrosparse.recipes.gated import Gated, targets_on
from pyrosparse.recipes.noise import by_layer
from pyrosparse.recipes.option import POSITIVE, Auto, Rule, option
from pyrosparse.recipes.stages import StartsTrained

if TYPE_CHECKING:
    from pyrosparse.infer import Callback
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.lifting.masks import Masks
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class Selection(StartsTrained):
    """Train a trained network under a prior that selects, cut it, and fine-tune what is left."""

    epochs: Auto[int] = shared.epochs(shared.at_least(30, 3000))
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(1e-3)
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))
    gate_rate: float = option(
        0.02, "learning rate of gates or scales, and of standard deviations", within=POSITIVE
    )
    kl_scale: Auto[float] = shared.kl_scale()
    kl_warmup: Auto[int] = option(
        Rule("a fifteenth of all", lambda recipe, net, data: round(recipe.epochs / 15)),
        "epochs in which the weight of the KL divergence rises from 0",
        within="0..",
    )
    fine_tune: Auto[int] = option(
        shared.at_least(15, 1000), "epochs of fine-tuning, under the Gaussian prior", within="0.."
    )

    def lifted(self, job: Job) -> Lifted:
        """The network of a job under the prior that selects."""
        raise NotImplementedError

    def rates(self, bnn: Lifted) -> dict[str, float]:
        """Learning rates by glob on the names of parameters."""
        return {"guide.*": self.gate_rate, "*": self.learning_rate}

    def callbacks(self) -> list[Callback]:
        """What happens while the prior selects."""
        return []

    def masks(self, bnn: Lifted) -> Masks:
        """What stays; of each layer something."""
        return bnn.masks(at_least=1)

    def train(self, job: Job) -> Lifted:
        from pyrosparse.infer import schedules

        bnn = self.lifted(job)  # before the pretraining: what cannot be lifted is said now
        self.pretrained(job)
        job.fit(
            bnn,
            stage="selection",
            epochs=self.epochs,
            learning_rate=self.rates(bnn),
            schedule=schedules.cosine(0.01),
            kl_scale=self.kl_scale,
            kl_warmup=self.kl_warmup,
            callbacks=self.callbacks(),
        )
        return fold_and_fine_tune(
            job,
            self.masks(bnn),
            scale=self.scale,  # type: ignore[arg-type]
            learning_rate=self.learning_rate,
            epochs=self.fine_tune,  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class GroupHorseshoe(Selection):
    """Shrink units by a horseshoe prior, and cut the small ones (Piironen and Vehtari 2017)."""

    name: ClassVar[str] = "group-horseshoe"
    knob: ClassVar[str] = "active"
    keeps_more: ClassVar[str] = "a higher --active"
    takes_more: ClassVar[str] = "a lower --active or a higher --kl-scale"
    active: float = option(
        0.1, "prior guess of the share of units that are needed", within="(0, 1)", share=True
    )
    on: Gated = gated.on()

    def lifted(self, job: Job) -> Lifted:
        from pyrosparse import methods
        from pyrosparse.lifting.lift import lift

        normal = methods.Gaussian(posterior="normal", estimator="activations")
        horseshoe = methods.GroupHorseshoe(job.data.n, self.active)
        priors = by_layer(normal, job.net, job.data.example)
        return lift(job.net, [*priors, (horseshoe, targets_on(job.net, self.on, job.data.example))])


@dataclass(frozen=True)
class SpikeAndSlab(Selection):
    """Learn the probability that each weight or unit is nonzero (Hubin and Storvik 2019)."""

    name: ClassVar[str] = "spike-and-slab"
    knob: ClassVar[str] = "inclusion"
    keeps_more: ClassVar[str] = "a higher --inclusion"
    takes_more: ClassVar[str] = "a lower --inclusion"
    inclusion: float = option(
        0.1, "prior probability that a weight, or a unit, is not zero", within="(0, 1)"
    )
    structure: Literal["weight", "unit"] = option(
        "weight", "what the spike sets to zero: single weights, or whole units"
    )
    slab: float = option(1.0, "standard deviation of the slab", within=POSITIVE)
    on: Gated = gated.on()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.structure == "weight" and self.on != "gates":
            raise ValueError(
                f"on={self.on!r} says where gates of units go, and structure='weight' has none: "
                "set structure='unit', or leave on out"
            )

    @property
    def label(self) -> str:
        return self.name if self.structure == "weight" else f"{self.name}-{self.structure}"

    def lifted(self, job: Job) -> Lifted:
        from pyrosparse import methods
        from pyrosparse.lifting.activation_noise import by_noise
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights

        net, example = job.net, job.data.example
        if self.structure == "weight":
            taken, others = by_noise(net, weights(net), example)
            if others and taken:
                warnings.warn(
                    f"{self.name} leaves {', '.join(one.key for one in others)} as they are: its "
                    "noise is drawn at the activations of plain layers that act once",
                    stacklevel=2,
                )
            method = methods.SpikeAndSlab(self.inclusion, self.slab)
            return lift(net, method, taken or others)  # which says what it cannot take
        normal = methods.Gaussian(self.slab, posterior="normal", estimator="activations")
        units = methods.GroupSpikeAndSlab(self.inclusion)
        return lift(
            net, [*by_layer(normal, net, example), (units, targets_on(net, self.on, example))]
        )


def _pretraining(recipe: Polarization, net: object, data: object) -> int:
    if recipe.on == "scales":
        return 0
    return shared.at_least(20, 1000).value(recipe, net, data)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Polarization(Selection):
    """Divide units into large and small scales, and cut the small ones (Zhuang et al. 2020)."""

    name: ClassVar[str] = "polarization"
    knob: ClassVar[str] = "penalty"
    keeps_more: ClassVar[str] = "a lower --penalty"
    takes_more: ClassVar[str] = "a higher --penalty"
    kl_scale: float = option(
        1.0, "factor on the penalty and on the prior of the weights", within="[0, inf)"
    )
    penalty: float = option(
        1e-4, "weight lambda of the penalty, added to the mean loss", within=POSITIVE
    )
    t: float = option(
        1.2, "t: weight of the term |gate| in the penalty; larger values send more gates to 0",
        within="[0, 2)",
    )  # fmt: skip
    on: Literal[Gated, "scales"] = gated.on(
        ", which start at 1 in a trained network; or `scales` of batch normalisation, which start "
        "at 0.5 in a new network, as in the paper"
    )
    mean_over: Literal["network", "tensor"] = option(
        "network", "take the mean gate over the network, or over each layer"
    )
    drop_shift: bool = option(
        False, "remove the shift of a pruned channel too, as the paper's code does"
    )
    pretrain: Auto[int] = option(
        Rule("as other recipes, and none for scales", _pretraining),
        "epochs of pretraining; 0 for a trained network",
        within="0..",
    )

    def lifted(self, job: Job) -> Lifted:
        from pyrosparse import methods
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import outputs, weights

        net, strength = job.net, self.penalty * job.data.n
        method = methods.Polarization(
            strength, self.t, self.mean_over, initial=0.5 if self.on == "scales" else 1.0
        )
        found = method.targets(net) if self.on in ("gates", "scales") else []
        if self.on == "scales":
            self._start_scales(job, [target.name for target in found if target.kind == "weight"])
        elif self.on == "gates":
            found = [
                outputs(net, target.name.rpartition(".")[0])[0]
                if target.value is not None
                else target
                for target in found
            ]
        else:
            found = targets_on(net, self.on)
        return lift(net, [(methods.Gaussian(scale=self.scale), weights(net)), (method, found)])  # type: ignore[arg-type]

    def _start_scales(self, job: Job, names: list[str]) -> None:
        """Set the scales of a new network to 0.5.

        Raises ValueError if the network has none, or is trained."""
        scales = [job.net.get_parameter(name) for name in names]
        if not scales:
            raise ValueError(
                "the network has no batch normalisation with scales: choose on='gates', which "
                "adds a scale to every channel and unit"
            )
        if self.pretrain or any(bool((scale != 1).any()) for scale in scales):
            raise ValueError(
                "on='scales' starts from a new network, whose scales are all 1, and takes no "
                "pretraining: give a new network with pretrain=0, or choose on='gates' for a "
                "trained one"
            )
        for scale in scales:
            scale.data.fill_(0.5)

    def rates(self, bnn: Lifted) -> dict[str, float]:
        scales = [t.name for t in bnn.targets if t.value is not None and len(t.shape) == 1]
        return {f"net.{name}": self.gate_rate for name in scales} | super().rates(bnn)

    def masks(self, bnn: Lifted) -> Masks:
        masks = super().masks(bnn)
        if self.drop_shift:
            for target in bnn.targets:
                bias = f"{target.name.rpartition('.')[0]}.bias"
                if target.value is not None and len(target.shape) == 1:
                    masks[bias] = masks[target.key].clone()
        return masks

    def callbacks(self) -> list[Callback]:
        from pyrosparse.prune import CommonMean

        return [CommonMean()] if self.mean_over == "network" else []
