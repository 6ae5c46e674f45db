"""Targeted dropout: in every step some of the smallest weights are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyrosparse import structures
from pyrosparse.distributions.precision import at_least_float32
from pyrosparse.distributions.quantile import order_statistic
from pyrosparse.lifting.method import Posterior
from pyrosparse.methods.masked_weights import MasksBySize, largest_of_rows, share_of
from pyrosparse.structures import Structure


@dataclass(frozen=True)
class TargetedDropout(MasksBySize):
    r"""Targeted dropout: the smallest weights are candidates, and in every training step each
    candidate is dropped with the same probability; at the end all of them go.

    .. math::
        w \sim \mathcal N(0, s^2), \qquad m_i = 1 - c_i\,d_i, \quad
        d_i \sim \operatorname{Bernoulli}(\alpha), \quad
        c_i = 1 \text{ of the } \lfloor \gamma n \rfloor \text{ smallest } |w_i|,
        \qquad q(w) = \delta(w - \mu)

    Nothing is rescaled, and no gradient goes through the mask. It has the same law in prior and
    guide, is drawn once for all data of a step, and not scored.

    sparsity:  gamma, the fraction that are candidates, in [0, 1); of ``n:m`` 1 - n / m.
    structure: what is dropped together, as in ``ps.structures``; blocks are ranked by the root of
               their mean square. Of ``n:m`` the candidates are the smallest m - n of every m
               consecutive inputs.
    rate:      alpha, in (0, 1].
    among:     what is ranked together: the weights or kernels of an ``output``, as in the paper, or
               all of the ``tensor``. Filters, channels and blocks of one's own are always ranked
               over the tensor, and n:m within its groups.
    scale:     the prior's standard deviation s.

    ``ps.prune.Annealing`` moves the ramp t from 0 to 1: the probability is then alpha t, and the
    fraction of candidates gamma (1.9 t) up to t = 1/2, where it is 0.95 gamma, and linear from
    there to gamma. Without it the ramp is 1 from the start. Evaluation, ``mean`` and masks
    are always those of gamma.

    Targets: weights; by default those of ``GibbsPruning``. Once a target is frozen its mask is
    final: no more is drawn.

    Raises ValueError on options out of range, and if a target has no blocks of the structure.

    Source: Gomez et al. (2019), section 3; the ramp is that of their code.

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(20, 10), TargetedDropout(sparsity=0.8))
    >>> bnn.masks()["weight"].sum(1)
    tensor([4, 4, 4, 4, 4, 4, 4, 4, 4, 4])
    """

    sparsity: float = 0.9
    structure: Structure = "weight"
    rate: float = 0.75
    among: Literal["output", "tensor"] = "output"
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.check_structure()
        self.check_sparsity()
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is a probability, in (0, 1], got {self.rate}")
        if self.among not in ("output", "tensor"):
            raise ValueError(f"among must be 'output' or 'tensor', got {self.among!r}")

    def step_mask(self, weight: Tensor, q: Posterior) -> Tensor:
        sizes, ramp = self._sizes(weight), q["_ramp"].double()
        fraction = self.sparsity * torch.where(ramp < 0.5, 1.9 * ramp, 0.9 + 0.1 * ramp)
        stays = sizes >= order_statistic(sizes, share_of(sizes.shape[1], fraction))
        kept = torch.rand_like(sizes) >= (self.rate * ramp).to(sizes)
        return self._at_elements(stays | kept, weight)

    def magnitude_mask(self, weight: Tensor) -> Tensor:
        """What is no candidate; boolean, the weight's shape. Of random weights, a random mask.

        >>> TargetedDropout(0.5).magnitude_mask(torch.tensor([[1.0, 2.0], [0.2, 0.1]]))
        tensor([[False,  True],
                [ True, False]])
        """
        return super().magnitude_mask(weight)

    def above(self, weight: Tensor) -> Tensor:
        sizes = self._sizes(weight)
        n = sizes.shape[1]
        above = largest_of_rows(sizes, n - share_of(n, self.sparsity))
        return self._at_elements(above, weight)

    def _sizes(self, weight: Tensor) -> Tensor:
        """The sizes of all blocks, (rows, n): what is ranked together is a row."""
        magnitudes = at_least_float32(weight).abs()
        if self.structure != "weight" and structures.ratio(self.structure) is None:
            magnitudes = structures.means(magnitudes.square(), self.structure).sqrt()
        else:
            magnitudes = structures.means(magnitudes, self.structure)
        if structures.ratio(self.structure) is not None:
            return magnitudes
        by_output = self.among == "output" and self.structure in ("weight", "kernel")
        rows = weight.shape[0] if by_output and weight.dim() > 1 else 1
        return magnitudes.reshape(rows, -1)

    def _at_elements(self, values: Tensor, weight: Tensor) -> Tensor:
        if values.numel() != weight.numel():
            values = values.reshape(-1, 1)
        elif self.structure == "weight":
            values = values.reshape(weight.shape)
        return structures.spread(values, self.structure, weight.shape)
