"""Ready Pyro models around a network: classification and regression."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]


class classifier:
    r"""A Pyro model of class labels, given by the logits of a lifted network.

    .. math:: y_i \sim \mathrm{Categorical}(\mathrm{softmax}(f(x_i; w))), \quad i = 1 \dots n

    network: maps ``x``, (batch, ...), to logits (batch, classes).
    n:       how many data there are in all; a minibatch is scaled to it by the plate ``data``.

    The model takes ``x`` and labels ``y``, (batch,) int64, or None to draw them; it returns the
    labels. Its site is ``y``.

    Raises ValueError when n is not a positive whole number.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> classifier(bnn, n=100)(torch.ones(5, 4)).shape
    torch.Size([5])
    """

    def __init__(self, network: Network, n: int) -> None:
        self.network = network
        self.n = positive_count(n)

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        logits = self.network(x)
        with data_plate(self.n, x):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


class regressor:
    r"""A Pyro model of real targets, given by the output of a lifted network.

    .. math:: y_i \sim \mathcal N(f(x_i; w), \sigma^2), \quad i = 1 \dots n

    network: maps ``x``, (batch, ...), to means (batch, d) or (batch,).
    n:       how many data there are in all; a minibatch is scaled to it by the plate ``data``.
    noise:   the standard deviation sigma > 0.

    The model takes ``x`` and ``y``, (batch, d) or (batch,) floating point, or None to draw them;
    it returns the targets. Its site is ``y``.

    Raises ValueError when n is not a positive whole number or the noise is not positive, and when
    ``y`` has another shape than the network's output.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 1), ps.Gaussian())
    >>> regressor(bnn, n=100, noise=0.1)(torch.ones(5, 4)).shape
    torch.Size([5, 1])
    """

    def __init__(self, network: Network, n: int, *, noise: float) -> None:
        if not noise > 0:
            raise ValueError(f"noise must be positive, got {noise}")
        self.network = network
        self.n = positive_count(n)
        self.noise = noise

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.network(x)
        if y is not None and y.shape != mean.shape:
            raise ValueError(
                f"y has shape {tuple(y.shape)} but the network's output has {tuple(mean.shape)}; "
                "broadcasting them would score every target against every prediction"
            )
        likelihood = dist.Normal(mean, self.noise).to_event(mean.dim() - 1)
        with data_plate(self.n, x):
            return pyro.sample("y", likelihood, obs=y)


def positive_count(n: int) -> int:
    """The number of data; raises ValueError where it is none."""
    if int(n) != n or n < 1:
        raise ValueError(f"n, the number of data, must be a positive whole number, got {n}")
    return int(n)


def data_plate(n: int, x: Tensor) -> pyro.plate:
    """The plate ``data`` over a minibatch of n data, which scales its likelihood to all."""
    # The user's minibatch is the subsample: naming it spares a permutation of all n indices
    # at every step, which `subsample_size` alone would draw and throw away.
    return pyro.plate("data", n, subsample=torch.arange(len(x), device=x.device))
