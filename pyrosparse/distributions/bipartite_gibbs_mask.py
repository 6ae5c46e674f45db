"""Masks of large blocks, whose elements have two colours and interact with the other one."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from pyrosparse.distributions import gibbs_ops
from pyrosparse.distributions.complete_graph import repeated
from pyrosparse.distributions.gibbs_mask import Convention, Shape, check_law, in_double
from pyrosparse.distributions.precision import at_least_float32
from pyrosparse.distributions.symmetric_polynomials import draw, draw_index, tables

Start = Literal["magnitude", "random"]


class BipartiteGibbsMask(TorchDistribution):
    r"""A mask whose elements have one of two colours, and interact with all of the other colour.

    .. math::
        H(x) = \sum_i b_i x_i - 2 c \, M_0 M_1, \qquad M_a = \sum_{i \text{ of colour } a} x_i

    It is what is left of the complete graph of ``GibbsMask`` without the pairs of one colour.
    Given the other colour, the elements of one are independent, so that they are drawn together:

    .. math:: P(m_i = 1 \mid M_{1-a}) = \operatorname{sigmoid}(-2 \beta b_i + 4 \beta c M_{1-a})

    ``sample`` draws the first colour and then the second, ``sweeps`` times. After that many sweeps
    a mask need not have this law: where the coupling is strong, a block stays on or off, whichever
    it was at the start, for longer than anybody waits. ``sample_exact`` has the law itself, from
    the weights of all pairs of counts; it takes O(n^2), and is the slower one by far.

    field:      b, (..., n), floating: the last dimension is the event, the others the batch.
    beta, coupling: as for ``GibbsMask``.
    split:      how many elements, the first ones, have the first colour; by default half of them.
    sweeps:     of the sampler, 1 or more.
    start:      where the sampler starts: with ``magnitude`` each block is on where its mean field
                is negative, and off elsewhere; with ``random`` each element is on or off with
                probability 1/2.
    convention: ``paper``, or ``reference-code``, which has beta / 2 and c / 2 for beta and c.

    ``log_prob``, ``log_normalizer``, ``mean`` and ``mode`` are of the law, exact and in O(n^2);
    the mean has no gradient.

    Raises ValueError on options out of range.

    Source: Labach and Valaee (2020), Algorithm 1; Gonzalez et al. (2011).

    >>> import torch
    >>> field = torch.tensor([[-1.0, 0.1, 0.2], [0.5, 1.0, 2.0]])
    >>> BipartiteGibbsMask(field, beta=1e6, coupling=1.0, sweeps=3).sample()
    tensor([[1., 1., 1.],
            [0., 0., 0.]])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self,
        field: Tensor,
        beta: float | Tensor,
        coupling: float | Tensor,
        *,
        split: int | None = None,
        sweeps: int = 50,
        start: Start = "magnitude",
        convention: Convention = "paper",
        validate_args: bool | None = None,
    ) -> None:
        check_law(field, beta, coupling, convention)
        n = field.shape[-1]
        split = n // 2 if split is None else split
        if not 0 <= split <= n:
            raise ValueError(
                f"split must be between 0 and the {n} elements of a block, got {split}"
            )
        if int(sweeps) != sweeps or sweeps < 1:
            raise ValueError(f"sweeps must be a whole number, 1 or more, got {sweeps}")
        if start not in ("magnitude", "random"):
            raise ValueError(f"start must be 'magnitude' or 'random', got {start!r}")
        halved = 0.5 if convention == "reference-code" else 1.0
        self.field = field
        self.beta, self.coupling = halved * beta, halved * coupling
        self.split, self.sweeps, self.start = split, sweeps, start
        super().__init__(field.shape[:-1], field.shape[-1:], validate_args=validate_args)

    @property
    def log_normalizer(self) -> Tensor:
        """log Z, (...), nats, with H as above."""
        t, coupling = self._block
        return (self._log_sum(t, coupling) - t.sum(0) / 2).to(self.field)

    def energy(self, value: Tensor) -> Tensor:
        """H of masks in {0, 1}, (..., n) -> (...)."""
        x = 2 * at_least_float32(value) - 1
        first, second = (part.sum(-1) for part in self._colours(x, -1))
        unary = (at_least_float32(self.field) * x).sum(-1)
        return (unary - 2 * self.coupling * first * second).to(self.field)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        t, coupling = self._block
        m = value.to(t)
        first, second = (part.sum(-1) for part in self._colours(2 * m - 1, -1))
        weight = (m * t.movedim(0, -1)).sum(-1) + coupling * first * second
        return (weight - self._log_sum(t, coupling)).to(self.field)

    @property
    def mean(self) -> Tensor:
        """P(m_i = 1), (..., n), of the law."""
        t, coupling = self._block
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._log_sum(t, coupling).sum(), t)
        return gradient.movedim(0, -1).to(self.field)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    @property
    def mode(self) -> Tensor:
        """The most probable mask of the law, (..., n), at beta > 0."""
        t = -2 * self.field.double().movedim(-1, 0)
        ordered = [part.sort(0, descending=True) for part in self._colours(t)]
        zero = t.new_zeros((1, *t.shape[1:]))
        sums = [torch.cat([zero, part.cumsum(0)]) for part, _ in ordered]
        index = self._joint(sums[0], sums[1], 2 * in_double(self.coupling)).argmax(0, keepdim=True)
        counts = (index // len(sums[1]), index % len(sums[1]))
        chosen = []
        for (part, order), count in zip(ordered, counts, strict=True):
            place = torch.arange(len(part), device=t.device).view(-1, *[1] * (t.dim() - 1))
            chosen.append(torch.zeros_like(part).scatter(0, order, (place < count).to(part)))
        return torch.cat(chosen).movedim(0, -1).to(self.field)

    def conditional_logits(self, value: Tensor) -> Tensor:
        """The log odds of each element given those of the other colour, (..., n)."""
        x = 2 * at_least_float32(value) - 1
        first, second = (part.sum(-1, keepdim=True) for part in self._colours(x, -1))
        other = torch.cat(
            [
                second.expand(*second.shape[:-1], self.split),
                first.expand(*first.shape[:-1], x.shape[-1] - self.split),
            ],
            -1,
        )
        own = -2 * self.beta * at_least_float32(self.field)
        return (own + 4 * self.beta * self.coupling * other).to(self.field)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw by the sampler: its law depends on ``start`` and ``sweeps``."""
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            t, coupling = self._block
            blocks = t.movedim(0, -1).expand(shape).reshape(-1, shape[-1])
            second = self._start(shape).reshape(-1)
            if t.is_cpu:
                strength = torch.as_tensor(coupling, dtype=torch.float64)
                seeds = torch.randint(-(2**63), 2**63 - 1, second.shape)
                drawn = gibbs_ops.bipartite(
                    blocks, strength, second, seeds, self.split, self.sweeps
                )
            else:
                drawn = sweep(blocks, coupling, second, self.split, self.sweeps)
            return drawn.view(shape).to(self.field)

    def sample_exact(self, sample_shape: Shape = ()) -> Tensor:
        """Draw from the law itself: the two counts, and then which elements of each colour."""
        shape = Size(sample_shape)
        with torch.no_grad():
            t, coupling = self._block
            parts = [repeated(part, shape) for part in self._colours(t)]
            rows = [[repeated(row, shape) for row in tables(part)] for part in self._colours(t)]
            uniforms = torch.rand((len(t) + 1, *shape, *t.shape[1:]), dtype=t.dtype).to(t)
            index = draw_index(self._joint(rows[0][-1], rows[1][-1], coupling), uniforms[-1])
            counts = (index // len(rows[1]), index % len(rows[1]))
            drawn = [
                draw(table, part, count, uniform)
                for table, part, count, uniform in zip(
                    rows, parts, counts, self._colours(uniforms[:-1]), strict=True
                )
            ]
            return torch.cat(drawn).movedim(0, -1).to(self.field)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> BipartiteGibbsMask:
        return BipartiteGibbsMask(
            self.field.expand(Size(batch_shape) + self.event_shape),
            self.beta,
            self.coupling,
            split=self.split,
            sweeps=self.sweeps,
            start=self.start,
            validate_args=self._validate_args,
        )

    @property
    def _block(self) -> tuple[Tensor, float | Tensor]:
        """Log odds alone, (n, ...), and the factor of M_0 M_1, both in float64."""
        beta, coupling = in_double(self.beta), in_double(self.coupling)
        t = -2 * beta * self.field.double().movedim(-1, 0)
        return t, 2 * beta * coupling

    def _colours(self, tensor: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
        first, second = tensor.split([self.split, tensor.shape[dim] - self.split], dim)
        return first, second

    def _joint(self, first: Tensor, second: Tensor, coupling: float | Tensor) -> Tensor:
        """The log weights of all pairs of counts, ((n_0 + 1) (n_1 + 1), ...)."""
        sums = [
            2 * torch.arange(len(one), dtype=one.dtype, device=one.device) - len(one) + 1
            for one in (first, second)
        ]
        product = (sums[0].unsqueeze(1) * sums[1]).view(
            len(first), len(second), *[1] * (first.dim() - 1)
        )
        return (first.unsqueeze(1) + second + coupling * product).flatten(0, 1)

    def _log_sum(self, t: Tensor, coupling: float | Tensor) -> Tensor:
        first, second = (tables(part)[-1] for part in self._colours(t))
        return torch.logsumexp(self._joint(first, second, coupling), 0)

    def _start(self, shape: Size) -> Tensor:
        """The sum of x over the second colour, float64."""
        size = shape[-1] - self.split
        if self.start == "random":
            half = torch.full((), float(size), dtype=torch.float64, device=self.field.device)
            return 2 * torch.binomial(half.expand(shape[:-1]).contiguous(), half * 0 + 0.5) - size
        on = self.field.double().sum(-1) <= 0
        return torch.where(on, size, -size).double().expand(shape[:-1])


def sweep(t: Tensor, coupling: float | Tensor, second: Tensor, split: int, sweeps: int) -> Tensor:
    """The sampler by torch's own operations, for devices that the compiled loop is not for.

    t: (blocks, n); coupling: of M_0 M_1; second: (blocks,), the sum of x over the second colour at
    the start. Returns booleans, (blocks, n).

    >>> sweep(torch.tensor([[5.0, -1e6]]), 1e7, torch.tensor([1.0]), split=1, sweeps=1)
    tensor([[True, True]])
    """
    parts = t[:, :split], t[:, split:]
    states = [torch.empty(0), torch.empty(0)]
    sums = [second, second]
    for _ in range(sweeps):
        for colour in (0, 1):
            push = 2 * coupling * sums[1 - colour]
            probability = (parts[colour] + push.unsqueeze(-1)).sigmoid()
            states[colour] = torch.rand_like(probability) < probability
            sums[colour] = 2 * states[colour].sum(-1).to(t) - parts[colour].shape[-1]
    return torch.cat(states, -1)
