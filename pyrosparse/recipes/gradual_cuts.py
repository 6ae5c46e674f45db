"""Cuts by magnitude every so many steps, each of more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pyrosparse.infer import Callback, Fit
from pyrosparse.infer.momentum import forget_momentum
from pyrosparse.infer.schedules import Schedule
from pyrosparse.lifting.masks import Masks
from pyrosparse.prune.pruner import weights_of


class GradualCuts(Callback):
    """Freezes what a function of the weights does not keep, while a ramp rises.

    keep:  the mask of a weight at a share of all that is to go, in [0, 1].
    names: of the weights.
    ramp:  that share, as a function of progress; nothing is cut while it is 0.
    every: steps between two cuts. The last one is where the ramp reaches 1.
    """

    def __init__(
        self,
        keep: Callable[[Tensor, float], Tensor],
        names: Sequence[str],
        ramp: Schedule,
        every: int,
    ) -> None:
        self.keep, self.names, self.ramp, self.every = keep, names, ramp, every
        self.reached = 0.0

    def on_step(self, run: Fit, progress: float) -> None:
        share = self.ramp(progress)
        if share > self.reached and (share == 1 or run.step % self.every == 0):
            self._cut(run, share)

    def on_end(self, run: Fit) -> dict[str, Any]:
        if self.reached < 1:  # a ramp that ends with training
            self._cut(run, 1.0)
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"reached": self.reached}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reached = state["reached"]

    def _cut(self, run: Fit, share: float) -> None:
        weights = {name: weights_of(run)[name] for name in self.names}
        # What is gone stays gone, also where the quantile is 0 and a zero is as large as that.
        masks = {name: self.keep(one, share) & (one != 0) for name, one in weights.items()}
        run.lifted.freeze(Masks(masks))
        forget_momentum(run.optimizer, run.lifted)
        self.reached = share
