"""A cut by magnitude in the course of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pyrosparse.infer import Callback, Fit
from pyrosparse.infer.momentum import forget_momentum
from pyrosparse.lifting.masks import Masks
from pyrosparse.prune.pruner import weights_of


class CutOnce(Callback):
    """Freezes what a function of the weights does not keep, at the end of one epoch.

    keep:  a weight's mask.
    names: of the weights.
    at:    the share of training after which weights are pruned.
    """

    def __init__(self, keep: Callable[[Tensor], Tensor], names: Sequence[str], at: float) -> None:
        self.keep, self.names, self.at = keep, names, at

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        if run.epoch == max(1, round(self.at * run.epochs)):
            weights = weights_of(run)
            run.lifted.freeze(Masks({name: self.keep(weights[name]) for name in self.names}))
            forget_momentum(run.optimizer, run.lifted)
        return {}
