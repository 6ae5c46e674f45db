"""Adversarial fine-tuning: the weights that a pruned network has left learn to resist attacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from pyrosparse.data import Examples
from pyrosparse.infer import fit
from pyrosparse.lifting.lift import Lifted, lift
from pyrosparse.lifting.target import weights
from pyrosparse.methods import Gaussian
from pyrosparse.models.likelihoods import check_labels, data_plate, positive_count
from pyrosparse.robustness.fgsm import Bounds, adversarial_examples, checked_bounds
from pyrosparse.util.modes import evaluating


class adversarial_classifier(nn.Module):
    r"""A Pyro model of class labels whose network also sees adversarial examples of its own.

    .. math::
        \log p(y_i \mid x_i, w) = (1 - \lambda) \log \mathrm{softmax}(f(x_i; w))_{y_i}
        + \lambda \log \mathrm{softmax}(f(x_i'; w))_{y_i}

    where x' is made from x anew in every step, by the fast gradient sign method on the network at
    its posterior mean in evaluation mode, and is a constant to the gradient by w. Use it in place
    of ``classifier``, with any method and guide. In evaluation mode the likelihood is that of the
    clean data.

    network: a lifted network that maps ``x``, (batch, ...), to logits (batch, classes).
    n:       how many data there are in all.
    epsilon: how far inputs are moved, as for ``fgsm``.
    bounds:  as for ``fgsm``.
    weight:  lambda in [0, 1], the share of the adversarial examples.

    The model takes ``x`` and labels ``y``, (batch,) int64, or None to draw them; it returns the
    labels. Its sites are ``y`` and, while training, ``adversarial``.

    Raises ValueError when n is not a positive whole number or an option is out of range; a call
    raises where ``adversarial_examples`` does.

    Source: Goodfellow, Shlens and Szegedy (2015), section 6, with weight 1/2.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian())
    >>> model = adversarial_classifier(bnn, n=100, epsilon=0.1)
    >>> model(torch.ones(5, 4), torch.zeros(5, dtype=torch.int64)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        network: Lifted,
        n: int,
        *,
        epsilon: float,
        bounds: Bounds | None = None,
        weight: float = 0.5,
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be in [0, 1], got {weight}")
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
        super().__init__()
        self.network = network
        self.n = positive_count(n)
        self.epsilon = epsilon
        self.bounds = bounds
        self.weight = weight

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None or not self.network.training or self.weight == 0:
            logits = self.network(x)
            check_labels(y, logits)
            with data_plate(self.n, x):
                return pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        moved = adversarial_examples(self.network, x, y, self.epsilon, bounds=self.bounds)
        # One call, as a lifted network draws one set of weights a call.
        logits, attacked = self.network(torch.cat([x, moved])).chunk(2)
        check_labels(y, logits)
        clean = (
            poutine.mask(mask=False) if self.weight == 1 else poutine.scale(scale=1 - self.weight)
        )
        with data_plate(self.n, x):
            pyro.factor("adversarial", self.weight * dist.Categorical(logits=attacked).log_prob(y))
            with clean:
                return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def adversarial_fine_tune(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    data: Examples | tuple[Tensor, Tensor],
    *,
    epsilon: float,
    epochs: int,
    bounds: Bounds | None = None,
    weight: float = 0.5,
    scale: float = 1.0,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    validation: Any = None,
    seed: int = 0,
    progress: bool | None = None,
) -> list[dict[str, Any]]:
    """Train what a pruned network has left, in place, on clean and on adversarial examples.

    Maximum a posteriori under a Gaussian prior on the weights, by ``fit`` and Adam, of the
    likelihood of ``adversarial_classifier``: in every batch each datum counts as it is, by 1 -
    weight, and as the attack has moved it, by weight. Returns the history, an entry an epoch.

    net:     inputs -> logits (N, classes), of any class that ``lift`` takes, also compact. Its
             modules are afterwards in the mode that they were in.
    masks:   of weights, by parameter name and of its shape: what they remove is set to zero, and
             is zero exactly ever after. All other parameters are trained. Of a compact network,
             whose zeros are gone, {}; with gates, compact the network before.
    data:    ``Examples``, or a tuple (x, y); x: (N, ...) floating point, y: (N,) int64 classes.
    epsilon, bounds: as for ``fgsm``; epsilon positive.
    weight:  lambda in [0, 1], the share of the adversarial examples.
    scale:   the prior's standard deviation.
    batch_size, learning_rate, validation, progress: as for ``fit``.
    seed:    seed of all random numbers: the same seed gives the same numbers.

    Raises ValueError on unknown names and wrong shapes of masks, on options out of range, and on
    data outside the bounds, before anything is changed; and what ``fit`` raises.

    Source: Xia, Tsang and Lau (2023), section V-D; it gives neither epsilon nor mixture.

    >>> net, data = nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1]))
    >>> mask = torch.tensor([[True, False], [False, True]])
    >>> history = adversarial_fine_tune(
    ...     net, {"weight": mask}, data, epsilon=0.1, epochs=2, progress=False
    ... )
    >>> len(history), net.weight[0, 1].item()
    (2, 0.0)
    """
    examples = data if isinstance(data, Examples) else Examples(*data)
    checked_bounds(bounds, examples.x)
    named = weights(net, list(masks)) if masks else []
    targets = {target.name: target for target in [*weights(net), *named]}
    bnn = lift(net, Gaussian(scale=scale), list(targets.values()))
    model = adversarial_classifier(
        bnn, len(examples), epsilon=epsilon, bounds=bounds, weight=weight
    )
    bnn.freeze(masks)
    # Around the training for the modes it restores: fit sets its own.
    with evaluating(bnn):
        run = fit(
            model,
            bnn.guide,
            examples,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            validation=validation,
            seed=seed,
            capture=False,  # a graph cannot hold the attack, which checks what it reads
            progress=progress,
        )
    return run.history
