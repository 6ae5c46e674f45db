"""Stochastic gradient Langevin dynamics, as an optimizer for ``fit``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SGLD(Optimizer):
    r"""Draws from a posterior by half a step of gradient ascent and noise of variance epsilon.

    .. math:: w_{t+1} = w_t + \frac{\epsilon_t}{2} \Big( \nabla \log p(w_t) + \frac{n}{|B|}
        \sum_{i \in B} \nabla \log p(y_i \mid x_i, w_t) \Big) + \sqrt{\epsilon_t} \, z, \qquad
        z \sim \mathcal N(0, I)

    The loss must be -log p(D, w) in nats over all data, as in ``fit`` with point posteriors and
    without ``clip_norm`` or ``kl_scale``. The step size epsilon is the learning rate, and
    ``infer.KeepDraws`` keeps the draws. A schedule that decreases epsilon to zero makes the draws
    exact in the limit; with a constant step the distribution has an error of order epsilon, which
    grows with the noise of the minibatches' gradients.

    params: tensors or parameter groups.
    lr:     epsilon, positive.

    Raises ValueError if ``lr`` is not positive and finite.

    Source: Welling and Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics",
    eq. 4.

    >>> w = torch.zeros(1000, requires_grad=True)
    >>> sampler = SGLD([w], lr=0.1)
    >>> for _ in range(100):
    ...     loss = 0.5 * w.square().sum()  # of a standard normal
    ...     sampler.zero_grad()
    ...     loss.backward()
    ...     _ = sampler.step()
    >>> 0.85 < float(w.detach().std()) < 1.2
    True
    """

    def __init__(self, params: Any, lr: float = 1e-4) -> None:
        if not (lr > 0 and math.isfinite(lr)):
            raise ValueError(f"the step lr must be positive and finite, got {lr}")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            step = float(group["lr"])
            for weight in group["params"]:
                if weight.grad is not None:
                    noise: Tensor = torch.randn_like(weight)
                    weight.add_(weight.grad, alpha=-step / 2).add_(noise, alpha=math.sqrt(step))
        return loss
