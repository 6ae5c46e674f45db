"""Masks with a Gibbs distribution: independent elements, and blocks of which all interact."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn import functional

from pyrosparse.distributions import complete_graph
from pyrosparse.distributions.precision import at_least_float32

Convention = Literal["paper", "reference-code"]
Shape = Size | list[int] | tuple[int, ...]


class GibbsMask(TorchDistribution):
    r"""A mask with a Gibbs distribution: independent elements, or a block of which all interact.

    .. math::
        p(x) = \frac{e^{-\beta H(x)}}{Z}, \qquad
        H(x) = \sum_i b_i x_i - c \sum_{i \ne j} x_i x_j, \qquad x_i = 2 m_i - 1 \in \{-1, 1\}

    The mask m is in {0, 1}; the second sum has every pair twice. With c = 0 elements are
    independent, :math:`P(m_i = 1) = \operatorname{sigmoid}(-2 \beta b_i)`. With c > 0 the elements
    of a block tend to agree. As the second sum is :math:`(\sum_i x_i)^2 - n`, all is exact then
    too, in O(n^2) and in log space: how many are on has the weights
    :math:`e^{\beta c (2k - n)^2} e_k(r)` with :math:`r_i = e^{-2 \beta b_i}` and the elementary
    symmetric polynomials :math:`e_k`, and which ones are is drawn given how many.

    field:      b, (..., n), floating: the last dimension is the event, the others the batch.
    beta:       the inverse temperature, at least 0: a number, or a tensor without dimensions.
    coupling:   c, at least 0: a number, or a tensor without dimensions; the number 0 gives
                independent elements, all else complete graphs.
    convention: ``paper``, as above, or ``reference-code``: the authors' code has beta / 2 for beta
                where elements are independent, and the same law on complete graphs.

    Complete graphs are computed in float64, whatever the dtype of the field. ``mean`` has no
    gradient there. Independent elements are computed in float32 where the field is bfloat16 or
    float16. Results have the field's dtype.

    Raises ValueError on options out of range.

    Source: Labach and Valaee (2020), eqs. 1, 3 and 4.

    >>> import torch
    >>> field = torch.tensor([[-1.0, 0.1, 0.2], [0.5, 1.0, 2.0]])
    >>> GibbsMask(field, beta=1e6).sample()
    tensor([[1., 0., 0.],
            [0., 0., 0.]])
    >>> GibbsMask(field, beta=1e6, coupling=1.0).mode  # the first element takes the others along
    tensor([[1., 1., 1.],
            [0., 0., 0.]])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self,
        field: Tensor,
        beta: float | Tensor,
        coupling: float | Tensor = 0.0,
        *,
        convention: Convention = "paper",
        validate_args: bool | None = None,
    ) -> None:
        check_law(field, beta, coupling, convention)
        self.is_product = not isinstance(coupling, Tensor) and coupling == 0
        self.field = field
        self.beta = beta / 2 if self.is_product and convention == "reference-code" else beta
        self.coupling = coupling
        super().__init__(field.shape[:-1], field.shape[-1:], validate_args=validate_args)

    @property
    def logits(self) -> Tensor:
        """The log odds that each element would have alone, -2 beta b, (..., n)."""
        return self._log_odds.to(self.field)

    @property
    def log_normalizer(self) -> Tensor:
        """log Z, (...), nats, with H as above."""
        if self.is_product:
            # log 2 cosh z = |z| + log(1 + exp(-2 |z|)).
            size = self._log_odds.abs() / 2
            return (size + torch.log1p(torch.exp(-2 * size))).sum(-1).to(self.field)
        t, coupling = self._block
        return (complete_graph.log_normalizer(t, coupling) - t.sum(0) / 2).to(self.field)

    def energy(self, value: Tensor) -> Tensor:
        """H of masks in {0, 1}, (..., n) -> (...)."""
        x = 2 * at_least_float32(value) - 1
        unary = (at_least_float32(self.field) * x).sum(-1)
        return (unary - self.coupling * (x.sum(-1) ** 2 - x.shape[-1])).to(self.field)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self.is_product:
            # -beta H and log Z are huge where their difference is not.
            signs = 2 * at_least_float32(value) - 1
            return functional.logsigmoid(signs * self._log_odds).sum(-1).to(self.field)
        t, coupling = self._block
        weight = complete_graph.log_weight(value.to(t), t, coupling)
        return (weight - complete_graph.log_normalizer(t, coupling)).to(self.field)

    @property
    def mean(self) -> Tensor:
        """P(m_i = 1), (..., n)."""
        if self.is_product:
            return self._log_odds.sigmoid().to(self.field)
        return complete_graph.marginals(*self._block).movedim(0, -1).to(self.field)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    @property
    def mode(self) -> Tensor:
        """The most probable mask, (..., n), at beta > 0; on, where a single field is 0."""
        if self.is_product:
            return (self.field <= 0).to(self.field)
        t = -2 * self.field.double().movedim(-1, 0)
        return complete_graph.mode(t, self.coupling).movedim(0, -1).to(self.field)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        with torch.no_grad():
            if not self.is_product:
                drawn = complete_graph.sample(*self._block, Size(sample_shape))
                return drawn.movedim(0, -1).to(self.field)
            shape = self._extended_shape(Size(sample_shape))
            field = at_least_float32(self.field)  # bfloat16 has 256 uniform numbers
            return (_uniforms(shape, field) < self._log_odds.sigmoid()).to(self.field)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> GibbsMask:
        field = self.field.expand(Size(batch_shape) + self.event_shape)
        expanded = GibbsMask(field, self.beta, self.coupling, validate_args=False)
        expanded._validate_args = self._validate_args
        return expanded

    @property
    def _log_odds(self) -> Tensor:
        beta = at_least_float32(self.beta) if isinstance(self.beta, Tensor) else self.beta
        return (-2 * beta) * at_least_float32(self.field)

    @property
    def _block(self) -> tuple[Tensor, float | Tensor]:
        """Log odds and coupling as ``complete_graph`` takes them."""
        beta, coupling = in_double(self.beta), in_double(self.coupling)
        t = -2 * beta * self.field.double().movedim(-1, 0)
        return t, beta * coupling


def _uniforms(shape: Size, like: Tensor) -> Tensor:
    """Uniform numbers in the memory layout of a tensor of the same shape, where that is one of
    images: what they are compared with is then read in the same order."""
    options: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    if len(shape) == like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        n, channels, height, width = shape
        return torch.rand(n, height, width, channels, **options).permute(0, 3, 1, 2)
    return torch.rand(shape, **options)


def in_double(value: float | Tensor) -> float | Tensor:
    return value.double() if isinstance(value, Tensor) else value


def check_law(
    field: Tensor, beta: float | Tensor, coupling: float | Tensor, convention: str
) -> None:
    """Refuse parameters of a Gibbs distribution that are out of range."""
    if not field.is_floating_point() or not field.dim() or not field.shape[-1]:
        raise ValueError(
            f"the field must be floating, (..., n) with n of 1 or more; got {field.dtype} "
            f"{tuple(field.shape)}"
        )
    for name, value in (("beta", beta), ("coupling", coupling)):
        if isinstance(value, Tensor):
            if value.dim():
                raise ValueError(
                    f"{name} must be one number; got a tensor of shape {tuple(value.shape)}"
                )
        elif not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
    if convention not in ("paper", "reference-code"):
        raise ValueError(f"convention must be 'paper' or 'reference-code', got {convention!r}")
