"""Movement pruning: masks by scores that are trained beside the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyrosparse import structures
from pyrosparse.distributions import IsotropicNormal, Penalty, Point
from pyrosparse.distributions.quantile import order_statistic
from pyrosparse.lifting.method import Posterior, draws_of, normal_moments
from pyrosparse.lifting.target import Target
from pyrosparse.methods.masked_weights import MaskedWeights, largest_of_rows, share_of
from pyrosparse.structures import Structure

_GONE = -20.0
"""The score of what is frozen at zero in the soft form: it costs next to nothing."""


@dataclass(frozen=True)
class MovementPruning(MaskedWeights):
    r"""Movement pruning: each weight has a trained score, which rises if training moves the weight
    away from zero.

    .. math::
        w \sim \mathcal N(0, s^2), \qquad m = \mathbb 1[S \text{ is among the largest } 1 - v],
        \qquad q(w) = \delta(w - \mu), \qquad
        \frac{\partial L}{\partial S} := \frac{\partial L}{\partial m}
        = w\, \frac{\partial L}{\partial (w m)}

    The gradient of the mask is passed to the scores unchanged (straight through), also where the
    mask is 0. The scores have a flat prior: they are not Pyro sites, and the ELBO has an arbitrary
    constant. In the soft form a weight stays if its score is above a threshold, and the scores have
    a cost:

    .. math::
        m = \mathbb 1[S \ge \tau], \qquad p(S) \propto e^{-c \sum_i \operatorname{sigm}(S_i)}

    sparsity:  v, the share that is pruned, in [0, 1); for ``n:m`` 1 - n / m; None for the soft
               form.
    structure: which weights share a score, as in ``ps.structures``. ``n:m`` keeps the n largest of
               every m consecutive inputs.
    cost:      c of the soft form, nats for each weight: n lambda where the paper has lambda beside
               the mean loss of n data. A block's is that of all its weights.
    least_score: tau of the soft form.
    scale:     the prior's standard deviation s.

    The scores start at 0, in an entry ``scores`` of the posterior, one for each block. In training,
    all blocks with a score equal to the smallest kept one stay; the final masks keep the exact
    number. ``ps.prune.Annealing`` raises the ramp t from 0 to 1: the share that is pruned is then v
    t. Evaluation, ``mean`` and masks use v.

    Use it for fine-tuning a trained network: magnitude reflects only the first training, but the
    scores reflect the new data. Give the scores their own learning rate (``learning_rate`` by
    glob).

    Targets: weights; by default those of ``GibbsPruning``. The mask of a frozen target is final.

    Raises ValueError if an option is out of range or a target has no blocks of the structure.

    Source: Sanh, Wolf and Rush (2020), section 4.

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(20, 10), MovementPruning(sparsity=0.8))
    >>> bnn.masks().kept
    40
    """

    sparsity: float | None = 0.9  # type: ignore[assignment]
    structure: Structure = "weight"
    cost: float = 0.0
    least_score: float = 0.0
    scale: float = 1.0

    @property
    def proper(self) -> bool:  # type: ignore[override]
        """Whether the prior is a distribution; the soft form's, of the scores, is not."""
        return self.sparsity is not None

    def __post_init__(self) -> None:
        self.check_structure()
        for name in ("cost", "least_score"):
            value = getattr(self, name)
            if not math.isfinite(value) or (name == "cost" and value < 0):
                raise ValueError(f"{name} must be finite, and a cost at least 0, got {value}")
            if value and self.sparsity is not None:
                raise ValueError(
                    f"{name} belongs to the soft form, but a sparsity was given, which keeps the "
                    f"largest scores: leave {name} out, or give sparsity=None"
                )
        if self.sparsity is not None:
            self.check_sparsity()
        elif structures.ratio(self.structure) is not None:
            raise ValueError(
                f"the soft form does not support {self.structure}, which keeps a fixed number of "
                "weights: give sparsity, or choose another structure"
            )

    def init(self, target: Target) -> dict[str, Tensor]:
        q = super().init(target)
        of_blocks = structures.means(q["loc"].detach(), self.structure)
        return q | {"scores": torch.zeros_like(of_blocks, dtype=q["_ramp"].dtype)}

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        loc, scores = q["loc"], q["scores"]
        prior = IsotropicNormal(self.scale, target.shape, dtype=loc.dtype, device=loc.device)
        weight = pyro.sample(target.site, prior)
        if self.sparsity is None:
            each = self.cost * math.prod(target.shape) / scores.numel()
            law = Penalty(lambda s: -each * torch.sigmoid(s), scores)
            q = _with_scores(q, pyro.sample(_site(target), law))
        with torch.no_grad():
            mask = self.mask(target, q, weight.detach())
        scores = structures.spread(q["scores"], self.structure, target.shape)
        return weight * (mask + (~q["_final"] * (scores - scores.detach())).to(mask))

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        weight = super().guide(target, q, x)
        if self.sparsity is None:
            pyro.sample(_site(target), Point(q["scores"]))
        return weight

    def part(
        self, target: Target, q: Posterior, smaller: Target, positions: Tensor
    ) -> dict[str, Tensor]:
        found = super().part(target, q, smaller, positions)
        if q["scores"].shape != target.shape:
            # The blocks are others now, and no score counts any more.
            found["scores"] = torch.zeros_like(structures.means(found["loc"], self.structure))
        return found

    def step_mask(self, weight: Tensor, q: Posterior) -> Tensor:
        if self.sparsity is None:
            return self.excess(weight, q) >= 0
        rows = self._rows(q["scores"])
        fraction = self.sparsity * q["_ramp"].double()
        stays = rows >= order_statistic(rows, share_of(rows.shape[1], fraction))
        return self._at_elements(stays, q)

    def excess(self, weight: Tensor, q: Posterior) -> Tensor:
        scores = q["scores"].detach()
        if self.sparsity is None:
            return structures.spread(scores - self.least_score, self.structure, weight.shape)
        rows = self._rows(scores)
        n = rows.shape[1]
        return self._at_elements(largest_of_rows(rows, n - share_of(n, self.sparsity)), q)

    def hidden_draws(self, q: Posterior) -> bool:
        return False

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        super().forget(target, q, removed)
        if self.sparsity is None:
            scores = q["scores"]
            gone = removed
            if scores.shape != removed.shape:
                gone = self.blocks(removed).all(1, keepdim=True)
            scores.masked_fill_(gone, _GONE)

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        super().match_moments(target, q, draws)
        if self.sparsity is None:
            normal_moments(draws_of(draws, _site(target), tuple(q["scores"].shape)), q["scores"])

    def _rows(self, scores: Tensor) -> Tensor:
        """The scores with what is ranked together in a row."""
        return scores if structures.ratio(self.structure) is not None else scores.reshape(1, -1)

    def _at_elements(self, rows: Tensor, q: Posterior) -> Tensor:
        values = rows.reshape(q["scores"].shape)
        return structures.spread(values, self.structure, q["loc"].shape)


def _site(target: Target) -> str:
    return target.part("scores")


def _with_scores(q: Posterior, scores: Tensor) -> Posterior:
    other = Posterior(q | {"scores": scores})
    other.training = q.training
    return other
