"""Relaxed Bernoulli draws from log odds."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

Shape = torch.Size | list[int] | tuple[int, ...]


def relaxed_bernoulli(
    logits: Tensor, temperature: float | Tensor, sample_shape: Shape = ()
) -> Tensor:
    r"""Draw gates between 0 and 1 with gradients, near Bernoulli ones where the temperature is low.

    .. math::
        z = \operatorname{sigmoid}\left(\frac{1}{\tau} \left(\operatorname{logit} \pi
            + \log \frac{u}{1 - u}\right)\right), \quad u \sim \mathrm{Uniform}(0, 1)

    logits: logit pi, any shape and floating dtype; a logit of -1e5 is an ordinary one here.
    temperature: tau > 0, a number or a tensor that broadcasts; z is above 1/2 with probability
        pi at any temperature.

    Returns (*sample_shape, *logits.shape) in the dtype of the logits. The noise is drawn in
    float32 at least, and its size is 16.6 at most in float32: beyond it a gate is decided.

    It is a function and no distribution: z given pi has the same law in prior and guide, so
    nothing scores it, and the model draws it once. ``torch.distributions.RelaxedBernoulli``, on
    which Pyro's straight-through one is built, goes through pi and cuts it off at the dtype's
    epsilon (no gradient beyond log odds of 16 in float32), and its density overflows there.

    Raises ValueError if the temperature is a number that is not positive and finite.

    Source: Lee et al. (2019), eq. 15; Maddison, Mnih and Teh (2017).

    >>> import torch
    >>> z = relaxed_bernoulli(torch.tensor([-1e5, 0.0, 1e5]), 0.1, (1000,))
    >>> z.shape, z[:, 0].max(), z[:, 2].min()
    (torch.Size([1000, 3]), tensor(0.), tensor(1.))
    """
    return torch.sigmoid(_noisy(logits, temperature, sample_shape)).to(logits.dtype)


def log_relaxed_bernoulli(
    logits: Tensor, temperature: float | Tensor, sample_shape: Shape = ()
) -> Tensor:
    """Draw the logs of the gates that ``relaxed_bernoulli`` would give, without forming them.

    Where a gate underflows to 0 its log still has a value and a gradient. Arguments, what is
    returned and what is raised are those of ``relaxed_bernoulli``.

    >>> import torch
    >>> log_relaxed_bernoulli(torch.tensor(-1e5), 0.1) < -0.99e6
    tensor(True)
    """
    return functional.logsigmoid(_noisy(logits, temperature, sample_shape)).to(logits.dtype)


def _noisy(logits: Tensor, temperature: float | Tensor, sample_shape: Shape) -> Tensor:
    if not isinstance(temperature, Tensor) and not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    shape = torch.Size(sample_shape) + logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    uniform = torch.rand(shape, dtype=dtype, device=logits.device)
    # torch.rand can give 0, once in 2^24 draws in float32; a step of its grid stands in for it.
    noise = torch.logit(uniform, eps=torch.finfo(dtype).eps / 2)
    return (logits + noise) / temperature
