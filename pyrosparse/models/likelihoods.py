"""Ready Pyro models around a network: classification and regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrosparse.models.calls import named_output, separated, with_labels

Network = Callable[..., Any]


class classifier(nn.Module):
    r"""A Pyro model of class labels, given by the logits of a lifted network.

    .. math:: y_i \sim \mathrm{Categorical}(\mathrm{softmax}(f(x_i; w))), \quad i = 1 \dots n

    network: maps ``x``, (batch, ...), and further inputs to logits (batch, classes), or to a
             mapping or object that has them.
    n:       how many data there are in all; a minibatch is scaled to it by the plate ``data``.
    output:  the name of the logits in what the network gives, such as ``"logits"``; None where it
             gives a tensor.

    The model takes ``x`` and labels ``y``, (batch,) int64, or None to draw them; it returns the
    labels. With further inputs the labels come last: ``model(x, mask, y)``. Data that are dicts
    have the network's arguments by their names, and the labels as ``y`` or ``labels``. Its site
    is ``y``. It is a torch module that holds the network, where that is one.

    Raises ValueError when n is not a positive whole number, and when ``y`` are no whole numbers or
    not one for each datum; TypeError when the network gives no tensor, or nothing of that name.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> classifier(bnn, n=100)(torch.ones(5, 4)).shape
    torch.Size([5])
    """

    def __init__(self, network: Network, n: int, *, output: str | None = None) -> None:
        super().__init__()
        self.network = network
        self.n = positive_count(n)
        self.output = output

    def from_names(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The model's positional arguments from some by name."""
        return with_labels(named, self.network)

    def forward(self, x: Tensor, *more: Any, y: Tensor | None = None) -> Tensor:
        inputs, y = separated(x, more, y)
        logits = named_output(self.network(*inputs), self.output)
        check_labels(y, logits)
        with data_plate(self.n, x):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


class regressor(nn.Module):
    r"""A Pyro model of real targets, given by the output of a lifted network.

    .. math:: y_i \sim \mathcal N(f(x_i; w), \sigma^2), \quad i = 1 \dots n

    network: maps ``x``, (batch, ...), to means (batch, d) or (batch,).
    n:       how many data there are in all; a minibatch is scaled to it by the plate ``data``.
    noise:   the standard deviation sigma > 0.

    The model takes ``x`` and ``y``, (batch, d) or (batch,) floating point, or None to draw them;
    it returns the targets. Its site is ``y``. It is a torch module that holds the network, where
    that is one.

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
        super().__init__()
        self.network = network
        self.n = positive_count(n)
        self.noise = noise

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.network(x)
        if y is not None and y.shape != mean.shape:
            raise ValueError(
                f"y has shape {tuple(y.shape)} but the network's output has {tuple(mean.shape)}; "
                "broadcasting them would score targets against the predictions of other data: "
                f"{_same_shape(y, mean)}"
            )
        likelihood = dist.Normal(mean, self.noise).to_event(mean.dim() - 1)
        with data_plate(self.n, x):
            return pyro.sample("y", likelihood, obs=y)


def check_labels(y: Tensor | None, logits: Tensor) -> None:
    """Refuse labels that are no whole numbers, or not one for each row of logits."""
    if y is None:
        return
    if y.is_floating_point() or y.is_complex():
        raise ValueError(
            f"y has the dtype {y.dtype}, but labels are classes, int64: give y.long() where the "
            "values are whole numbers, and use regressor where they are not"
        )
    if not y.dim() or y.shape != logits.shape[-1 - y.dim() : -1]:
        raise ValueError(
            f"y has shape {tuple(y.shape)} but the network's logits have {tuple(logits.shape)}: "
            f"one label for each row of logits is needed, {tuple(logits.shape[:-1])}"
        )


def _same_shape(y: Tensor, mean: Tensor) -> str:
    if (*y.shape, 1) == tuple(mean.shape):
        return "give y[:, None]"
    if tuple(y.shape) == (*mean.shape, 1):
        return "give y[:, 0]"
    return "give one target for each output"


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
