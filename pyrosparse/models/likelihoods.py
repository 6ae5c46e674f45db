"""Ready-made Pyro models around a network: classes, and several labels for each datum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrosparse.models.calls import called, separated, with_labels

Network = Callable[..., Any]


class classifier(nn.Module):
    r"""A Pyro model of class labels, given by the logits of a lifted network.

    .. math:: y_i \sim \mathrm{Categorical}(\mathrm{softmax}(f(x_i; w))), \quad i = 1 \dots n

    network: maps ``x``, (batch, ...), and further inputs to logits (batch, classes), or to a
             mapping or object that contains them.
    n:       the number of all data; the plate ``data`` scales a minibatch to it.
    output:  the name of the logits in the network's output, such as ``"logits"``; None if it is a
             tensor.
    class_dim: the dimension of the logits that indexes the classes: the last by default; 1 for
             networks that return maps in the layout of torch's losses, (batch, classes, H, W).

    The model takes ``x`` and labels ``y``, (batch,) int64, or None to draw them; it returns the
    labels. If a datum has many labels, for example one for each pixel or word, both are
    (batch, ...). With further inputs the labels come last: ``model(x, mask, y)``. In data that are
    dicts, the keys are the names of the network's arguments, and ``y`` or ``labels``. Its site is
    ``y``. It is a torch module that contains the network, if that is a module.

    Raises ValueError if n is not a positive whole number, if ``y`` has other values than whole
    numbers, or not one for each datum; TypeError if the network returns no tensor, or none of that
    name.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> classifier(bnn, n=100)(torch.ones(5, 4)).shape
    torch.Size([5])
    >>> maps = ps.lift(torch.nn.Conv2d(1, 3, 1), ps.Gaussian())
    >>> classifier(maps, n=100, class_dim=1)(torch.ones(5, 1, 8, 8)).shape
    torch.Size([5, 8, 8])
    """

    def __init__(
        self, network: Network, n: int, *, output: str | None = None, class_dim: int = -1
    ) -> None:
        super().__init__()
        self.network = network
        self.n = positive_count(n)
        self.output = output
        self.class_dim = class_dim

    def from_names(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The model's positional arguments from arguments by name."""
        return with_labels(named, self.network)

    def forward(self, x: Tensor, *more: Any, y: Tensor | None = None) -> Tensor:
        inputs, y = separated(x, more, y)
        logits, leading = called(self.network, inputs, self.output)
        class_dim = self.class_dim if self.class_dim < 0 else self.class_dim + leading
        logits = logits.movedim(class_dim, -1)
        check_labels(y, logits.shape[leading:])
        labels = dist.Categorical(logits=logits).to_event(logits.dim() - leading - 2)
        with data_plate(self.n, x):
            return pyro.sample("y", labels, obs=y)


class multilabel(nn.Module):
    r"""A Pyro model of several labels for each datum, each present or absent, given by logits.

    .. math:: y_{ij} \sim \mathrm{Bernoulli}(\sigma(f_j(x_i; w))), \quad i = 1 \dots n

    network: maps ``x``, (batch, ...), to logits (batch, labels).
    n:       the number of all data; the plate ``data`` scales a minibatch to it.

    The model takes ``x`` and ``y``, (batch, labels) of zeros and ones of any dtype, or None to draw
    them; it returns the labels, floating point. Its site is ``y``. It is a torch module that
    contains the network, if that is a module.

    Raises ValueError if n is not a positive whole number, and if ``y`` has another shape than the
    logits.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> multilabel(bnn, n=100)(torch.ones(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, network: Network, n: int) -> None:
        super().__init__()
        self.network = network
        self.n = positive_count(n)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        logits, leading = called(self.network, [x])
        if y is not None:
            if y.shape != logits.shape[leading:]:
                raise ValueError(
                    f"y has shape {tuple(y.shape)} but the network's logits have "
                    f"{tuple(logits.shape[leading:])}: give one zero or one for each label of each "
                    "datum. For one class for each datum use classifier"
                )
            y = y.to(logits.dtype)
        with data_plate(self.n, x):
            return pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)


def check_labels(y: Tensor | None, logits: torch.Size) -> None:
    """Raise ValueError if labels are not whole numbers, or not one for each row of logits.

    logits: their shape, (batch, ..., classes)."""
    if y is None:
        return
    if y.is_floating_point() or y.is_complex():
        raise ValueError(
            f"y has the dtype {y.dtype}, but labels are classes, int64: give y.long() if the "
            "values are whole numbers, and use regressor if they are not"
        )
    if not y.dim() or y.shape != logits[-1 - y.dim() : -1]:
        if len(logits) > 2 and y.shape == (logits[0], *logits[2:]):
            raise ValueError(
                f"y has shape {tuple(y.shape)} and the network's logits have "
                f"{tuple(logits)}, with the classes on dimension 1: give "
                "classifier(..., class_dim=1)"
            )
        raise ValueError(
            f"y has shape {tuple(y.shape)} but the network's logits have {tuple(logits)}: "
            f"one label for each row of logits is needed, {tuple(logits[:-1])}"
        )


def positive_count(n: int) -> int:
    """The number of data; raises ValueError if it is not a positive whole number."""
    if not isinstance(n, Real) or int(n) != n or n < 1:
        got = n if isinstance(n, Real) else type(n).__name__
        raise ValueError(f"n, the number of data, must be a positive whole number, got {got}")
    return int(n)


def data_plate(n: int, x: Tensor) -> pyro.plate:
    """The plate ``data`` over a minibatch of n data, which scales its likelihood to all."""
    # The user's minibatch is the subsample: naming it avoids a permutation of all n indices at
    # every step, which `subsample_size` alone would draw and discard.
    return pyro.plate("data", n, subsample=torch.arange(len(x), device=x.device))
