"""Deep ensembles: networks trained apart, whose predictions are averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.evidence.repeated import Repeated
from pyrosparse.infer import fit
from pyrosparse.lifting.lift import lift
from pyrosparse.lifting.target import weights
from pyrosparse.methods import Gaussian
from pyrosparse.models import around, classifier
from pyrosparse.models.calls import Called
from pyrosparse.models.latents import ModelGuide
from pyrosparse.util.generators import generators_left_alone


class Ensemble(nn.Module):
    r"""Networks, or models around them, that predict together; made by ``ensemble``.

    .. math:: p(y \mid x) = \frac1M \sum_{m=1}^M p_m(y \mid x)

    members: classifiers (n, ...) -> logits (n, classes), or Pyro models with a ``network``, such as
             ``ps.regressor``.

    ``ps.predict`` takes it, and mixes what the members predict. Of classifiers it is itself a
    classifier: called, it gives the log predictive probabilities, (n, classes), as logits, which
    ``report``, ``predictive_quality`` and all that judges networks accept.

    Raises ValueError without members.

    >>> sure = [nn.Identity(), nn.Softshrink(5.0)]
    >>> Ensemble(sure)(torch.tensor([[0.0, 4.0]])).exp()  # the second is not sure at all
    tensor([[0.2590, 0.7410]])
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise ValueError("an ensemble needs at least one member")

    def __len__(self) -> int:
        return len(self.members)

    def forward(self, *args: Any) -> Tensor:
        if any(hasattr(member, "network") for member in self.members):
            raise ValueError(
                "the members are Pyro models, whose predictions are not logits: use "
                "ps.predict(ensemble, x)"
            )
        logs = torch.stack([member(*args).log_softmax(-1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self))


def ensemble(
    make: Callable[[], nn.Module],
    data: Any,
    *,
    members: int = 5,
    model: Callable[[nn.Module, int], Any] = classifier,
    scale: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> Ensemble:
    r"""Train a deep ensemble: the same network from several random starts, each by its own
    minibatches.

    Each member is a maximum a posteriori, of :math:`\log p(D \mid w) + \sum_j \log
    \mathcal N(w_j \mid 0, s^2)`, biases among the weights. The paper's adversarial examples
    are left out.

    make:    makes a network with random weights, by torch's generator.
    data:    (x, y), tensors with one datum a row, or ``Examples``.
    members: M.
    model:   the likelihood, called with the lifted network and the number of data:
             ``ps.classifier``, ``ps.heteroscedastic_regressor`` (the paper's for values),
             ``ps.counts``, or ``lambda f, n: ps.regressor(f, n, noise=0.1)``.
    scale:   the prior's standard deviation s.
    seed:    of starts and minibatches; the caller's generator is left alone.
    options: for ``fit``: ``epochs`` above all, ``batch_size``, ``learning_rate``, ``progress``.

    Raises ValueError if ``members`` is not positive, and if the model has latent variables of
    its own, such as noise that is learned; and as ``fit`` does.

    Source: Lakshminarayanan, Pritzel and Blundell (2017), "Simple and scalable predictive
    uncertainty estimation using deep ensembles", algorithm 1.

    >>> import pyrosparse as ps
    >>> x = torch.randn(30, 2)
    >>> found = ensemble(
    ...     lambda: nn.Linear(2, 2), (x, (x[:, 0] > 0).long()), members=3, epochs=2, progress=False
    ... )
    >>> ps.predict(found, x).log_probabilities.shape
    torch.Size([3, 30, 2])
    """
    if members < 1:
        raise ValueError(f"members must be 1 or more, got {members}")
    n, trained = 0, []
    for number in range(members):
        start = seed * 1_000_003 + number
        with generators_left_alone():
            torch.manual_seed(start)
            net = make()
        if not n:
            read = Repeated(data).minibatches(1000, Called(net))
            n = sum(len(batch[0]) for batch in read)
        lifted = lift(net, Gaussian(scale=scale), weights(net, "*"))
        program = model(lifted, n)
        if isinstance(getattr(program, "guide", None), ModelGuide):
            raise ValueError(
                f"{type(program).__name__} has latent variables outside the network, which an "
                "ensemble does not draw: pass a known noise, or use heteroscedastic_regressor"
            )
        fit(program, lifted.guide, data, seed=start, **options)
        plain = isinstance(program, classifier)
        trained.append(net if plain else around(program, net))
    return Ensemble(trained)
