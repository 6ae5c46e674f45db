"""Distillation: a likelihood in which a network also imitates another one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrosparse.models.calls import named_output, separated, with_labels
from pyrosparse.models.likelihoods import Network, check_labels, data_plate, positive_count

TEACHER_LOGITS = "teacher_logits"
"""What the teacher's logits are called in data by name."""


class distill(nn.Module):
    r"""A Pyro model of class labels whose network also learns the probabilities of a teacher.

    .. math::
        \log p(y_i, t_i \mid x_i, w) = (1 - \lambda) \log \mathrm{softmax}(f(x_i; w))_{y_i}
        - \lambda T^2 \, \mathrm{KL}\big(\mathrm{softmax}(t_i / T) \,\Vert\,
            \mathrm{softmax}(f(x_i; w) / T)\big)

    where t are the teacher's logits. Use it in place of ``classifier``, with any method and guide.
    In evaluation mode the teacher is left out: likelihoods are then those of the labels.

    network:     a lifted network that maps ``x``, (batch, ...), and further inputs to logits
                 (batch, classes), or to a mapping or object that has them.
    teacher:     the dense network, with logits for the same classes; copied as it is now, so that
                 it may be the network that is lifted. It is called as the network is.
    n:           how many data there are in all.
    weight:      lambda in [0, 1]; 0 is ``classifier``.
    temperature: T > 0; above 1 it brings out what the teacher thinks of the wrong classes.
    output:      the name of the logits in what network and teacher give, such as ``"logits"``; of
                 one that gives a tensor, that is taken.

    The model takes ``x``, further inputs, labels ``y``, (batch,) int64 or None, and optionally the
    logits of the teacher, (batch, classes) floating point, which
    ``data = (x, y, model.teach(x))`` computes once for all epochs. Data that are dicts have the
    network's arguments by their names, the labels as ``y`` or ``labels``, and the teacher's logits
    as ``teacher_logits``. Its sites are ``y`` and ``teacher``. It is a torch module that holds the
    network, where that is one.

    Raises ValueError when n is not a positive whole number or an option is out of range, and where
    the logits of the two networks are not (batch, classes) of one shape, and on labels as
    ``classifier`` does; TypeError when a network gives no tensor, or nothing of that name, and
    where the teacher has the arguments of a dict in another order than the network.

    Source: Hinton, Vinyals and Dean (2015), section 2.

    >>> import pyrosparse as ps
    >>> net = nn.Linear(4, 3)
    >>> bnn = ps.lift(net, ps.BetaBernoulli())
    >>> distill(bnn, net, n=100)(torch.ones(5, 4)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        network: Network,
        teacher: nn.Module,
        n: int,
        *,
        weight: float = 0.5,
        temperature: float = 2.0,
        output: str | None = None,
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be in [0, 1], got {weight}")
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        super().__init__()
        self.network = network
        # In a tuple, as data and not a part: nothing that trains, saves or sets modes reaches it.
        self._teacher = (copy.deepcopy(teacher).eval().requires_grad_(False),)
        self.n = positive_count(n)
        self.weight = weight
        self.temperature = temperature
        self.output = output

    def from_names(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The model's positional arguments from some by name."""
        data = {name: value for name, value in named.items() if name != TEACHER_LOGITS}
        batch = with_labels(data, self.network)
        if TEACHER_LOGITS in named:
            return (*batch, named[TEACHER_LOGITS])
        taken = with_labels(data, self.teacher)
        if len(taken) != len(batch) or any(
            one is not other for one, other in zip(taken, batch, strict=True)
        ):
            raise TypeError(
                f"{type(self.teacher).__name__} takes {', '.join(data)} at other positions than "
                "the network does: wrap the teacher in a module with the network's arguments"
            )
        return batch

    def forward(
        self,
        x: Tensor,
        *more: Any,
        y: Tensor | None = None,
        teacher_logits: Tensor | None = None,
    ) -> Tensor:
        if teacher_logits is None and len(more) > 1 and _are_logits(more[-1]):
            *more, teacher_logits = more  # type: ignore[assignment]
        inputs, y = separated(x, more, y)
        logits = self._logits(self.network, inputs)
        check_labels(y, logits)
        training = getattr(self.network, "training", self.training)
        if not training or self.weight == 0:
            with data_plate(self.n, x):
                return pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        if teacher_logits is None:
            with torch.no_grad():
                teacher_logits = self._logits(self.teacher, inputs)
        if teacher_logits.shape != logits.shape:
            raise ValueError(
                f"the teacher's logits have shape {tuple(teacher_logits.shape)}, the network's "
                f"{tuple(logits.shape)}: they must be of the same classes"
            )
        divergence = F.kl_div(
            (logits / self.temperature).log_softmax(-1),
            (teacher_logits / self.temperature).log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(-1)
        with data_plate(self.n, x):
            pyro.factor("teacher", -self.weight * self.temperature**2 * divergence)
            if self.weight == 1:
                return pyro.sample("y", dist.Categorical(logits=logits).mask(False), obs=y)
            with poutine.scale(scale=1 - self.weight):
                return pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    @property
    def teacher(self) -> nn.Module:
        """The copy of the dense network: frozen, in evaluation mode, and no part of
        ``parameters()`` and ``state_dict()``; ``to`` moves it with the model."""
        return self._teacher[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def teach(self, x: Tensor, *more: Any, batch_size: int = 256) -> Tensor:
        """The teacher's logits, (N, classes), for ``x``, (N, ...), and further inputs: tensors with
        a row for each datum; what is no tensor is the same for all data."""

        def some(start: int) -> tuple[Any, ...]:
            rows = slice(start, start + batch_size)
            return tuple(one[rows] if isinstance(one, Tensor) else one for one in (x, *more))

        with torch.no_grad():
            starts = range(0, len(x), batch_size)
            return torch.cat([self._logits(self.teacher, some(start)) for start in starts])

    def _logits(self, network: Any, inputs: tuple[Any, ...]) -> Tensor:
        result = network(*inputs)
        logits = result if isinstance(result, Tensor) else named_output(result, self.output)
        if logits.dim() != 2:
            raise ValueError(
                f"distill is for one class of each datum, logits (batch, classes); got "
                f"{tuple(logits.shape)}"
            )
        return logits


def _are_logits(value: Any) -> bool:
    """Whether what comes last is the teacher's logits: labels are whole numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()
