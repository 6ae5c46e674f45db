"""The zero-mean normal prior with one standard deviation for a whole tensor."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import Independent, Normal
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl


class IsotropicNormal(Independent):
    r"""Independent zero-mean normals with one standard deviation, the whole tensor one event.

    .. math:: \log p(w) = -\frac{\lVert w \rVert^2}{2 s^2} - \frac{n}{2} \log(2 \pi s^2)

    The same law as ``Normal(0, s).expand(shape).to_event()``, scored in one pass over the tensor;
    ``base_dist`` has the single normals, as Pyro's ``LocScaleReparam`` wants them.

    scale: the standard deviation s > 0, a number or a tensor without dimensions.
    shape: the event's shape; n is the number of its elements.
    dtype, device: of what ``sample`` returns.

    Raises ValueError when the scale is not positive and finite.

    >>> import torch
    >>> prior = IsotropicNormal(2.0, (3, 2))
    >>> prior.log_prob(torch.ones(3, 2))
    tensor(-10.4225)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]
    has_rsample = True
    _validate_args = False  # its own: Pyro's Independent has that of ``base_dist``

    def __init__(
        self,
        scale: float | Tensor,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(scale, Tensor) and not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.scale = scale
        self._options = {"dtype": dtype, "device": device}
        checks = Distribution._validate_args if validate_args is None else validate_args
        Distribution.__init__(self, torch.Size(), torch.Size(shape), validate_args=checks)

    @property
    def base_dist(self) -> Normal:  # type: ignore[override]
        scale = torch.as_tensor(self.scale, **self._options)  # type: ignore[arg-type]
        return Normal(torch.zeros_like(scale), scale).expand(self.event_shape)

    @property
    def reinterpreted_batch_ndims(self) -> int:  # type: ignore[override]
        return len(self.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return torch.zeros(self.event_shape, **self._options)  # type: ignore[arg-type]

    @property
    def variance(self) -> Tensor:
        return torch.ones(self.event_shape, **self._options) * self.scale**2  # type: ignore[arg-type]

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.event_shape
        return torch.randn(shape, **self._options) * self.scale  # type: ignore[arg-type]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        event_dim = len(self.event_shape)
        flat = value.flatten(value.dim() - event_dim) if event_dim else value.unsqueeze(-1)
        squared_norm = torch.linalg.vecdot(flat, flat)
        return -0.5 * squared_norm / self.scale**2 - self._log_normalizer()

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        batch_shape = torch.Size(batch_shape)
        if not batch_shape:
            return self
        return self.base_dist.expand(batch_shape + self.event_shape).to_event(len(self.event_shape))

    def _log_normalizer(self) -> float | Tensor:
        log_scale = self.scale.log() if isinstance(self.scale, Tensor) else math.log(self.scale)
        return self.event_shape.numel() * (log_scale + 0.5 * math.log(2 * math.pi))


@register_kl(Independent, IsotropicNormal)
def _kl_normal_isotropic(q: Independent, p: IsotropicNormal) -> Tensor:
    r"""KL(N(m, s_q^2) || N(0, s^2)) = (|m|^2 + |s_q|^2) / 2 s^2 - sum log s_q + n log s - n / 2."""
    if not isinstance(q.base_dist, Normal) or q.batch_shape or q.event_shape != p.event_shape:
        raise NotImplementedError
    loc, scale = q.base_dist.loc.flatten(), q.base_dist.scale.flatten()
    n = p.event_shape.numel()
    squared = torch.dot(loc, loc) + torch.dot(scale, scale)
    log_scale = p.scale.log() if isinstance(p.scale, Tensor) else math.log(p.scale)
    return 0.5 * squared / p.scale**2 - scale.log().sum() + n * (log_scale - 0.5)
