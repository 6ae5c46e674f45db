"""What is left of a network is fine-tuned: gains in its own weights, and zeros that stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job


def fold_and_fine_tune(
    job: Job, masks: Mapping[str, Tensor], *, scale: float, learning_rate: float, epochs: int
) -> Lifted:
    """Fold masks and gains into the network of a job, and train what is left under the Gaussian
    prior alone, with new draws of batches; returns it lifted, with what is gone frozen at zero.

    epochs: 0 for none.
    """
    from pyrosparse.compaction.masked import masked
    from pyrosparse.infer import schedules
    from pyrosparse.lifting.lift import lift
    from pyrosparse.lifting.target import weights
    from pyrosparse.methods import Gaussian

    job.net.load_state_dict(masked(job.net, masks).state_dict())
    targets = {target.key: target for target in weights(job.net)}
    parameters = dict(job.net.named_parameters())
    # Scales and shifts of normalisations that masks are of.
    norms = [key for key in masks if key in parameters and key not in targets]
    targets |= {target.key: target for target in (weights(job.net, norms) if norms else [])}
    bnn = lift(job.net, Gaussian(scale=scale), list(targets.values()))
    bnn.freeze({key: parameters[key] != 0 for key in targets} | {key: masks[key] for key in norms})
    if epochs:
        job.fit(
            bnn,
            stage="fine-tuning",
            epochs=epochs,
            learning_rate=learning_rate,
            schedule=schedules.cosine(0.01),
            seed=job.seed + 1,
        )
    return bnn
