"""Adversarial fine-tuning: the remaining weights of a pruned network learn to resist attacks."""

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
from pyrosparse.evidence.batches import inputs_and_targets
from pyrosparse.infer import fit
from pyrosparse.lifting.lift import Lifted, lift
from pyrosparse.lifting.target import weights
from pyrosparse.methods import Gaussian
from pyrosparse.models.calls import Called, called
from pyrosparse.models.likelihoods import check_labels, data_plate, positive_count
from pyrosparse.robustness.fgsm import Bounds, adversarial_examples, checked_bounds
from pyrosparse.util.modes import evaluating


class adversarial_classifier(nn.Module):
    r"""A Pyro model of class labels whose network also sees its own adversarial examples.

    .. math::
        \log p(y_i \mid x_i, w) = (1 - \lambda) \log \mathrm{softmax}(f(x_i; w))_{y_i}
        + \lambda \log \mathrm{softmax}(f(x_i'; w))_{y_i}

    where x' is made from x in every step, by the fast gradient sign method on the network at its
    posterior mean in evaluation mode, and is a constant for the gradient by w. Use it in place of
    ``classifier``, with any method and guide. In evaluation mode the likelihood is that of the
    clean data.

    network: a lifted network that maps ``x``, (batch, ...), to logits (batch, classes).
    n:       the number of all data.
    epsilon: how far the attack moves inputs, as for ``fgsm``.
    bounds:  as for ``fgsm``.
    weight:  lambda in [0, 1], the share of the adversarial examples.

    The model takes ``x`` and labels ``y``, (batch,) int64, or None to draw them; it returns the
    labels. Its sites are ``y`` and, while training, ``adversarial``.

    Raises ValueError if n is not a positive whole number or an option is out of range; a call
    raises what ``adversarial_examples`` raises.

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
            logits, leading = called(self.network, [x])
            check_labels(y, logits.shape[leading:])
            with data_plate(self.n, x):
                return pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        moved = adversarial_examples(self.network, x, y, self.epsilon, bounds=self.bounds)
        # One call, as a lifted network draws one set of weights for each call.
        both, leading = called(self.network, [torch.cat([x, moved])])
        logits, attacked = both.chunk(2, leading)
        check_labels(y, logits.shape[leading:])
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
    data: Any,
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
    """Train the remaining weights of a pruned network, in place, on clean and adversarial examples.

    ``fit`` with Adam maximises the posterior under a Gaussian prior on the weights and the
    likelihood of ``adversarial_classifier``: in every batch each clean datum has the weight
    1 - ``weight``, and its adversarial example the weight ``weight``. Returns the history, one
    entry for each epoch.

    net:     inputs -> logits (N, classes), of any class that ``lift`` accepts, also compact. Its
             modules keep their mode.
    masks:   masks of weights, by parameter name and of its shape: what they remove is set to zero
             and stays exactly zero. All other parameters are trained. For a compact network, which
             has no pruned weights, {}; if there are gates, compact the network first.
    data:    ``Examples``, a tuple (x, y), or batches of these; x: (N, ...) floating point, y: (N,)
             int64 classes. All of them are held in memory.
    epsilon, bounds: as for ``fgsm``; epsilon positive.
    weight:  lambda in [0, 1], the share of the adversarial examples.
    scale:   the prior's standard deviation.
    batch_size, learning_rate, validation, progress: as for ``fit``.
    seed:    seed for all random numbers: the same seed gives the same numbers.

    Raises ValueError for unknown names and wrong shapes of masks, for options out of range, and for
    data outside the bounds, before anything is changed; and what ``fit`` raises.

    Source: Xia, Tsang and Lau (2023), section V-D; it gives neither epsilon nor the mixture.

    >>> net, data = nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1]))
    >>> mask = torch.tensor([[True, False], [False, True]])
    >>> history = adversarial_fine_tune(
    ...     net, {"weight": mask}, data, epsilon=0.1, epochs=2, progress=False
    ... )
    >>> len(history), net.weight[0, 1].item()
    (2, 0.0)
    """
    examples = (
        data if isinstance(data, Examples) else Examples(*inputs_and_targets(data, Called(net)))
    )
    checked_bounds(bounds, examples.x)
    named = weights(net, list(masks)) if masks else []
    targets = {target.name: target for target in [*weights(net), *named]}
    bnn = lift(net, Gaussian(scale=scale), list(targets.values()))
    model = adversarial_classifier(
        bnn, len(examples), epsilon=epsilon, bounds=bounds, weight=weight
    )
    bnn.freeze(masks)
    # Around the training, to restore the modes: fit sets its own.
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
            capture=False,  # a graph cannot contain the attack, which checks values
            progress=progress,
        )
    return run.history
