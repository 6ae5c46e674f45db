"""The No-U-Turn sampler with gradients that are captured once and run as tensor programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer import NUTS
from torch import Tensor

from pyrosparse.captured.gradients import CapturedGradients


class CapturedNUTS(NUTS):
    """A drop-in for ``pyro.infer.NUTS`` that takes the Python out of the gradients.

    A trajectory of NUTS needs the gradient of the potential energy, the negative log density of the
    model, up to 1,023 times. Its operations are captured at the start and compared with the eager
    ones, then and every 200 gradients, as in ``CapturedSVI``. If that is not possible, all
    gradients are computed eagerly, with one warning that says why: ``captured.fallback`` holds the
    reason. Draws are those of NUTS up to rounding, which grows along a trajectory.

    Arguments are those of ``pyro.infer.NUTS``, without ``jit_compile``: captured gradients serve
    the same purpose, also for lifted networks, which torch.jit cannot trace.

    captured: the captured potential energy, after ``setup``, which ``MCMC`` calls.

    Raises ValueError for ``jit_compile=True``.

    Source: Hoffman and Gelman (2014), The No-U-Turn Sampler.

    >>> import pyro, pyro.distributions as dist
    >>> from pyro.infer import MCMC
    >>> kernel = CapturedNUTS(lambda: pyro.sample("a", dist.Normal(0.0, 1.0)))
    >>> mcmc = MCMC(kernel, 50, warmup_steps=10, disable_progbar=True)
    >>> mcmc.run()
    >>> kernel.captured.fallback is None
    True
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._jit_compile:
            raise ValueError(
                "CapturedNUTS has captured gradients in place of jit_compile=True: leave it out"
            )
        self.captured: CapturedPotential | None = None

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        if self.model is None:
            self._capture({"potential": self.potential_fn})
        super().setup(warmup_steps, *args, **kwargs)

    def _initialize_model_properties(self, model_args: Any, model_kwargs: Any) -> None:
        super()._initialize_model_properties(model_args, model_kwargs)
        self._capture({"model": self.model, "arguments": (model_args, model_kwargs)})

    def _capture(self, reads: Mapping[str, Any]) -> None:
        if self.initial_params and not isinstance(self.potential_fn, CapturedPotential):
            self.captured = CapturedPotential(self.potential_fn, self.initial_params, reads)
            self.potential_fn = self.captured


class CapturedPotential(CapturedGradients):
    """A potential energy, in nats, as a function of unconstrained values by name.

    potential: the function, whose gradients autograd computes.
    point:     values of the right shapes.
    reads:     by name, objects whose values in Python the function reads.
    """

    kind = CapturedNUTS.__name__

    def __init__(
        self,
        potential: Callable[..., Tensor],
        point: Mapping[str, Tensor],
        reads: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.potential = potential
        self.reads = reads
        self.point = {name: value.detach().clone() for name, value in point.items()}
        self.parameters = {name: one.requires_grad_() for name, one in self.point.items()}

    def __call__(self, point: Mapping[str, Tensor]) -> Tensor:
        """The potential energy at a point; a scalar that autograd differentiates once."""
        if not torch.is_grad_enabled():
            return self.potential(point)
        return _Energy.apply(self, tuple(point), *point.values())

    def energy_and_gradients(
        self, names: tuple[str, ...], values: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The potential energy at a point, and its gradients in the order of the names."""
        with torch.no_grad():
            for name, value in zip(names, values, strict=True):
                self.point[name].copy_(value)
        with torch.enable_grad():
            energy = self.backward()
        gradients = [self.point[name].grad for name in names]
        for one in self.point.values():
            one.grad = None
        return energy, gradients

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.potential(self.point)

    def _own_roots(self) -> dict[str, Any]:
        return dict(self.reads)

    def _differentiable_loss(self, args: Any, kwargs: Any) -> Tensor:
        return self.potential(self.point)

    def _eager(self, args: Any, kwargs: Any) -> Tensor:
        energy = self.potential(self.point)
        gradients = torch.autograd.grad(energy, list(self.point.values()), allow_unused=True)
        for one, gradient in zip(self.point.values(), gradients, strict=True):
            if gradient is not None:
                one.grad = gradient if one.grad is None else one.grad + gradient
        return energy.detach()


class _Energy(torch.autograd.Function):
    """The potential energy, whose gradients come with its value."""

    @staticmethod
    def forward(
        context: Any, captured: CapturedPotential, names: tuple[str, ...], *values: Tensor
    ) -> Tensor:
        energy, gradients = captured.energy_and_gradients(names, values)
        context.save_for_backward(*gradients)
        return energy.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *upstream: Tensor) -> tuple[Any, ...]:
        [factor] = upstream
        gradients = context.saved_tensors
        return None, None, *(None if one is None else factor * one for one in gradients)
