"""Supports of weights on a grid whose rows and columns are Markov chains."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrosparse.distributions.binary_states import binary_states
from pyrosparse.distributions.checkerboard import checkerboard_gibbs
from pyrosparse.distributions.transfer import LineChain
from pyrosparse.sum_product.transition import Transition

Pair = tuple[float, float]

EXACT_SIDE = 10
"""The longest shorter side of a grid with both axes coupled for which sums are made exactly."""


class GridSupport(TorchDistribution):
    r"""A binary Markov random field on a K by M grid: clusters of ones in {0, 1}.

    .. math::
        p(s) \propto \prod_n e^{u_n s_n}
            \prod_{r} p(s_{r,1}) \prod_{m > 1} p^{row}(s_{r,m} \mid s_{r,m-1})
            \prod_{m} p(s_{1,m}) \prod_{r > 1} p^{col}(s_{r,m} \mid s_{r-1,m})

    with the steady state p(s = 1) = p01 / (p01 + p10) at the start of each chain. A run of ones
    along one axis alone has the mean length 1 / p10, a gap 1 / p01. With both axes, marginals are
    not those of the chains, since every node is counted twice.

    row:    (p01, p10) along rows, between neighbours in the last dimension: the probabilities of a
            1 after a 0 and of a 0 after a 1. None for no chains.
    column: the same along columns. None for no chains.
    shape:  (K, M), the event's shape.
    field:  u, log-odds (..., K, M) in nats, finite, float32 or float64: evidence on each node, so
            that this is a posterior. Its leading dimensions are the batch; zero by default.
    gibbs_sweeps: how many sweeps of checkerboard Gibbs sampling make a draw where exact draws are
            out of reach.

    Everything is exact for chains along one axis, and for both where the shorter side has at most
    10 nodes, at a cost of n 2^n for each line of n nodes. Else ``log_density`` is known,
    ``sample`` is by Gibbs sampling, and ``log_prob`` and ``mean`` raise NotImplementedError. Draws
    and means carry no gradient; ``log_prob`` has one with respect to ``field``.

    Raises ValueError on probabilities outside (0, 1), on two axes None and on a field of another
    shape; TypeError if a transition is no pair.

    Source: Xia et al. (2023), eqs. 2 and 3.

    >>> import torch
    >>> prior = GridSupport((0.1, 0.3), None, (1, 3))
    >>> prior.log_prob(torch.ones(1, 3)).exp()
    tensor(0.1225)
    >>> prior.mean
    tensor([[0.2500, 0.2500, 0.2500]])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_enumerate_support = True

    def __init__(
        self,
        row: Pair | None,
        column: Pair | None,
        shape: tuple[int, int],
        *,
        field: Tensor | None = None,
        gibbs_sweeps: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.row = None if row is None else Transition.of("row", row)
        self.column = None if column is None else Transition.of("column", column)
        if self.row is None and self.column is None:
            raise ValueError("row and column are both None: give (p01, p10) for at least one axis")
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"shape must be (K, M), both at least 1, got {tuple(shape)}")
        if gibbs_sweeps is not None and gibbs_sweeps < 1:
            raise ValueError(f"gibbs_sweeps must be at least 1 or None, got {gibbs_sweeps}")
        self.field = torch.zeros(shape) if field is None else field
        if self.field.shape[-2:] != torch.Size(shape):
            raise ValueError(
                f"field must have the shape (..., {shape[0]}, {shape[1]}), got "
                f"{tuple(self.field.shape)}"
            )
        if not bool(self.field.isfinite().all()):
            raise ValueError("field must be finite log-odds; for an observed node 30 is enough")
        self.gibbs_sweeps = gibbs_sweeps
        self._kept_log_normalizer: Tensor | None = None
        super().__init__(self.field.shape[:-2], torch.Size(shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, 2)

    def log_density(self, value: Tensor) -> Tensor:
        """ln p up to the constant ``log_normalizer``, (...), at supports (..., K, M)."""
        if self._validate_args:
            self._validate_sample(value)
        s = value.to(self.field.dtype)
        total = (self.field * s).sum((-1, -2))
        if self.row is not None:
            total = total + self.row.log_chain(s, -1).sum(-1)
        if self.column is not None:
            total = total + self.column.log_chain(s, -2).sum(-1)
        return total

    @property
    def log_normalizer(self) -> Tensor:
        """Log of the sum of ``log_density``'s exponential over all supports, batch shape; kept.

        Raises NotImplementedError if both axes are coupled and longer than 10."""
        if self._kept_log_normalizer is not None:
            return self._kept_log_normalizer
        value = self._log_normalizer(self.field)
        if not self.field.requires_grad:
            self._kept_log_normalizer = value
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_density(value) - self.log_normalizer

    @property
    def mean(self) -> Tensor:
        # The gradient of the log normaliser: exactly the marginals.
        with torch.enable_grad():
            field = self.field.detach().requires_grad_()
            return torch.autograd.grad(self._log_normalizer(field).sum(), field)[0]

    @property
    def variance(self) -> Tensor:
        mean = self.mean
        return mean * (1 - mean)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        sample_shape = torch.Size(sample_shape)
        if self._is_exact:
            chain, transposed = self._lines()
            lines = self.field.mT if transposed else self.field
            if chain.within is None:
                drawn = chain.sample(lines.unsqueeze(-1), sample_shape).squeeze(-1)
            else:
                drawn = chain.sample(lines.mT, sample_shape).mT
            return (drawn.mT if transposed else drawn).contiguous()
        if self.gibbs_sweeps is None:
            raise ValueError(
                f"exact draws need a side of at most {EXACT_SIDE} nodes or one axis without "
                f"chains, and this grid is {tuple(self.event_shape)}: give the number of Gibbs "
                "sweeps for a draw, such as gibbs_sweeps=200"
            )
        assert self.row is not None and self.column is not None
        field = self.field.expand(sample_shape + self.field.shape)
        return checkerboard_gibbs(self.row, self.column, field, self.gibbs_sweeps)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All supports, (2^(K M), *batch, K, M), of at most 20 nodes."""
        n = self.event_shape.numel()
        if n > 20:
            raise NotImplementedError(f"{n} nodes have 2^{n} supports, too many to enumerate")
        states = binary_states(n, self.field)
        states = states.view(-1, *[1] * len(self.batch_shape), *self.event_shape)
        if expand:
            states = states.expand(-1, *self.batch_shape, *self.event_shape)
        return states

    def expand(self, batch_shape: Any, _instance: Any = None) -> GridSupport:
        new = self._get_checked_instance(GridSupport, _instance)
        batch_shape = torch.Size(batch_shape)
        new.row, new.column, new.gibbs_sweeps = self.row, self.column, self.gibbs_sweeps
        new.field = self.field.expand(batch_shape + self.event_shape)
        kept = self._kept_log_normalizer
        new._kept_log_normalizer = None if kept is None else kept.expand(batch_shape)
        super(GridSupport, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _is_exact(self) -> bool:
        return self.row is None or self.column is None or min(self.event_shape) <= EXACT_SIDE

    def _lines(self) -> tuple[LineChain, bool]:
        """The grid as a chain along its rows, whether or not it must be transposed for that: of its
        columns, or of single nodes where rows are independent."""
        if self.column is None:
            assert self.row is not None
            return LineChain(self.row, None), False
        if self.row is None:
            return LineChain(self.column, None), True
        if self.event_shape[0] <= self.event_shape[1]:
            return LineChain(self.row, self.column), False
        return LineChain(self.column, self.row), True

    def _log_normalizer(self, field: Tensor) -> Tensor:
        if not self._is_exact:
            raise NotImplementedError(
                f"the normaliser and the marginals of a {tuple(self.event_shape)} grid with both "
                f"axes coupled are not computable: one side may have at most {EXACT_SIDE} nodes; "
                "use "
                "log_density, or pyrosparse.sum_product for approximate marginals"
            )
        chain, transposed = self._lines()
        lines = field.mT if transposed else field
        if chain.within is None:
            return chain.log_messages(lines.unsqueeze(-1))[1].sum(-1)
        return chain.log_messages(lines.mT)[1]
