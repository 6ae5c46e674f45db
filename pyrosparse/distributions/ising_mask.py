"""Masks with any neighbourhoods, drawn colour by colour."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from pyrosparse.distributions.gibbs_mask import Shape, check_law, in_double
from pyrosparse.distributions.precision import at_least_float32

_LARGEST_ENUMERATION = 20


class IsingMask(TorchDistribution):
    r"""A mask with a Gibbs distribution of given pairs of neighbours, drawn colour by colour.

    .. math:: H(x) = \sum_i b_i x_i - \sum_{i \ne j} c_{ij} x_i x_j, \qquad
        P(m_i = 1 \mid \text{rest}) = \operatorname{sigmoid}\Big(-2 \beta b_i
        + 4 \beta \sum_j c_{ij} x_j\Big)

    No two neighbours have one colour, so that the elements of a colour are independent given the
    others and are drawn together: a sweep draws one colour after the other.

    field:     b, (..., n), floating: the last dimension is the event, the others the batch.
    beta:      as for ``GibbsMask``.
    couplings: c, (n, n), symmetric with zeros on the diagonal; of any sign.
    colours:   (n,) int64, the colour of each element; drawn in the order of their numbers.
    start:     masks in {0, 1}, (..., n), where the sampler starts; None: each element is on with
               probability 1/2.
    sweeps:    of the sampler, 1 or more.

    ``log_prob``, ``log_normalizer``, ``mean`` and ``mode`` enumerate the 2^n masks, for up to 20
    elements.

    Raises ValueError if the couplings are not symmetric or two neighbours have one colour, and
    if more elements are to be enumerated.

    Source: Labach and Valaee (2020), section II-B; Gonzalez et al. (2011).

    >>> import torch
    >>> chain = torch.diag(torch.ones(3), 1) + torch.diag(torch.ones(3), -1)
    >>> field = torch.tensor([-1.0, 0.1, 0.1, 0.1])
    >>> IsingMask(field, 1e6, chain, torch.tensor([0, 1, 0, 1]), start=torch.zeros(4)).sample()
    tensor([0., 0., 0., 0.])
    >>> IsingMask(field, 1e6, chain, torch.tensor([0, 1, 0, 1])).mode  # where it does not get to
    tensor([1., 1., 1., 1.])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self,
        field: Tensor,
        beta: float | Tensor,
        couplings: Tensor,
        colours: Tensor,
        *,
        start: Tensor | None = None,
        sweeps: int = 50,
        validate_args: bool | None = None,
    ) -> None:
        check_law(field, beta, 0.0, "paper")
        n = field.shape[-1]
        if couplings.shape != (n, n) or not torch.equal(couplings, couplings.t()):
            raise ValueError(
                f"couplings must be symmetric, ({n}, {n}) for a field of {n} elements; got "
                f"{tuple(couplings.shape)}"
            )
        if colours.shape != (n,):
            raise ValueError(f"colours must be ({n},), got {tuple(colours.shape)}")
        clash = (couplings != 0) & (colours.unsqueeze(0) == colours.unsqueeze(1))
        if clash.any():
            i, j = clash.nonzero()[0].tolist()
            raise ValueError(
                f"elements {i} and {j} interact but have the same colour, {int(colours[i])}: "
                "neighbours need different colours"
            )
        if int(sweeps) != sweeps or sweeps < 1:
            raise ValueError(f"sweeps must be a whole number, 1 or more, got {sweeps}")
        self.field, self.beta, self.couplings, self.colours = field, beta, couplings, colours
        self.start, self.sweeps = start, sweeps
        super().__init__(field.shape[:-1], field.shape[-1:], validate_args=validate_args)

    def energy(self, value: Tensor) -> Tensor:
        """H of masks in {0, 1}, (..., n) -> (...)."""
        x = 2 * at_least_float32(value) - 1
        field = at_least_float32(self.field)
        return ((field - x @ self.couplings.to(x)) * x).sum(-1).to(self.field)

    def conditional_logits(self, value: Tensor) -> Tensor:
        """The log odds of each element given all others, (..., n)."""
        x = 2 * at_least_float32(value) - 1
        pull = x @ self.couplings.to(x)
        logits = self.beta * (4 * pull - 2 * at_least_float32(self.field))
        return logits.to(torch.promote_types(value.dtype, self.field.dtype))

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw by the sampler: its law depends on ``start`` and ``sweeps``."""
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            field = at_least_float32(self.field)  # bfloat16 has 256 uniform numbers
            if self.start is None:
                uniforms = torch.rand(shape, dtype=field.dtype, device=field.device)
                state = (uniforms < 0.5).to(field)
            else:
                state = self.start.to(field).expand(shape).clone()
            chosen = [(self.colours == one).nonzero().flatten() for one in self.colours.unique()]
            for _ in range(self.sweeps):
                for index in chosen:
                    probability = self.conditional_logits(state)[..., index].sigmoid()
                    drawn = torch.rand_like(probability) < probability
                    state[..., index] = drawn.to(state)
            return state.to(self.field)

    @property
    def log_normalizer(self) -> Tensor:
        """log Z, (...), nats."""
        return torch.logsumexp(self._log_weights(self._states()), 0).to(self.field)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        own = self._log_weights(value.unsqueeze(0)).squeeze(0)
        return (own - torch.logsumexp(self._log_weights(self._states()), 0)).to(self.field)

    @property
    def mean(self) -> Tensor:
        """P(m_i = 1), (..., n)."""
        states = self._states()
        probabilities = self._log_weights(states).softmax(0)
        return torch.tensordot(probabilities, states.double(), ([0], [0])).to(self.field)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    @property
    def mode(self) -> Tensor:
        """The most probable mask, (..., n)."""
        states = self._states()
        return states[self._log_weights(states).argmax(0)]

    def expand(self, batch_shape: Shape, _instance: Any = None) -> IsingMask:
        field = self.field.expand(Size(batch_shape) + self.event_shape)
        return IsingMask(
            field,
            self.beta,
            self.couplings,
            self.colours,
            start=self.start,
            sweeps=self.sweeps,
            validate_args=self._validate_args,
        )

    def enumerate_support(self, expand: bool = True) -> Tensor:
        states = self._states().view(-1, *[1] * len(self.batch_shape), *self.event_shape)
        return states.expand(-1, *self.batch_shape, -1) if expand else states

    def _states(self) -> Tensor:
        """All masks, (2^n, n)."""
        n = self.event_shape[0]
        if n > _LARGEST_ENUMERATION:
            raise ValueError(
                f"2^{n} masks are too many to enumerate: exact results are available for up to "
                f"{_LARGEST_ENUMERATION} elements, or from GibbsMask and BipartiteGibbsMask"
            )
        bits = torch.arange(2**n, device=self.field.device).unsqueeze(-1)
        return (bits >> torch.arange(n, device=bits.device) & 1).to(self.field)

    def _log_weights(self, states: Tensor) -> Tensor:
        """-beta H of masks, (k, n) or (k, ..., n) -> (k, ...), in float64: beta may be huge."""
        if states.dim() == 2:
            states = states.view(len(states), *[1] * len(self.batch_shape), -1)
        x, field = 2 * states.double() - 1, self.field.double()
        energy = ((field - x @ self.couplings.to(x)) * x).sum(-1)
        return -in_double(self.beta) * energy
