"""Draws of the posterior itself, by the No-U-Turn sampler: what others are compared with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrosparse.recipes import shared
from pyrosparse.recipes.option import option
from pyrosparse.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job


@dataclass(frozen=True)
class Nuts(Recipe):
    """Draw weights and biases of a small network from their posterior by NUTS (Hoffman and Gelman
    2014)."""

    name: ClassVar[str] = "nuts"
    knob: ClassVar[str] = "scale"
    scale: float = shared.scale(0.3)
    samples: int = option(200, "draws that are kept", within="4..")
    warmup: int = option(200, "draws before, in which step size and masses adapt", within="1..")
    depth: int = option(6, "most doublings of a trajectory: 2^depth - 1 steps", within="1..")

    def train(self, job: Job) -> Lifted:
        import torch
        from pyro.infer import MCMC
        from pyro.infer.autoguide import init_to_sample

        from pyrosparse.captured import CapturedNUTS
        from pyrosparse.evidence.given import AnyDraw
        from pyrosparse.evidence.traces import evaluation_mode
        from pyrosparse.lifting.lift import lift
        from pyrosparse.lifting.target import weights
        from pyrosparse.methods import Gaussian
        from pyrosparse.models.latents import ModelGuide
        from pyrosparse.recipes.job import Stage

        # Biases too: NUTS trains no parameter.
        method = Gaussian(scale=self.scale, posterior="normal")
        bnn = lift(job.net, method, weights(job.net, "*"))
        model = job.model(bnn)
        kernel = CapturedNUTS(model, max_tree_depth=self.depth, init_strategy=init_to_sample)
        mcmc = MCMC(kernel, self.samples, warmup_steps=self.warmup, disable_progbar=True)
        started = time.perf_counter()
        torch.manual_seed(job.seed)
        with evaluation_mode(bnn):
            mcmc.run(*job.data.some(job.data.n, seed=0))
        draws = mcmc.get_samples()
        bnn.match_moments(draws)
        if isinstance(getattr(model, "guide", None), ModelGuide):
            model.guide.match_moments(draws)
        diverged = sum(len(found) for found in mcmc.diagnostics()["divergences"].values())
        seconds = round(time.perf_counter() - started, 3)
        entry = {"epoch": 1, "seconds": seconds, "diverging": diverged}
        job.stages.append(Stage(self.name, [entry]))
        job.fitted, job.guide = model, AnyDraw(draws)
        return bnn
