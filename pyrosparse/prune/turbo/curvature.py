"""The diagonal of the Fisher information, from gradients of randomly signed likelihoods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrosparse.evidence.repeated import Repeated
from pyrosparse.evidence.sites import observed_sites
from pyrosparse.evidence.traces import evaluation_mode, trace_at_mean
from pyrosparse.lifting.lift import Lifted
from pyrosparse.models.latents import guide_of
from pyrosparse.util.generators import generators_left_alone

_BATCH = 50


def curvature(
    model: Any,
    bnn: Lifted,
    data: Any,
    names: Sequence[str],
    *,
    examples: int,
    seed: int,
    guide: Any = None,
) -> dict[str, Tensor]:
    r"""The diagonal of the Fisher information of all data, at the posterior's mean.

    .. math::
        h_j = \sum_{n=1}^N E_{y \sim p(y \mid x_n, w)} \Big(\frac{\partial \ln p(y \mid x_n, w)}
              {\partial w_j}\Big)^2
            = E_{y, r} \Big(\frac{\partial}{\partial w_j} \sum_n r_n \ln p(y_n \mid x_n, w)\Big)^2

    with independent signs :math:`r_n = \pm 1`, which take one gradient a batch and not one a datum.
    For softmax and normal likelihoods it is the diagonal of the Gauss-Newton matrix.

    model:    a Pyro model with observed sites, one factor a datum.
    data:     ``Examples``, a tuple of tensors, or an iterable of batches.
    names:    of the weights, targets of ``bnn``.
    examples: how many data to take, the first ones; h is scaled up to all.
    seed:     of labels and signs; the caller's generator is left alone.
    guide:    at whose mean the gradients are; by default as for ``to_datatree``.

    Returns h by name, each in the shape of its weight, in nats a squared weight. Raises ValueError
    if the model observes nothing.

    >>> import pyrosparse as ps
    >>> method = ps.GammaSpikeAndSlab(likelihood="curvature")
    >>> bnn = ps.lift(torch.nn.Linear(1, 1, bias=False), method)
    >>> model = ps.regressor(bnn, 3, noise=0.5)  # h = sum x^2 / 0.25
    >>> data = torch.tensor([[1.0], [1.0], [1.0]]), torch.zeros(3, 1)
    >>> drawn = [curvature(model, bnn, data, ["weight"], examples=3, seed=s) for s in range(500)]
    >>> abs(sum(float(h["weight"]) for h in drawn) / 500 - 12) < 3
    True
    """
    parameters = [
        entry.parameter() for entry in bnn.guide.entries if entry.target.key in set(names)
    ]
    total = [torch.zeros_like(parameter) for parameter in parameters]
    taken = 0
    repeated, guide = Repeated.of(data), guide_of(model, bnn, guide)
    with generators_left_alone(), evaluation_mode(bnn, model), torch.enable_grad():
        torch.manual_seed(seed)
        count = sum(len(batch[0]) for batch in repeated.minibatches(_BATCH, model))
        for batch in repeated.minibatches(_BATCH, model):
            if taken >= examples:
                break
            signed = torch.zeros(())
            for site in observed_sites(trace_at_mean(model, guide, batch)):
                drawn = site["fn"].log_prob(site["fn"].sample())
                score = scale_and_mask(drawn, mask=site["mask"])
                signs = torch.randint(0, 2, score.shape, device=score.device) * 2 - 1
                signed = signed.to(score) + (signs * score).sum()
            for sums, gradient in zip(total, torch.autograd.grad(signed, parameters), strict=True):
                sums += gradient.square()
            taken += len(batch[0])
    found = [entry.target.key for entry in bnn.guide.entries if entry.target.key in set(names)]
    return {name: sums * (count / taken) for name, sums in zip(found, total, strict=True)}
