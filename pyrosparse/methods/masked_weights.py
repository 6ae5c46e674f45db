"""Weights under masks that are made anew in every step: what the methods that draw them share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import torch
from torch import Tensor, nn

from pyrosparse import structures
from pyrosparse.distributions import IsotropicNormal, Point
from pyrosparse.distributions.precision import at_least_float32
from pyrosparse.lifting.method import Method, Posterior, draws_of, normal_moments
from pyrosparse.lifting.target import Target, weights
from pyrosparse.structures import Structure


class MaskedWeights(Method):
    r"""Weights with a new mask in every step. The mask has the same distribution in prior and
    guide, so it is not scored.

    .. math:: w \sim \mathcal N(0, s^2), \qquad q(w) = \delta(w - \mu), \qquad
        \text{the network computes with } w \odot m

    Subclass it as a frozen dataclass with at least ``sparsity``, ``structure`` and ``scale``, and
    write ``step_mask`` and ``excess``. Masks have no gradient. In evaluation mode, in ``mean`` and
    in ``masks()``, elements stay if their ``excess`` is at least 0. The mask of a frozen target is
    final: no more masks are drawn.

    annealed: the quantity that ``ps.prune.Annealing`` changes as training goes on, in the
              posterior's buffer of that name, with an underscore in front.

    Raises ValueError if no weight of the network has a number of inputs that fits the groups of the
    structure, and if a target is cut whose mask is not final.
    """

    annealed: ClassVar[str] = "ramp"
    sparsity: float
    structure: Structure
    scale: float

    @abstractmethod
    def step_mask(self, weight: Tensor, q: Posterior) -> Tensor:
        """The mask of a training step given the weight, in its shape, of any dtype."""

    @abstractmethod
    def excess(self, weight: Tensor, q: Posterior) -> Tensor:
        """How far an element is above what it takes to stay at the end, in the weight's shape: at
        least 0 where it stays."""

    @property
    def at_first(self) -> float:
        """The annealed quantity where nothing anneals it; by default 1, all of a ramp."""
        return 1.0

    def check_structure(self) -> None:
        """Refuse structure and scale where they are out of range.

        Raises ValueError."""
        structures.check(self.structure)
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale must be positive and finite, got {self.scale}")

    def check_sparsity(self) -> None:
        """Refuse a sparsity that is no fraction, or not that of the structure.

        Raises ValueError."""
        if not 0 <= self.sparsity < 1:
            raise ValueError(
                "sparsity is the share of the weights that is pruned, in [0, 1), "
                f"got {self.sparsity}"
            )
        ratio = structures.ratio(self.structure)
        if ratio is not None and abs(self.sparsity - 1 + ratio[0] / ratio[1]) > 1e-3:
            raise ValueError(
                f"the sparsity of structure {self.structure} is {1 - ratio[0] / ratio[1]:.4g}: "
                f"set sparsity to this, got {self.sparsity}"
            )

    def targets(self, net: nn.Module) -> list[Target]:
        layers = weights(net)
        convolutions = [target for target in layers if len(target.shape) > 2][1:]
        ratio = structures.ratio(self.structure)
        if ratio is not None:
            layers = [one for one in layers if one.shape[1] % ratio[1] == 0]
            convolutions = [one for one in convolutions if one.shape[1] % ratio[1] == 0]
            if not layers:
                raise ValueError(
                    "no weight of the network has a number of inputs that is a multiple of "
                    f"{ratio[1]}, as structure={self.structure!r} needs: choose another structure"
                )
        if self.structure in ("filter", "channel"):
            convolutions = [one for one in convolutions if math.prod(one.shape[2:]) > 1]
        return convolutions or layers

    def init(self, target: Target) -> dict[str, Tensor]:
        value = target.value
        assert value is not None
        self.blocks(value.detach())
        dtype = torch.promote_types(value.dtype, torch.float32)
        return {
            "loc": value,
            f"_{self.annealed}": torch.full((), self.at_first, dtype=dtype, device=value.device),
            "_final": torch.zeros((), dtype=torch.bool, device=value.device),
        }

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        loc = q["loc"]
        prior = IsotropicNormal(self.scale, target.shape, dtype=loc.dtype, device=loc.device)
        weight = pyro.sample(target.site, prior)
        with torch.no_grad():
            mask = self.mask(target, q, weight.detach())
        return weight * mask

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return pyro.sample(target.site, Point(q["loc"]))

    def score(self, target: Target, q: Posterior) -> Tensor:
        loc = q["loc"].detach()
        # What is frozen at zero has been taken out by then: all the others stay.
        return torch.where(q["_final"], at_least_float32(loc).square(), self.excess(loc, q))

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["loc"] * (self.score(target, q) >= 0)

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        q["_final"].copy_(removed.any())

    def part(
        self, target: Target, q: Posterior, smaller: Target, positions: Tensor
    ) -> dict[str, Tensor]:
        if not bool(q["_final"]):
            raise ValueError(
                f"the mask of {target.key!r} is not final: {type(self).__name__} computes it from "
                "all weights together, so a part of the weights would get a different mask. "
                "Freeze the mask first, "
                "bnn.freeze(bnn.masks()) or masks=bnn.masks()"
            )
        ratio = structures.ratio(self.structure)
        if ratio is not None and smaller.shape[1] % ratio[1]:
            raise ValueError(
                f"{smaller.shape[1]} inputs of {target.key!r} remain, which cannot be divided "
                "into groups of "
                f"{ratio[1]}, and {type(self).__name__} with structure={self.structure!r} needs "
                "such groups: compact the plain network, ps.compact(bnn.net, masks, example)"
            )
        return super().part(target, q, smaller, positions)

    def hidden_draws(self, q: Posterior) -> bool:
        return q.training and not bool(q["_final"])

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        normal_moments(draws_of(draws, target.site, target.shape), q["loc"])

    def final_mask(self, target: Target, q: Posterior) -> Tensor:
        """What stays in the end; boolean, ``target.shape``."""
        with torch.no_grad():
            return self.excess(q["loc"].detach(), q) >= 0

    def mask(self, target: Target, q: Posterior, weight: Tensor) -> Tensor:
        """The mask of a forward pass, given the weight: made anew in training, and what stays in
        the end otherwise; 1 everywhere once it is final. In the weight's shape and dtype."""
        mask = self.step_mask(weight, q) if q.training else self.excess(weight, q) >= 0
        return torch.where(q["_final"], 1.0, mask.to(weight)).to(weight)

    def blocks(self, tensor: Tensor) -> Tensor:
        """A tensor of a target's shape as ``ps.structures.blocks`` arranges it."""
        return structures.blocks(tensor, self.structure)


