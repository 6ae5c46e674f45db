"""A teacher, whose outputs a model's network imitates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F

from pyrosparse.models.likelihoods import Network, positive_count
from pyrosparse.util.errors import UsageError, expect_network


class Taught(nn.Module):
    """A model whose network also learns the probabilities of a teacher; a subclass writes its
    ``forward``.

    Raises ValueError if a number is out of range.
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
        expect_network(teacher)
        nn.Module.__init__(self)  # the other base of a subclass is a model without a teacher
        self.network = network
        self.n = positive_count(n)
        self.output = output
        # In a tuple, as data and not a submodule: training, saving and modes do not reach it.
        self._teacher = (copy.deepcopy(teacher).eval().requires_grad_(False),)
        self.weight = weight
        self.temperature = temperature

    @property
    def imitates(self) -> bool:
        """Whether the teacher counts: in training, if its weight is not 0."""
        return self.weight != 0 and getattr(self.network, "training", self.training)

    @property
    def teacher(self) -> nn.Module:
        """The copy of the dense network: frozen, in evaluation mode, and no part of
        ``parameters()`` and ``state_dict()``; ``to`` moves it with the model."""
        return self._teacher[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def divergence(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        r""":math:`T^2 \, \mathrm{KL}(\mathrm{softmax}(t / T) \,\Vert\, \mathrm{softmax}(f / T))`
        over the last dimension, in nats.

        The network's logits may have further dimensions in front. Raises ValueError if the shapes
        differ otherwise.
        """
        if teacher_logits.shape != logits.shape[-teacher_logits.dim() :]:
            raise ValueError(
                f"the teacher's logits have shape {tuple(teacher_logits.shape)}, the network's "
                f"{tuple(logits.shape)}: they must be of the same classes"
            )
        divergence = F.kl_div(
            (logits / self.temperature).log_softmax(-1),
            (teacher_logits / self.temperature).log_softmax(-1).expand_as(logits),
            reduction="none",
            log_target=True,
        )
        return self.temperature**2 * divergence.sum(-1)

    def check_places(
        self, named: Mapping[str, Any], batch: tuple[Any, ...], taken: tuple[Any, ...]
    ) -> None:
        """Raise UsageError if the teacher has the arguments of data by name in another order than
        the network."""
        if len(taken) != len(batch) or any(
            one is not other for one, other in zip(taken, batch, strict=True)
        ):
            raise UsageError(
                f"{type(self.teacher).__name__} takes {', '.join(named)} in other places than the "
                "network does: put the teacher into a module that has the network's arguments"
            )
