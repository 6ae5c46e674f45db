"""Predictive class probabilities of any network, or averaged over a posterior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from pyrosparse.diagnostics.draws import draw_seed
from pyrosparse.evidence.latents import check_covered
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.lifting.lift import Lifted
from pyrosparse.util.generators import generators_left_alone


def log_probabilities(
    net: nn.Module,
    x: Tensor,
    *,
    guide: Callable[..., Any] | None = None,
    draws: int = 30,
    seed: int = 0,
    batch_size: int = 1000,
) -> Tensor:
    r"""The log predictive probabilities of classes, (n, classes) float64, in nats.

    .. math:: \log p(y \mid x) = \log \frac{1}{S} \sum_{s=1}^{S}
              \operatorname{softmax} f(x; w_s)_y, \quad w_s \sim q

    for a lifted network; for any other network the log softmax of its logits.

    net:   (n, ...) -> logits (n, classes); in evaluation mode for the call. A compact network is
           like any other; ``bnn.net`` is the network at the mean of the weights.
    x:     the inputs, (n, ...).
    guide: the guide with which the model was trained, called as ``guide(x)``; by default the lifted
           network's own.
    draws: S.
    seed:  seed of the draws; the caller's generators do not change.

    Raises ValueError if the outputs are not logits (n, classes), or not finite; if the guide does
    not draw all sites of the network; and if a guide is given for a network that is not lifted.
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> round(float(log_probabilities(bnn, torch.ones(1, 4)).exp().sum()), 6)
    1.0
    """
    if not isinstance(net, Lifted):
        if guide is not None:
            raise ValueError(
                f"{type(net).__name__} is not lifted, so there is no posterior to "
                "draw from: give a network that ps.lift returns"
            )
        with torch.no_grad(), evaluation_mode(net):
            return torch.cat([_log_softmax(net, part) for part in x.split(batch_size)])
    total = None
    for number in range(draws):
        one = _drawn(net, guide or net.guide, x, draw_seed(seed, number), batch_size)
        total = one if total is None else torch.logaddexp(total, one)
    if total is None:
        raise ValueError(f"draws must be positive, got {draws}")
    return total - math.log(draws)


def _drawn(bnn: Lifted, guide: Callable[..., Any], x: Tensor, seed: int, batch_size: int) -> Tensor:
    with (
        generators_left_alone(),
        torch.no_grad(),
        evaluation_mode(bnn, guide),
        poutine.block(),
    ):
        torch.manual_seed(seed)
        trace = poutine.trace(guide).get_trace(x)
        replayed = poutine.trace(poutine.replay(bnn, trace=trace))
        parts = []
        for part in x.split(batch_size):
            parts.append(_log_softmax(replayed, part))
            check_covered(replayed.trace, trace)
        return torch.cat(parts)


def _log_softmax(net: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    logits = net(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network must give logits ({len(x)}, classes); it gives {shape}")
    if not logits.isfinite().all():
        raise ValueError("the network gives logits that are NaN or infinite")
    # In float64: in float32 the probability of a sure class rounds to 1, and its log to 0.
    return logits.double().log_softmax(1).cpu()
