"""SNIP: how much the loss feels each weight, from one batch before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrosparse.evidence.sites import known_data, log_density, observed_sites
from pyrosparse.evidence.traces import evaluation_mode, own_guide_called, trace_at_mean
from pyrosparse.infer import Fit
from pyrosparse.lifting.lift import Lifted
from pyrosparse.models.latents import guide_of
from pyrosparse.prune.keep import Scope
from pyrosparse.prune.located import located_weights
from pyrosparse.prune.run_criterion import RunCriterion


def connection_sensitivity(
    model: Callable[..., Any],
    bnn: Lifted,
    batch: tuple[Any, ...],
    *,
    guide: Callable[..., Any] | None = None,
) -> dict[str, Tensor]:
    r"""The connection sensitivity of each weight: the first-order change of the loss if the weight
    is removed.

    .. math::
        \left| w_i \frac{\partial L}{\partial w_i} \right|
        = \left| \frac{\partial L(c \odot w)}{\partial c_i} \right|_{c = 1}, \qquad
        L = -\frac{1}{n} \sum_{j=1}^n \log p(y_j \mid x_j, w)

    L is the mean over the batch: the magnitude is taken of the sum over its data. The prior is
    ignored, latent sites have their means, and the network is in evaluation mode, so batch
    normalisation uses its running statistics.

    model, bnn: a Pyro model of the lifted network.
    batch:      one batch, passed on as ``model(*batch)``.
    guide:      by default the one with which the model is trained, as for ``to_datatree``.

    Returns scores of the targets that are weights, nats, each of its target's shape. It takes one
    forward and one backward pass; gradients, network and generators do not change.

    Raises ValueError if no target is a weight, if the mean of a posterior is not the network's own
    weight, if the guide does not call the network's own, if the model observes nothing or nothing
    of the batch, and if the loss is not finite.

    Source: Lee et al. (2019), section 4.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(2, 1, bias=False), ps.Gaussian())
    >>> _ = torch.nn.init.constant_(bnn.net.weight, 0.5)
    >>> x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0]])
    >>> connection_sensitivity(ps.regressor(bnn, 1, noise=1.0), bnn, (x, y))
    {'weight': tensor([[0.7500, 1.5000]])}
    """
    weights = located_weights(bnn)
    guide = guide_of(model, bnn, guide)
    with torch.enable_grad(), evaluation_mode(model, guide, bnn):
        with own_guide_called(bnn, "scored"):
            sites = observed_sites(trace_at_mean(model, guide, batch))
        loss = -torch.stack([log_density(site).sum() for site in sites]).sum()
        n = int(torch.stack([known_data(site, len(batch[0])) for site in sites]).any(0).sum())
        if not n:
            raise ValueError(
                "all data of the batch are masked, so there is no loss: give a batch "
                "with observed data"
            )
        if not loss.isfinite():
            raise ValueError(
                f"the loss of the batch is {float(loss.detach())}: weights cannot be scored by "
                "it. Look for NaN in the data and the weights"
            )
        gradients = torch.autograd.grad(
            loss / n, list(weights.values()), allow_unused=True, materialize_grads=True
        )
    return {
        name: (weight * gradient).detach().abs()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


@dataclass(kw_only=True)
class Snip(RunCriterion):
    """SNIP as a criterion: ``connection_sensitivity`` on the run's first batch.

    scope, at_least, structure: as for ``keep_largest``; by default all weights together.

    Source: Lee et al. (2019), Algorithm 1.

    >>> Snip().scope
    'global'
    """

    scope: Scope = "global"

    def scores(self, run: Fit) -> dict[str, Tensor]:
        batch = next(iter(run.batches()))
        return connection_sensitivity(run.model, run.lifted, batch, guide=run.guide)
