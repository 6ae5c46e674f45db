"""Pruning gated by the Bayes factor of the round before."""

from __future__ import annotations

from typing import Any, Literal

from pyrosparse.evidence import BayesFactor
from pyrosparse.infer.schedules import Schedule, constant
from pyrosparse.prune.criteria import Criterion
from pyrosparse.prune.pruner import Pruner

THRESHOLD = -0.105
"""log 0.9, nats per datum: a round may take a tenth of each datum's posterior density."""


class BayesFactorPruner(Pruner):
    r"""Callback that prunes after an epoch if the last round's Bayes factor exceeds a threshold.

    .. math::
        \log \mathrm{BF} = [\log p(D|\phi) + \log p(\phi)] - [\log p(D|\psi) + \log p(\psi)]
        > \log \beta

    psi are the weights before a round, phi those after. The first round always prunes; a round
    that does not prune has log BF = 0.

    threshold:  log beta, nats; with 0 the pruned network must be the more probable one, which is
                impossible at an optimum.
    likelihood: ``sum``, the log posterior, or ``mean``, which divides the likelihood's part by the
                number of data (the prior then nearly always decides).
    per_datum:  compare log BF / n, nats per datum, with the threshold; else log BF.
    criterion, sparsity, ramp, freeze: as for ``Pruner``, and so is what is recorded.

    Raises ValueError on a sparsity outside [0, 1) and on unknown options.

    Source: Mathew and Rowe (2023), Algorithms 1 to 3.

    >>> BayesFactorPruner("magnitude", sparsity=0.9).accepts()
    True
    """

    def __init__(
        self,
        criterion: str | Criterion = "magnitude",
        sparsity: float = 0.9,
        *,
        threshold: float = THRESHOLD,
        likelihood: Literal["mean", "sum"] = "sum",
        per_datum: bool = True,
        ramp: Schedule = constant,
        freeze: bool = False,
    ) -> None:
        super().__init__(criterion, sparsity, ramp=ramp, freeze=freeze, likelihood=likelihood)
        self.threshold = threshold
        self.per_datum = per_datum
        self._last: float | None = None

    def accepts(self) -> bool:
        return self._last is None or self._last > self.threshold

    def learn(self, factor: BayesFactor) -> None:
        self._last = factor.per_datum if self.per_datum else factor.total

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._last = state["last"]
