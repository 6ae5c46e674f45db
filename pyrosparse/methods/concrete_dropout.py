"""Concrete dropout: the dropout rate of each layer is learned with its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pyro
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrosparse.distributions import Penalty, Point, relaxed_bernoulli
from pyrosparse.lifting.layers import is_conv1d
from pyrosparse.lifting.method import Method, Posterior
from pyrosparse.lifting.target import Kind, Target, weights

_INSTEAD = (
    "Leave them out of the targets, or learn rates of gates on the layers' inputs instead: "
    "ps.GeneralizedDropout, and the recipe generalized-dropout"
)


@dataclass(frozen=True)
class ConcreteDropout(Method):
    r"""Concrete dropout: the inputs of a layer are dropped at a learned rate p.

    .. math::
        \log p(W, p) = -\frac{|W|^2}{2 s^2 (1 - p)} + K\, H(p) + \text{const}, \qquad
        \tilde W_{ij} = \frac{z_j}{1 - p} W_{ij}, \quad z_j \sim \mathrm{Bernoulli}(1 - p)

    for a layer of K inputs (channels of a convolution), with :math:`H(p) = -p \log p
    - (1 - p) \log(1 - p)` in nats. W and p are point estimates; :math:`W`, the mean weight, is the
    network's own parameter.

    scale:       s, the inverse of the paper's length-scale l. (1 - p) s^2 is the variance of the
                 prior on W, without its log determinant: a penalty, not a distribution (``proper``
                 is False).
    temperature: of the relaxed Bernoulli; the paper's is 0.1.
    initial:     p at the start.

    Targets: weights of dense and convolutional layers, by default all except transposed and grouped
    convolutions and Hugging Face's ``Conv1D``. The sites are the weight and logit p, under
    ``<weight>_logit_rate``. One z is drawn for all examples of a step; the paper draws one for
    each. The expected objective is the same, but its gradient has more noise.

    It prunes nothing by itself: ``score`` is :math:`|W|`, and everything stays.

    Raises ValueError if an option is out of range, for weights of other layers, and if a network
    has no others.

    Source: Gal, Hron and Kendall (2017), eqs. 3 and 4.

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> bnn = ps.lift(nn.Linear(4, 3), ConcreteDropout())
    >>> sorted(name for name, _ in bnn.named_parameters())
    ['guide.posterior.weight.logit_rate', 'net.bias', 'net.weight']
    """

    scale: float = 1.0
    temperature: float = 0.1
    initial: float = 0.1

    kinds: ClassVar[tuple[Kind, ...]] = ("weight",)
    threshold: ClassVar[float] = 0.0
    proper: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("scale", "temperature"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0 < self.initial < 1:
            raise ValueError(f"initial is a probability in (0, 1), got {self.initial}")

    def targets(self, net: nn.Module) -> list[Target]:
        found = weights(net)
        reasons = {target.key: _refused(net, target) for target in found}
        left = [f"{key!r} ({why})" for key, why in reasons.items() if why is not None]
        if len(left) == len(found):
            raise ValueError(
                f"{type(net).__name__} has no weights whose inputs concrete dropout could drop: "
                f"{left[0]}{f', and {len(left) - 1} others' if left[1:] else ''}. {_INSTEAD}"
            )
        return [target for target in found if reasons[target.key] is None]

    def check(self, net: nn.Module, target: Target) -> None:
        reason = _refused(net, target)
        if reason is not None:
            raise ValueError(f"{target.key!r} cannot have its inputs dropped: {reason}. {_INSTEAD}")

    def init(self, target: Target) -> dict[str, Tensor]:
        assert target.value is not None
        start = math.log(self.initial) - math.log1p(-self.initial)
        return {"loc": target.value, "logit_rate": target.value.new_tensor(start).detach()}

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        inputs = target.shape[1]

        def entropy(logit: Tensor) -> Tensor:
            # H(p) = log(1 + e^l) - p l
            return inputs * (softplus(logit) - logit.sigmoid() * logit)

        def quadratic(weight: Tensor) -> Tensor:
            # 1 / (1 - p) = 1 + e^l
            flat = weight.flatten(-len(target.shape))
            return (-0.5 / self.scale**2) * flat.square().sum(-1) * (1 + logit.exp())

        logit = pyro.sample(target.part("logit_rate"), Penalty(entropy, q["logit_rate"]))
        weight = pyro.sample(target.site, Penalty(quadratic, q["loc"]))
        shape = (1, inputs, *(1 for _ in target.shape[2:]))
        passing = relaxed_bernoulli(-logit.expand(shape), self.temperature)
        return weight * (passing * (1 + logit.exp()))

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        pyro.sample(target.part("logit_rate"), Point(q["logit_rate"]))
        return pyro.sample(target.site, Point(q["loc"]))

    def hidden_draws(self, q: Posterior) -> bool:
        return True

    def score(self, target: Target, q: Posterior) -> Tensor:
        return q["loc"].abs()

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["loc"]


def _refused(net: nn.Module, target: Target) -> str | None:
    """Why the second dimension of a weight is not that of a layer's inputs; None where it is."""
    owner_name, _, leaf = target.name.rpartition(".")
    owner = net.get_submodule(owner_name)
    if is_conv1d(owner):
        return "its weight, of Hugging Face's Conv1D, has the inputs first"
    if leaf != "weight" or not isinstance(owner, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return f"it is no weight of a dense layer or a convolution, but of {type(owner).__name__}"
    if getattr(owner, "groups", 1) != 1:
        return "its convolution has groups, whose inputs do not share the second dimension"
    return None
