"""Supports of weights or units that are the nodes of a Markov tree."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrosparse.distributions.binary_states import binary_states
from pyrosparse.sum_product.transition import Transition
from pyrosparse.sum_product.tree import depth_levels

Pair = tuple[float, float]


class TreeSupport(TorchDistribution):
    r"""A binary Markov tree, or a forest of them: a node depends on its parent.

    .. math::
        p(s) \propto \prod_n e^{u_n s_n} \prod_{n\ \text{root}} p(s_n)
            \prod_{n\ \text{not a root}} p(s_n \mid s_{parent(n)})

    with the steady state p(s = 1) = p01 / (p01 + p10) at the roots, and so at all nodes where the
    field is zero.

    parent:     (n,), int64: the index of each node's parent, -1 for a root; in any order.
    transition: (p01, p10) from parent to child: the probabilities of a 1 after a 0 and of a 0
                after a 1.
    field:      u, log-odds (..., n) in nats, finite, float32 or float64: evidence on each node, so
                that this is a posterior. Its leading dimensions are the batch; zero by default.

    Draws, ``log_prob`` and ``mean`` are exact; nodes of one depth are taken together. Draws and
    means carry no gradient; ``log_prob`` has one with respect to ``field``.

    Raises ValueError on probabilities outside (0, 1), on parents out of range or in a cycle and on
    a field of another shape; TypeError on other dtypes and if the transition is no pair.

    Source: Crouse, Nowak and Baraniuk (1998), hidden Markov trees.

    >>> import torch
    >>> prior = TreeSupport(torch.tensor([-1, 0, 0]), (0.1, 0.3))
    >>> prior.log_prob(torch.ones(3)).exp()
    tensor(0.1225)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_enumerate_support = True

    def __init__(
        self,
        parent: Tensor,
        transition: Pair,
        *,
        field: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.transition = Transition.of("transition", transition)
        if parent.dim() != 1 or not len(parent):
            raise ValueError(f"parent must have the shape (n,), n >= 1, got {tuple(parent.shape)}")
        self.parent = parent
        self._levels = depth_levels(parent)
        self.field = torch.zeros(len(parent), device=parent.device) if field is None else field
        if self.field.shape[-1:] != parent.shape:
            raise ValueError(
                f"field must have the shape (..., {len(parent)}), one value for each parent, got "
                f"{tuple(self.field.shape)}"
            )
        if not bool(self.field.isfinite().all()):
            raise ValueError("field must be finite log-odds; for an observed node 30 is enough")
        super().__init__(self.field.shape[:-1], parent.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        s = value.to(self.field.dtype)
        roots = self._levels[0]
        others = torch.cat(self._levels[1:]) if len(self._levels) > 1 else roots[:0]
        total = (self.field * s).sum(-1) + self.transition.log_start(s[..., roots]).sum(-1)
        steps = self.transition.log_step(s[..., self.parent[others]], s[..., others])
        return total + steps.sum(-1) - self._upward(self.field)[1]

    @property
    def mean(self) -> Tensor:
        # The gradient of the log normaliser: exactly the marginals.
        with torch.enable_grad():
            field = self.field.detach().requires_grad_()
            return torch.autograd.grad(self._upward(field)[1].sum(), field)[0]

    @property
    def variance(self) -> Tensor:
        mean = self.mean
        return mean * (1 - mean)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        below = self._upward(self.field)[0]
        shape = below.shape[:1] + torch.Size(sample_shape) + below.shape[1:]
        below = below.view(below.shape[:1] + (1,) * len(tuple(sample_shape)) + below.shape[1:])
        s = below.new_zeros(shape)
        chain = self.transition
        for depth, level in enumerate(self._levels):
            if depth == 0:
                logits = below[level] + chain.start
            else:
                above = s[self.parent[level]]
                logits = below[level] + chain.log_odds_after_zero + chain.coupling * above
            s[level] = (torch.rand_like(s[level]) < logits.sigmoid()).to(s.dtype)
        return s.movedim(0, -1).contiguous()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All supports, (2^n, *batch, n), of at most 20 nodes."""
        n = len(self.parent)
        if n > 20:
            raise NotImplementedError(f"{n} nodes have 2^{n} supports, too many to enumerate")
        states = binary_states(n, self.field).view(-1, *[1] * len(self.batch_shape), n)
        return states.expand(-1, *self.batch_shape, n) if expand else states

    def expand(self, batch_shape: Any, _instance: Any = None) -> TreeSupport:
        new = self._get_checked_instance(TreeSupport, _instance)
        batch_shape = torch.Size(batch_shape)
        new.parent, new.transition, new._levels = self.parent, self.transition, self._levels
        new.field = self.field.expand(batch_shape + self.event_shape)
        super(TreeSupport, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _upward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """The log-odds of every node given the field at and below it, without its parent, nodes
        first; and the log of the sum over all supports, batch shape."""
        p01, p10 = self.transition.p01, self.transition.p10
        below = field.movedim(-1, 0).clone()
        total = torch.zeros_like(below[0])
        for level in reversed(self._levels[1:]):
            v = below[level]
            zero = torch.logaddexp(v + math.log(p01), torch.full_like(v, math.log1p(-p01)))
            one = torch.logaddexp(v + math.log1p(-p10), torch.full_like(v, math.log(p10)))
            below = below.index_add(0, self.parent[level], one - zero)
            total = total + zero.sum(0)
        v = below[self._levels[0]] + self.transition.start
        # ln p(0) = ln p10 / (p01 + p10) = -softplus(start).
        softplus = torch.nn.functional.softplus
        start = softplus(v.new_tensor(self.transition.start))
        return below, total + (softplus(v) - start).sum(0)
