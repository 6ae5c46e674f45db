"""Distillation: a likelihood in which a network also imitates another one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Self

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrosparse.models.likelihoods import Network, check_labels, data_plate, positive_count


class distill(nn.Module):
    r"""A Pyro model of class labels whose network also learns the probabilities of a teacher.

    .. math::
        \log p(y_i, t_i \mid x_i, w) = (1 - \lambda) \log \mathrm{softmax}(f(x_i; w))_{y_i}
        - \lambda T^2 \, \mathrm{KL}\big(\mathrm{softmax}(t_i / T) \,\Vert\,
            \mathrm{softmax}(f(x_i; w) / T)\big)

    where t are the teacher's logits. Use it in place of ``classifier``, with any method and guide.
    In evaluation mode the teacher is left out: likelihoods are then those of the labels.

    network:     a lifted network that maps ``x``, (batch, ...), to logits (batch, classes).
    teacher:     the dense network, with logits for the same classes; copied as it is now, so that
                 it may be the network that is lifted.
    n:           how many data there are in all.
    weight:      lambda in [0, 1]; 0 is ``classifier``.
    temperature: T > 0; above 1 it brings out what the teacher thinks of the wrong classes.

    The model takes ``x``, labels ``y``, (batch,) int64 or None, and optionally the logits of the
    teacher, (batch, classes), which ``data = (x, y, model.teach(x))`` computes once for all
    epochs. Its sites are ``y`` and ``teacher``. It is a torch module that holds the network, where
    that is one.

    Raises ValueError when n is not a positive whole number or an option is out of range, and where
    the logits of the two networks have different shapes, and on labels as ``classifier`` does.

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

    def forward(
        self, x: Tensor, y: Tensor | None = None, teacher_logits: Tensor | None = None
    ) -> Tensor:
        logits = self.network(x)
        check_labels(y, logits)
        training = getattr(self.network, "training", self.training)
        if not training or self.weight == 0:
            with data_plate(self.n, x):
                return pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        if teacher_logits is None:
            with torch.no_grad():
                teacher_logits = self.teacher(x)
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

    def teach(self, x: Tensor, *, batch_size: int = 256) -> Tensor:
        """The teacher's logits, (N, classes), for ``x``, (N, ...)."""
        with torch.no_grad():
            return torch.cat([self.teacher(part) for part in x.split(batch_size)])
