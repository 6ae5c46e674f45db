"""Gates with noise pay for what they let through."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrosparse.recipes import gated, shared
from pyrosparse.recipes.gated import Gated, targets_on
from pyrosparse.recipes.option import POSITIVE, Auto, option
from pyrosparse.recipes.stages import StartsTrained
from pyrosparse.recipes.variational_dropout import fine_tune

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.lifting.target import Target
    from pyrosparse.recipes.job import Job


def positions(
    net: nn.Module, targets: Sequence[Target], example: tuple[Tensor, ...]
) -> dict[str, int]:
    """At how many positions each gate acts: height times width of a channel's map; 1 behind or
    before a dense layer. By the gate's key."""
    import torch

    from pyrosparse.util.modes import evaluating

    found: dict[str, int] = {}

    def note(target: Target, seen: Tensor) -> None:
        channels = target.axis != -1
        found[target.key] = math.prod(seen.shape[2:]) if channels else 1

    handles = []
    for target in targets:
        module = net.get_submodule(target.name)
        if target.kind == "input":
            hook = lambda _, args, one=target: note(one, args[0])  # noqa: E731
            handles.append(module.register_forward_pre_hook(hook))
        else:
            after = lambda _, args, output, one=target: note(one, output)  # noqa: E731
            handles.append(module.register_forward_hook(after))
    try:
        with torch.no_grad(), evaluating(net):
            net(*example)
    finally:
        for handle in handles:
            handle.remove()
    # A layer that rests in evaluation mode has no map.
    return {target.key: found.get(target.key, 1) for target in targets}


@dataclass(frozen=True)
class InformationBottleneck(StartsTrained):
    """Close gates that let through more noise than signal (Dai et al. 2018)."""

    name: ClassVar[str] = "information-bottleneck"
    knob: ClassVar[str] = "gamma"
    keeps_more: ClassVar[str] = "a lower --gamma"
    takes_more: ClassVar[str] = "a higher --gamma or more --epochs"
    epochs: Auto[int] = shared.epochs(shared.at_least(30, 2000))
    batch_size: int = shared.batch_size(100)
    learning_rate: float = shared.learning_rate(1e-3)
    scale: Auto[float] = shared.scale(shared.weight_decay(1e-4))
    gamma: float = option(
        1e-5,
        "weight of the gates' KL divergence relative to the mean loss, multiplied by the "
        "positions of a feature map: a larger value leaves fewer units",
        within=POSITIVE,
    )
    gate_rate: float = option(0.01, "learning rate of the gates", within=POSITIVE)
    on: Gated = gated.on()
    fine_tune: int = option(0, "epochs of fine-tuning", within="0..")

    def train(self, job: Job) -> Lifted:
        from pyrosparse import methods
        from pyrosparse.infer import schedules
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights
        from pyrosparse.recipes.kept_units import KeptUnits

        net, targets = job.net, targets_on(job.net, self.on, job.data.example)
        kl_scale = {
            key: self.gamma * job.data.n * count
            for key, count in positions(net, targets, job.data.example).items()
        }
        method = methods.InformationBottleneck(kl_scale=kl_scale)
        bnn = lift(net, [(methods.Gaussian(scale=self.scale), weights(net)), (method, targets)])
        self.pretrained(job)
        rates = {"guide.*": self.gate_rate, "*": self.learning_rate}
        job.fit(
            bnn,
            stage="training",
            epochs=self.epochs,
            learning_rate=rates,
            schedule=schedules.cosine(0.01),
            callbacks=[KeptUnits()],
        )
        bnn.freeze(bnn.masks())
        fine_tune(self, job, bnn, learning_rate=rates)
        return bnn
