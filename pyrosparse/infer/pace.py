"""Learning rates and the weight of the KL divergence as functions of training progress."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from pyrosparse.infer.scaling import kl_scale as scale_kl
from pyrosparse.infer.schedules import Schedule


class Pace:
    """Sets the rates of an optimizer and the weight of the KL divergence before each step.

    optimizer: an optimizer with the rates that the schedule multiplies.
    batches:   the number of minibatches in a whole epoch; None if unknown.
    schedule, weight, warmup: as for ``fit``: its ``schedule``, ``kl_scale`` and ``kl_warmup``.

    kl_scale: the handler that scales the KL divergence; enter it around the steps.

    >>> sgd = torch.optim.SGD([torch.ones(1)], lr=0.1)
    >>> pace = Pace(sgd, 4, 10, lambda progress: 1 - progress, weight=1.0, warmup=2)
    >>> pace.set(1, 0), sgd.param_groups[0]["lr"], float(pace.kl_scale.scale)
    (0.25, 0.075..., 0.5)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        epochs: int,
        batches: int | None,
        schedule: Schedule,
        *,
        weight: float,
        warmup: int,
    ) -> None:
        self.optimizer = optimizer
        self.epochs = epochs
        self.batches = batches
        self.schedule = schedule
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.weight = weight
        self.warmup = warmup
        # A captured step reads a changing weight from a tensor.
        self._weight_now = torch.tensor(weight, dtype=torch.float64)
        self.kl_scale = scale_kl(self._weight_now if warmup else weight)

    def set(self, epoch: int, index: int) -> float:
        """Set rates and weight for a step, with epoch and minibatch counted from 0; returns the
        share of training that is done, in [0, 1]."""
        position = epoch + (index / self.batches if self.batches else 0.0)
        progress = min(position / self.epochs, 1.0)
        if self.warmup:
            self._weight_now.fill_(self.weight * min(1.0, position / self.warmup))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.schedule(progress)
        return progress