class MasksBySize(MaskedWeights):
    """Masks that in the end are those of the sizes of the weights alone; write ``above``."""

    @abstractmethod
    def above(self, weight: Tensor) -> Tensor:
        """``excess``, of a weight."""

    def excess(self, weight: Tensor, q: Posterior) -> Tensor:
        return self.above(weight)

    def magnitude_mask(self, weight: Tensor) -> Tensor:
        """What stays of a weight in the end; boolean, the weight's shape. Of random weights, a
        random mask."""
        return self.above(weight) >= 0


def largest_of_rows(values: Tensor, count: int) -> Tensor:
    """How far the values of each row are above the least of its ``count`` largest: at least 0 of
    exactly so many (ties by position), and less of the others; (rows, n).

    >>> largest_of_rows(torch.tensor([[4.0, 1.0, 3.0], [2.0, 2.0, 2.0]]), 2) >= 0
    tensor([[ True, False,  True],
            [ True,  True, False]])
    """
    on = values.topk(count, 1).indices
    kept = torch.zeros_like(values, dtype=torch.bool).scatter(1, on, True)
    above = values - values.masked_fill(~kept, torch.inf).amin(1, keepdim=True)
    return torch.where(kept, above, above.clamp_max(-torch.finfo(above.dtype).tiny))


def share_of(n: int, fraction: Any) -> Any:
    """How many of n a fraction is, rounded down, and fewer than all: of 100, 0.29 is 29, which it
    is not in floating point.

    fraction: a float, or a float64 tensor without dimensions; the result is an int, or int64.

    >>> share_of(100, 0.29), int(100 * 0.29), share_of(10, torch.tensor(0.5).double())
    (29, 28, tensor(5))
    """
    exact = n * fraction + 1e-6
    return exact.long().clamp_max(n - 1) if isinstance(exact, Tensor) else min(int(exact), n - 1)
