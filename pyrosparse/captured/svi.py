"""Stochastic variational inference in steps that are captured once and run as tensor programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.optim.dct_adam import DCTAdam
from pyro.util import warn_if_nan
from torch import Tensor

from pyrosparse.captured.gradients import CapturedGradients
from pyrosparse.captured.optimizers import Optim, Update


class CapturedSVI(CapturedGradients):
    r"""A drop-in for ``pyro.infer.SVI`` that takes the Python out of a step.

    The first step runs eagerly. From the second on, a step on arguments of a new kind (shapes,
    dtypes, values that are not tensors) is traced as a graph of ATen operations: loss and
    gradients. The graph is cleaned, compared with the eager step under two seeds and on two
    minibatches, and then used. Random numbers are drawn anew in every step, from torch's global
    generator.

    If a step cannot be captured, or differs from the eager one, it runs eagerly, as in
    ``pyro.infer.SVI``, with one warning that says why: ``fallback`` holds the reason. If a number,
    a module's mode or a parameter is replaced, the step is captured anew.

    model, guide: as for ``SVI``.
    optim:   a ``PyroOptim``, whose optimizers then take one fused step together; a torch optimizer;
             or a function that makes one from the parameters by name, such as
             ``lambda parameters: torch.optim.Adam(parameters.values(), fused=True)``.
    loss:    an ELBO, or a differentiable loss ``loss(model, guide, *args, **kwargs)``.
    compile: also compile the graph with inductor: worth the time if elementwise work on large
             tensors is much of a step. Needs a C++ compiler. On a GPU the step is also recorded as
             a CUDA graph.
    same_random_stream: also make the draws that nothing reads, so that every step draws the numbers
             that the eager one would; without them a step may cost less, and has the same
             distribution.

    Raises TypeError if ``optim`` is none of these.

    >>> import torch, pyrosparse as ps
    >>> from pyro.infer import TraceMeanField_ELBO
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> def adam(parameters):
    ...     return torch.optim.Adam(parameters.values(), lr=0.01, fused=True)
    >>> svi = CapturedSVI(ps.classifier(bnn, 20), bnn.guide, adam, TraceMeanField_ELBO())
    >>> x, y = torch.randn(20, 4), torch.zeros(20, dtype=torch.int64)
    >>> losses = [svi.step(x, y) for _ in range(5)]
    >>> svi.fallback is None
    True
    """

    kind = "CapturedSVI"

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: Optim,
        loss: ELBO | Callable[..., Any],
        *,
        compile: bool = False,
        same_random_stream: bool = True,
    ) -> None:
        super().__init__(compile=compile, same_random_stream=same_random_stream)
        self.model = model
        self.guide = guide
        self.optim = optim
        self.elbo = elbo = cast(Any, loss)
        self.loss = elbo.loss if isinstance(loss, ELBO) else loss
        self.loss_and_grads = elbo.loss_and_grads if isinstance(loss, ELBO) else _backward_of(loss)
        self._update = Update(optim)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one gradient step; returns the estimate of the loss, in nats.

        The arguments are those of the model. Gradients are cleared afterwards."""
        loss = self.backward(*args, **kwargs)
        if self._update.optim is not self.optim:
            self._update = Update(self.optim)
        self._update.step(self.parameters, merge=self.fallback is None)
        for parameter in self.parameters.values():
            parameter.grad = None
        if isinstance(loss, Tensor):
            warn_if_nan(loss, "loss")
            return float(loss)
        return type(loss)(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The estimate of the loss, in nats, without a step."""
        with torch.no_grad():
            loss: Any = self.loss(self.model, self.guide, *args, **kwargs)
        return type(loss)(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)

    def _own_roots(self) -> dict[str, Any]:
        return {"model": self.model, "guide": self.guide, "loss": self.elbo}

    def _why_not(self) -> str | None:
        if getattr(self.optim, "pt_optim_constructor", None) is DCTAdam:
            return "DCTAdam reads which data a step has drawn, in Python"
        if not hasattr(self.elbo, "differentiable_loss") and isinstance(self.elbo, ELBO):
            return f"{type(self.elbo).__name__} has no differentiable loss"
        return None

    def _differentiable_loss(self, args: Any, kwargs: Any) -> Any:
        loss = getattr(self.elbo, "differentiable_loss", self.elbo)
        return loss(self.model, self.guide, *args, **kwargs)

    def _eager(self, args: Any, kwargs: Any) -> Any:
        """Loss and gradients as SVI computes them; records the parameters."""
        with poutine.trace(param_only=True) as capture:
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        parameters: dict[str, Tensor] = {}
        for name, site in capture.trace.nodes.items():
            value: Any = site["value"]
            tensor = value.unconstrained()
            if tensor.requires_grad and not any(tensor is one for one in parameters.values()):
                parameters[name] = tensor
        self.parameters = parameters
        # Parameters of PyroModules need not be in the store.
        self._stored = parameters.keys() & pyro.get_param_store().keys()
        return loss


def _backward_of(loss: Callable[..., Any]) -> Callable[..., Any]:
    def loss_and_grads(*args: Any, **kwargs: Any) -> Any:
        value = loss(*args, **kwargs)
        if getattr(value, "requires_grad", False):
            value.backward()
        return value.detach() if isinstance(value, Tensor) else value

    return loss_and_grads
