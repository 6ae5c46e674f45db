"""Movement: weights that training drives towards zero go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyrosparse.infer import Fit
from pyrosparse.prune.located import located_weights
from pyrosparse.prune.run_criterion import RunCriterion


@dataclass(kw_only=True)
class Movement(RunCriterion):
    r"""Movement as a criterion: keep the weights that move away from zero.

    .. math:: S_i = -\sum_t w_i^{(t)} \frac{\partial L}{\partial w_i^{(t)}}

    L is the loss of the run, the negative ELBO including the prior. The sum is over all steps so
    far. Use it for fine-tuning, where magnitudes reflect only the pretraining.

    scope, at_least, structure: as for ``keep_largest``.

    Raises ValueError in a run with ``compact_every``, whose weights change their shapes.

    Source: Sanh et al. (2020), section 3.

    >>> Movement().scope
    'tensor'
    """

    _sums: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def start(self, run: Fit) -> None:
        if run.shrink is not None:
            raise ValueError(
                "movement is summed for each weight, and compact_every removes weights: leave it "
                "out"
            )
        weights = located_weights(run.lifted)
        for name, weight in weights.items():
            # A resumed run has its sums from the checkpoint.
            known = self._sums[name].to(weight) if run.history else torch.zeros_like(weight)
            self._sums[name] = known

        def add(*_: Any) -> None:
            with torch.no_grad():
                for name, weight in weights.items():
                    if weight.grad is not None:
                        self._sums[name].addcmul_(weight, weight.grad, value=-1)

        # Here, as gradients are gone when a step is done.
        run.optimizer.register_step_pre_hook(add)

    def scores(self, run: Fit) -> dict[str, Tensor]:
        return dict(self._sums)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = dict(state["sums"])
