"""Gibbs pruning: weights under masks drawn from an annealed Gibbs distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pyrosparse import structures
from pyrosparse.distributions import BipartiteGibbsMask, ConditionalBernoulli, GibbsMask
from pyrosparse.distributions.precision import at_least_float32
from pyrosparse.distributions.quantile import quantile
from pyrosparse.lifting.method import Posterior
from pyrosparse.lifting.target import Target
from pyrosparse.methods.masked_weights import MasksBySize, largest_of_rows
from pyrosparse.structures import Structure

_COUPLING = {"weight": 0.0, "kernel": 0.01, "filter": 1.0, "channel": 1.0}


@dataclass(frozen=True)
class GibbsPruning(MasksBySize):
    r"""Gibbs pruning: every training step draws a mask that removes small weights with a
    probability that rises as its temperature falls.

    .. math::
        w \sim \mathcal N(0, s^2), \qquad
        p(x \mid w) \propto e^{-\beta H(x)}, \quad
        H(x) = \sum_i (Q_p - w_i^2)\, x_i - c \sum_k \sum_{i \ne j \in \mathcal N_k} x_i x_j,
        \qquad q(w) = \delta(w - \mu)

    The network computes with :math:`w_i (x_i + 1) / 2`. :math:`Q_p` is the p-quantile of the
    squared weights of the target, or of their means over the blocks :math:`\mathcal N_k`. The mask
    has the same distribution in prior and guide: it is drawn once for all data of a step, and not
    scored.

    This is cut inference: no gradient goes through the mask, its field or :math:`Q_p`. If the mask
    were scored, the likelihood would also change the weights to make good masks more probable. Here
    the gradient is that of the likelihood for the weights that stay in the mask, plus that of the
    Gaussian prior, :math:`-w / s^2`, for all weights.

    sparsity:   p, the share that is pruned, in [0, 1); for ``n:m`` 1 - n / m.
    structure:  what is pruned together, as in ``ps.structures``: ``weight`` (single weights),
                ``kernel``, ``filter``, ``channel``, a function that arranges a tensor as (blocks,
                n), or ``n:m``: every mask keeps exactly n of every m consecutive inputs; its
                distribution is that of single weights under this condition.
    coupling:   c, between the elements of a block; by default 0 for single weights, 1 for filters
                and channels, and 0.01 for all others.
    convention: ``paper`` or ``reference-code``, as for ``GibbsMask``.
    beta:       the inverse temperature; ``ps.prune.Annealing`` raises it as training goes on. It is
                in the posterior's buffer ``_beta``, and so in the state dict.
    relative:   divide w by its root mean square over the target, so that beta and c mean the same
                in every layer; by default, as in the paper, w is not divided.
    sweeps, start: of the sampler of filters and channels, as for ``BipartiteGibbsMask``, whose
                colours are the halves of the inputs of a filter, and of the outputs of a channel.
                All other structures are drawn exactly.
    final:      the mask that ``Annealing`` leaves at the end: one ``draw``, the ``mode`` of the
                distribution, or ``magnitude``: blocks with a mean square of :math:`Q_p` or more.
    scale:      the prior's standard deviation s.

    Targets: weights; by default, as in the paper, those of all convolutions except the first, and
    for filters without 1 x 1 convolutions. If there are none, all weights. For ``n:m`` those whose
    number of inputs is a multiple of m. ``score`` is the mean square of a block minus :math:`Q_p`,
    so ``masks()`` are magnitude masks; ``mean`` and evaluation mode use them too. The mask of a
    frozen target is final: no more masks are drawn.

    For weights in bfloat16 or float16, squares, quantile and distribution are computed in float32.

    Raises ValueError if an option is out of range or a target has no blocks of the structure.

    Source: Labach and Valaee (2020), eqs. 2 to 4 and Algorithm 1.

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(20, 10), GibbsPruning(sparsity=0.8, beta=1e6))
    >>> bnn.masks().sparsity
    0.8
    """

    annealed: ClassVar[str] = "beta"
    sparsity: float = 0.9
    structure: Structure = "weight"
    coupling: float | None = None
    convention: Literal["paper", "reference-code"] = "paper"
    beta: float = 1.0
    relative: bool = False
    sweeps: int = 50
    start: Literal["magnitude", "random"] = "magnitude"
    final: Literal["draw", "mode", "magnitude"] = "draw"
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.check_structure()
        self.check_sparsity()
        alone = self.structure == "weight" or structures.ratio(self.structure) is not None
        if self.coupling is not None and alone and self.coupling != 0:
            raise ValueError(
                f"single weights have no coupling, got {self.coupling} with structure="
                f"{self.structure!r}"
            )
        if self.final not in ("draw", "mode", "magnitude"):
            raise ValueError(f"final must be 'draw', 'mode' or 'magnitude', got {self.final!r}")
        BipartiteGibbsMask(
            torch.zeros(1),
            self.beta,
            self._c,
            sweeps=self.sweeps,
            start=self.start,
            convention=self.convention,
        )

    @property
    def _c(self) -> float:
        """c, or what it is by default."""
        if self.coupling is not None:
            return self.coupling
        return 0.01 if callable(self.structure) else _COUPLING.get(self.structure, 0.0)

    @property
    def at_first(self) -> float:
        return self.beta

    def step_mask(self, weight: Tensor, q: Posterior) -> Tensor:
        drawn = self.law(self.field(weight), q).sample()
        return structures.unblocked(drawn, self.structure, weight.shape)

    def final_mask(self, target: Target, q: Posterior) -> Tensor:
        """The final mask: one draw, the mode or the magnitude mask, as ``final`` says; boolean,
        ``target.shape``."""
        with torch.no_grad():
            loc = q["loc"].detach()
            if self.final == "magnitude":
                return self.magnitude_mask(loc)
            law = self.law(self.field(loc), q)
            mask = law.mode if self.final == "mode" else law.sample()
            return structures.unblocked(mask, self.structure, target.shape) != 0

    def magnitude_mask(self, weight: Tensor) -> Tensor:
        """The blocks whose mean square is the quantile or more: all that stays of a weight as beta
        and c grow; boolean, the weight's shape. Of random weights, a random mask.

        >>> GibbsPruning(0.5, "filter").magnitude_mask(torch.tensor([[1.0, 0.0], [0.1, 0.2]]))
        tensor([[ True,  True],
                [False, False]])
        """
        # Squares of weights that weight decay made tiny are zero in float32: all would stay.
        return super().magnitude_mask(weight.double())

    def field(self, weight: Tensor) -> Tensor:
        """b = Q_p - w^2, arranged in blocks, and -w^2 of n:m, where Q_p makes no difference;
        float32, or the weight's dtype where that has more."""
        squares = at_least_float32(weight).square()
        blocks = self.blocks(squares)
        if structures.ratio(self.structure) is not None:
            field = -blocks
        else:
            field = quantile(structures.means(squares, self.structure), self.sparsity) - blocks
        if self.relative:
            field = field / blocks.mean().clamp_min(torch.finfo(blocks.dtype).tiny)
        return field

    def law(
        self, field: Tensor, q: Posterior
    ) -> GibbsMask | BipartiteGibbsMask | ConditionalBernoulli:
        """The distribution of the mask given its field; each block is one event."""
        beta, convention = q["_beta"], self.convention
        ratio = structures.ratio(self.structure)
        if ratio is not None:
            per_field = -2 if convention == "paper" else -1
            logits = per_field * beta.double() * field.double()
            return ConditionalBernoulli(logits, ratio[0], validate_args=False)
        if self.structure not in ("filter", "channel"):
            return GibbsMask(field, beta, self._c, convention=convention, validate_args=False)
        shape, n = q["loc"].shape, field.shape[-1]
        # The colours are halves of what the block is of: of the inputs of a filter, say.
        across = shape[0] if self.structure == "channel" else (shape[1] if len(shape) > 1 else 1)
        return BipartiteGibbsMask(
            field,
            beta,
            self._c,
            split=across // 2 * (n // across) if across > 1 else n // 2,
            sweeps=self.sweeps,
            start=self.start,
            convention=convention,
            validate_args=False,
        )

    def above(self, weight: Tensor) -> Tensor:
        """By how much the mean square of an element's block is above the quantile; of n:m, its own
        square above the least that stays of its group."""
        means = structures.means(at_least_float32(weight).square(), self.structure)
        ratio = structures.ratio(self.structure)
        if ratio is None:
            above = means - quantile(means, self.sparsity)
        else:
            above = largest_of_rows(means, ratio[0])
        return structures.spread(above, self.structure, weight.shape)
