"""Gibbs pruning: weights under masks drawn from an annealed Gibbs distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pyro
import torch
from torch import Tensor, nn

from pyrosparse import structures
from pyrosparse.distributions import BipartiteGibbsMask, GibbsMask, IsotropicNormal, Point
from pyrosparse.distributions.precision import at_least_float32
from pyrosparse.distributions.quantile import quantile
from pyrosparse.lifting.method import Method, Posterior, draws_of, normal_moments
from pyrosparse.lifting.target import Target, weights

Structure = Literal["weight", "kernel", "filter"] | Callable[[Tensor], Tensor]

_COUPLING = {"weight": 0.0, "kernel": 0.01, "filter": 1.0}


@dataclass(frozen=True)
class GibbsPruning(Method):
    r"""Gibbs pruning: in every training step a mask is drawn that tends to remove small weights, at
    first loosely and, as its temperature falls, in earnest.

    .. math::
        w \sim \mathcal N(0, s^2), \qquad
        p(x \mid w) \propto e^{-\beta H(x)}, \quad
        H(x) = \sum_i (Q_p - w_i^2)\, x_i - c \sum_k \sum_{i \ne j \in \mathcal N_k} x_i x_j,
        \qquad q(w) = \delta(w - \mu)

    The network computes with :math:`w_i (x_i + 1) / 2`. :math:`Q_p` is the p-quantile of the
    squared weights of the target, or of their means over the blocks :math:`\mathcal N_k`. The mask
    has the same law in prior and guide: it is drawn once, for all data of a step, and not scored.

    This is cut inference: no gradient goes through the mask, its field or :math:`Q_p`. Scored
    as a model, the mask would pull on the weights too, as far as they change its probability. So
    the ELBO's gradient is that of the likelihood through the weights that are kept, and that
    of the Gaussian prior, :math:`-w / s^2`, on all.

    sparsity:   p, the fraction that goes, in [0, 1).
    structure:  what goes together: ``weight`` (each alone), ``kernel`` (the k x k weights between
                two channels), ``filter`` (all that leads to an output), or a function that
                arranges a tensor of the target's shape as (blocks, n), of which it must move the
                elements only.
    coupling:   c, of the elements of a block; 0, 0.01, 1 and 0.01 by default.
    convention: ``paper`` or ``reference-code``, as for ``GibbsMask``.
    beta:       the inverse temperature; ``ps.prune.Annealing`` raises it as training goes on. It is
                in the posterior's buffer ``_beta``, and so in the state dict.
    relative:   measure w in units of its root mean square over the target, so that beta and c
                mean the same in every layer; otherwise, as in the paper, they act on w as it is.
    sweeps, start: of the sampler of filters, as for ``BipartiteGibbsMask``, whose colours are the
                halves of the input channels. Kernels and blocks of one's own are drawn exactly.
    final:      the mask that ``Annealing`` leaves at the end: one ``draw``, the ``mode`` of the
                law, or ``magnitude``: what has a mean square of :math:`Q_p` or more.
    scale:      the prior's standard deviation s.

    Targets: weights; by default, as in the paper, those of all convolutions but the first, and for
    filters none of 1 x 1; where that leaves none, all weights. ``score`` is how far the
    mean square of a block is above :math:`Q_p`, so that ``masks()`` are those of magnitude; they
    are in ``mean`` too, and in use in evaluation mode. Once a target is frozen its mask is final:
    no more is drawn.

    Of weights in bfloat16 or float16, squares, quantile and law are computed in float32.

    Raises ValueError on options out of range, and where a target has no kernels.

    Source: Labach and Valaee (2020), eqs. 2 to 4 and Algorithm 1.

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(20, 10), GibbsPruning(sparsity=0.8, beta=1e6))
    >>> bnn.masks().sparsity
    0.8
    """

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
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity is the fraction that goes, in [0, 1), got {self.sparsity}")
        if not callable(self.structure) and self.structure not in _COUPLING:
            raise ValueError(
                "structure must be 'weight', 'kernel', 'filter' or a function, got "
                f"{self.structure!r}"
            )
        if self.coupling is not None and self.structure == "weight" and self.coupling != 0:
            raise ValueError(f"weights that go alone have no coupling, got {self.coupling}")
        if self.final not in ("draw", "mode", "magnitude"):
            raise ValueError(f"final must be 'draw', 'mode' or 'magnitude', got {self.final!r}")
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale must be positive and finite, got {self.scale}")
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
        return 0.01 if callable(self.structure) else _COUPLING[self.structure]

    def targets(self, net: nn.Module) -> list[Target]:
        layers = weights(net)
        convolutions = [target for target in layers if len(target.shape) > 2][1:]
        if self.structure == "filter":
            convolutions = [one for one in convolutions if math.prod(one.shape[2:]) > 1]
        return convolutions or layers

    def init(self, target: Target) -> dict[str, Tensor]:
        value = target.value
        assert value is not None
        self.blocks(value.detach())
        return {
            "loc": value,
            "_beta": torch.full(
                (),
                self.beta,
                dtype=torch.promote_types(value.dtype, torch.float32),
                device=value.device,
            ),
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
        score = self._excess(loc)
        # What is frozen at zero has been taken out by then: all the others stay.
        return torch.where(q["_final"], at_least_float32(loc).square(), score)

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["loc"] * (self.score(target, q) >= 0)

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        q["_final"].copy_(removed.any())

    def hidden_draws(self, q: Posterior) -> bool:
        return q.training and not bool(q["_final"])

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        normal_moments(draws_of(draws, target.site, target.shape), q["loc"])

    def final_mask(self, target: Target, q: Posterior) -> Tensor:
        """What stays in the end: one draw, the mode or by magnitude, as ``final`` says; boolean,
        ``target.shape``."""
        with torch.no_grad():
            loc = q["loc"].detach()
            if self.final == "magnitude":
                return self.magnitude_mask(loc)
            law = self.law(self.field(loc), q)
            mask = law.mode if self.final == "mode" else law.sample()
            return structures.unblocked(mask, self.structure, target.shape) != 0

    def mask(self, target: Target, q: Posterior, weight: Tensor) -> Tensor:
        """The mask of a forward pass, given the weight: drawn anew in training, and by magnitude
        otherwise; 1 everywhere once it is final. In the weight's shape and dtype."""
        if q.training:
            mask = self.law(self.field(weight), q).sample()
            mask = structures.unblocked(mask, self.structure, target.shape)
        else:
            mask = self.magnitude_mask(weight).to(weight)
        return torch.where(q["_final"], 1.0, mask).to(weight)

    def magnitude_mask(self, weight: Tensor) -> Tensor:
        """The blocks whose mean square is the quantile or more: all that stays of a weight as beta
        and c grow; boolean, the weight's shape. Of random weights, a random mask.

        >>> GibbsPruning(0.5, "filter").magnitude_mask(torch.tensor([[1.0, 0.0], [0.1, 0.2]]))
        tensor([[ True,  True],
                [False, False]])
        """
        return self._excess(weight) >= 0

    def blocks(self, tensor: Tensor) -> Tensor:
        """A tensor of a target's shape as ``ps.structures.blocks`` arranges it."""
        return structures.blocks(tensor, self.structure)

    def field(self, weight: Tensor) -> Tensor:
        """b = Q_p - w^2, arranged in blocks; float32, or the weight's dtype where that has more."""
        squares = at_least_float32(weight).square()
        cut = quantile(structures.means(squares, self.structure), self.sparsity)
        squares = self.blocks(squares)
        field = cut - squares
        if self.relative:
            field = field / squares.mean().clamp_min(torch.finfo(squares.dtype).tiny)
        return field

    def law(self, field: Tensor, q: Posterior) -> GibbsMask | BipartiteGibbsMask:
        """The law of the mask given its field, a block an event."""
        beta, convention = q["_beta"], self.convention
        if self.structure != "filter":
            return GibbsMask(field, beta, self._c, convention=convention, validate_args=False)
        shape, n = q["loc"].shape, field.shape[-1]
        channels = shape[1] if len(shape) > 1 else 1
        return BipartiteGibbsMask(
            field,
            beta,
            self._c,
            split=channels // 2 * (n // channels) if channels > 1 else n // 2,
            sweeps=self.sweeps,
            start=self.start,
            convention=convention,
            validate_args=False,
        )

    def _excess(self, weight: Tensor) -> Tensor:
        """By how much the mean square of an element's block is above the quantile."""
        means = structures.means(at_least_float32(weight).square(), self.structure)
        excess = means - quantile(means, self.sparsity)
        return structures.spread(excess, self.structure, weight.shape)
