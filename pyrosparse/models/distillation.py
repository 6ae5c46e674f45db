"""Distillation: a likelihood with which a network also imitates another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.lifting.particles import leading_dimension
from pyrosparse.models.calls import named_output, separated, with_labels
from pyrosparse.models.likelihoods import check_labels, data_plate
from pyrosparse.models.teacher import Taught

TEACHER_LOGITS = "teacher_logits"
"""What the teacher's logits are called in data by name."""


class distill(Taught):
    r"""A Pyro model of class labels whose network also learns the probabilities of a teacher.

    .. math::
        \log p(y_i, t_i \mid x_i, w) = (1 - \lambda) \log \mathrm{softmax}(f(x_i; w))_{y_i}
        - \lambda T^2 \, \mathrm{KL}\big(\mathrm{softmax}(t_i / T) \,\Vert\,
            \mathrm{softmax}(f(x_i; w) / T)\big)

    where t are the teacher's logits. Use it in place of ``classifier``, with any method and guide.
    In evaluation mode the teacher is left out: likelihoods are then those of the labels.

    network:     a lifted network that maps ``x``, (batch, ...), and further inputs to logits
                 (batch, classes), or to a mapping or object that contains them.
    teacher:     the dense network, with logits for the same classes; the model copies it, so that
                 it may be the network that is lifted. It is called as the network is.
    n:           the number of all data.
    weight:      lambda in [0, 1]; 0 is ``classifier``.
    temperature: T > 0; above 1 the teacher's probabilities of the wrong classes count more.
    output:      the name of the logits in the output of network and teacher, such as ``"logits"``;
                 an output that is a tensor is taken as the logits.

    The model takes ``x``, further inputs, labels ``y``, (batch,) int64 or None, and optionally the
    logits of the teacher, (batch, classes) floating point, which
    ``data = (x, y, model.teach(x))`` computes once for all epochs. In data that are dicts, the keys
    are the names of the network's arguments, ``y`` or ``labels`` for the labels, and
    ``teacher_logits``. Its sites are ``y`` and ``teacher``. It is a torch module that contains the
    network, if that is a module.

    Raises ValueError if n is not a positive whole number or an option is out of range, if the
    logits of the two networks are not (batch, classes) of the same shape, and for labels as
    ``classifier`` does; TypeError if a network returns no tensor, or none of that name, and if the
    teacher has the arguments of a dict in another order than the network.

    Source: Hinton, Vinyals and Dean (2015), section 2.

    >>> import pyrosparse as ps
    >>> net = torch.nn.Linear(4, 3)
    >>> bnn = ps.lift(net, ps.BetaBernoulli())
    >>> distill(bnn, net, n=100)(torch.ones(5, 4)).shape
    torch.Size([5])
    """

    def from_names(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The model's positional arguments from arguments by name."""
        data = {name: value for name, value in named.items() if name != TEACHER_LOGITS}
        batch = with_labels(data, self.network)
        if TEACHER_LOGITS in named:
            return (*batch, named[TEACHER_LOGITS])
        self.check_places(data, batch, with_labels(data, self.teacher))
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
        logits, leading = self._logits(self.network, inputs)
        check_labels(y, logits.shape[leading:])
        if not self.imitates:
            with data_plate(self.n, x):
                return pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        if teacher_logits is None:
            with torch.no_grad():
                teacher_logits, _ = self._logits(self.teacher, inputs)
        divergence = self.divergence(logits, teacher_logits)
        with data_plate(self.n, x):
            pyro.factor("teacher", -self.weight * divergence)
            if self.weight == 1:
                return pyro.sample("y", dist.Categorical(logits=logits).mask(False), obs=y)
            with poutine.scale(scale=1 - self.weight):
                return pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def teach(self, x: Tensor, *more: Any, batch_size: int = 256) -> Tensor:
        """The teacher's logits, (N, classes), for ``x``, (N, ...), and further inputs: tensors with
        a row for each datum, or other values, which are the same for all data."""

        def some(start: int) -> tuple[Any, ...]:
            rows = slice(start, start + batch_size)
            return tuple(one[rows] if isinstance(one, Tensor) else one for one in (x, *more))

        with torch.no_grad():
            starts = range(0, len(x), batch_size)
            return torch.cat([self._logits(self.teacher, some(start))[0] for start in starts])

    def _logits(self, network: Any, inputs: tuple[Any, ...]) -> tuple[Tensor, int]:
        """The logits of a network, and the number of dimensions in front of theirs."""
        with leading_dimension() as leading:
            result = network(*inputs)
        logits = result if isinstance(result, Tensor) else named_output(result, self.output)
        if logits.dim() - leading.count != 2:
            raise ValueError(
                f"distill is for one class of each datum, logits (batch, classes); got "
                f"{tuple(logits.shape[leading.count :])}"
            )
        return logits, leading.count


def _are_logits(value: Any) -> bool:
    """Whether the last argument is the teacher's logits: labels are whole numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()
