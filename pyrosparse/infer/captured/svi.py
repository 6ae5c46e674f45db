"""Stochastic variational inference whose steps are captured once and then run as tensor programs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.optim.dct_adam import DCTAdam
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.util import warn_if_nan
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrosparse.infer.captured.compiled import compiled
from pyrosparse.infer.captured.explanation import explain
from pyrosparse.infer.captured.graph import Run, StepGraph, trace
from pyrosparse.infer.captured.guards import Guards
from pyrosparse.infer.captured.optimizers import Optim, Update
from pyrosparse.infer.captured.state import State

CHECK_EVERY = 200
"""Steps after which a captured step is compared with the eager one again."""

_MOST_CAPTURES = 8
"""Captures of one signature, for other values of what is guarded, before all steps run eagerly."""

_TOLERANCE = 1e-4
"""Relative difference of a loss or gradient that rounding does not explain."""


@dataclass
class Captured:
    """One captured step: for arguments of one kind, while what it was traced with holds."""

    parameters: dict[str, Tensor]
    graph: StepGraph
    run: Run
    same_stream: Run
    guards: Guards
    signature: Any
    compiled: bool = False
    runs: int = 0
    checks: int = 1

    def inputs(self, arguments: list[Tensor]) -> list[Tensor]:
        graph = self.graph
        return [*self.parameters.values(), *arguments, *graph.outside, *graph.constants]


class CapturedSVI:
    r"""A drop-in for ``pyro.infer.SVI`` that takes the Python out of a step.

    The second step on arguments of a kind (shapes, dtypes, values that are no tensors) is traced as
    a graph of ATen operations: loss and gradients. The graph is cleaned, compared with the eager
    step under two seeds and on two minibatches, and run from then on. Random numbers are
    drawn anew in every step, from torch's global generator.

    A step that cannot be captured, or differs from the eager one, is taken eagerly, as
    ``pyro.infer.SVI`` takes it, with one warning that says why: ``fallback`` holds the reason. A
    number, a module's mode or a parameter that is replaced is noticed and captured anew.

    model, guide: as for ``SVI``.
    optim:   a ``PyroOptim``, whose optimizers take one fused step; a torch optimizer; or a function that makes one from the parameters by
             name, such as ``lambda parameters: Adam(parameters.values(), fused=True)``.
    loss:    an ELBO, or a differentiable loss ``loss(model, guide, *args, **kwargs)``.
    compile: compile the graph with inductor too: worth its ten seconds or so where elementwise work
             on large tensors is much of a step. Needs a C++ compiler; on a GPU, uses a CUDA graph.
    same_random_stream: make also the draws that nothing reads, so that every step draws the numbers
             that the eager one would; without them a step may cost less, and has the same law.

    Raises TypeError where ``optim`` is none of these.

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
        self.model = model
        self.guide = guide
        self.optim = optim
        self.elbo = loss
        self.loss = loss.loss if isinstance(loss, ELBO) else loss
        self.loss_and_grads = loss.loss_and_grads if isinstance(loss, ELBO) else _backward_of(loss)
        self.compile = compile
        self.same_random_stream = same_random_stream
        self.parameters: dict[str, Tensor] = {}
        self.fallback: str | None = None
        self.eager_steps = 0
        self.captured: dict[Any, list[Captured]] = {}
        self._update = Update(optim)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one gradient step; returns the estimate of the loss, in nats.

        Takes what the model takes. Gradients are cleared afterwards."""
        loss = self.backward(*args, **kwargs)
        self._update.step(self.parameters, merge=self.fallback is None)
        for parameter in self.parameters.values():
            parameter.grad = None
        if isinstance(loss, Tensor):
            return warn_if_nan(float(loss), "loss")
        return type(loss)(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The estimate of the loss, in nats, without a step."""
        with torch.no_grad():
            loss = self.loss(self.model, self.guide, *args, **kwargs)
        return type(loss)(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        """Add the gradients to those the parameters have; returns the loss.

        The half of ``step`` before the optimizer: for gradients that are accumulated over several
        minibatches, clipped or looked at. A captured step returns the loss as a tensor without
        dimensions and does not wait for the device.
        """
        captured, arguments = self._find(args, kwargs)
        if captured is None or not self._checked(captured, args, kwargs, arguments):
            self.eager_steps += 1
            return self._eager(args, kwargs)
        captured.runs += 1
        with torch.no_grad():
            loss, *gradients = captured.run(captured.inputs(arguments))
            for parameter, gradient in zip(captured.parameters.values(), gradients, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient
                elif gradient is not None:
                    parameter.grad.add_(gradient)
        return loss

    def capture(self, *args: Any, **kwargs: Any) -> bool:
        """Capture the step for arguments of this kind now; returns whether that succeeded.

        Without this the first step of all runs eagerly, as it may make parameters.
        """
        if not self.parameters:
            # Once beforehand, as the first run of a model may make parameters and plates.
            guards = Guards(self._roots())
            before = State(guards.tensors, _buffers(guards))
            self._gradients(args, kwargs)
            before.restore()
        return self._find(args, kwargs)[0] is not None

    def explain(self) -> str:
        """What was captured, for people: arguments, operations, guards, and how often it ran."""
        return explain(self)

    def _find(self, args: Any, kwargs: Any) -> tuple[Captured | None, list[Tensor]]:
        """The capture that holds for these arguments, made where there is none yet."""
        if self.fallback is not None or not self.parameters or not torch.is_grad_enabled():
            return None, []
        signature, arguments = _signature(args, kwargs)
        if signature is None or _recorded():
            return None, arguments
        known = self.captured.setdefault(signature, [])
        for captured in known:
            if captured.guards.hold():
                return captured, arguments
        if len(known) >= _MOST_CAPTURES:
            changing = ", ".join(sorted(set(known[-1].guards.broken()))[:5])
            self._fall_back(
                f"values that the step reads in Python keep changing ({changing}): pass them as "
                "arguments or hold them in tensors that are changed in place"
            )
            return None, arguments
        captured = self._capture(signature, args, kwargs, arguments)
        if captured is not None:
            self._forget_stale(known)
            known.append(captured)
        return captured, arguments

    def _forget_stale(self, known: list[Captured]) -> None:
        """Drop captures of parameters that are no longer the model's."""
        live = {id(tensor) for tensor in self.parameters.values()}
        known[:] = [
            one for one in known if all(id(tensor) in live for tensor in one.parameters.values())
        ]

    def _capture(
        self, signature: Any, args: Any, kwargs: Any, arguments: list[Tensor]
    ) -> Captured | None:
        guards = Guards(self._roots())
        before = State(guards.tensors, _buffers(guards))
        try:
            # What the model itself raises is the caller's to see.
            self._gradients(args, kwargs)
        finally:
            drawn = before.drawn_in_python()
            guards.forget_scratch()
            changed = guards.broken()
            before.restore()
        reason = None
        if drawn:
            reason = f"the model draws from {drawn} random generator: draw with torch or Pyro"
        elif changed:
            reason = f"running the model changes what it reads in Python ({', '.join(changed[:5])})"
        elif getattr(self.optim, "pt_optim_constructor", None) is DCTAdam:
            reason = "DCTAdam reads which data a step has drawn, in Python"
        elif not hasattr(self.elbo, "differentiable_loss") and isinstance(self.elbo, ELBO):
            reason = f"{type(self.elbo).__name__} has no differentiable loss"
        if reason:
            return self._fall_back(reason)
        parameters = dict(self.parameters)
        store = pyro.get_param_store()._params
        for name in parameters.keys() & store.keys():
            guards.add(store, name, f"the parameter {name}")
        try:
            graph = trace(
                lambda: self._differentiable_loss(args, kwargs),
                list(parameters.values()),
                arguments,
            )
        except Exception as error:
            return self._fall_back(_why_not_traced(error))
        finally:
            before.restore()
        lost = [tensor for tensor in graph.written() if not before.covers(tensor)]
        if lost:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in lost)
            return self._fall_back(
                f"the model writes to tensors that are no buffers of a module (shapes {shapes})"
            )
        for tensor in (*parameters.values(), *graph.outside):
            guards.add_tensor(tensor)
        program = graph.program()
        captured = Captured(parameters, graph, program, program, guards, signature)
        if not self._agrees(captured, args, kwargs, arguments, seeds=2):
            return None
        if not self.same_random_stream:
            captured.graph = graph.without_unused_draws()
            captured.run = captured.graph.program()
        if self.compile:
            self._compile(captured, arguments)
        return captured

    def _compile(self, captured: Captured, arguments: list[Tensor]) -> None:
        """Let inductor's program take the place of a capture's, if it computes the same."""
        inputs = captured.inputs(arguments)
        before = State(captured.guards.tensors, _buffers(captured.guards))
        try:
            run = compiled(captured.graph.copied_graph(), inputs)
            found = []
            for program in (captured.run, run):
                with torch.no_grad():
                    found.append(program(inputs))
                before.restore()
        except Exception as error:
            reason = f"inductor raises {type(error).__name__}: {str(error).strip()[:300]}"
        else:
            difference = _difference(["loss", *captured.parameters], *found)
            if difference is None:
                captured.run, captured.compiled = run, True
                return
            reason = f"inductor's program differs in {difference}"
        finally:
            before.restore()
        self.compile = False
        warnings.warn(f"CapturedSVI runs without compiling: {reason}", stacklevel=6)

    def _checked(self, captured: Captured, args: Any, kwargs: Any, arguments: list[Tensor]) -> bool:
        """Whether a capture may run: compared with eager on the second batch, and now and then."""
        if captured.runs == 1:
            captured.checks += 1
            return self._agrees(captured, args, kwargs, arguments)
        if captured.runs % CHECK_EVERY == CHECK_EVERY - 1:
            captured.checks += 1
            return self._agrees(captured, args, kwargs, arguments, gradients=False)
        return True

    def _agrees(
        self,
        captured: Captured,
        args: Any,
        kwargs: Any,
        arguments: list[Tensor],
        *,
        seeds: int = 1,
        gradients: bool = True,
    ) -> bool:
        """Compare a capture with the eager step; everything is put back where it was."""
        guards = captured.guards
        start = State(guards.tensors, _buffers(guards))
        difference = None
        try:
            for _ in range(seeds):
                here = State(guards.tensors, _buffers(guards))
                if gradients:
                    expected = self._gradients(args, kwargs)
                else:
                    expected = [torch.as_tensor(self.evaluate_loss(*args, **kwargs))]
                here.restore()
                with torch.no_grad():
                    found = captured.same_stream(captured.inputs(arguments))
                names = ["loss", *captured.parameters]
                difference = difference or _difference(names, expected, found)
        finally:
            start.restore()
        if difference:
            self._fall_back(
                f"the captured step differs from the eager one in {difference}: it reads a value "
                "in Python that changes; pass it as an argument or hold it in a tensor"
            )
        return difference is None

    def _fall_back(self, reason: str) -> None:
        self.fallback = reason
        self.captured.clear()
        warnings.warn(f"CapturedSVI takes eager steps: {reason}", stacklevel=5)

    def _roots(self) -> dict[str, Any]:
        roots = {"model": self.model, "guide": self.guide, "loss": self.elbo}
        for index, handler in enumerate(poutine.runtime._PYRO_STACK):
            roots[f"handler {index}"] = handler
        return roots

    def _differentiable_loss(self, args: Any, kwargs: Any) -> Any:
        loss = self.elbo.differentiable_loss if isinstance(self.elbo, ELBO) else self.elbo
        return loss(self.model, self.guide, *args, **kwargs)

    def _eager(self, args: Any, kwargs: Any) -> Any:
        """Loss and gradients as SVI computes them; notes the parameters."""
        with poutine.trace(param_only=True) as capture:
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        parameters: dict[str, Tensor] = {}
        for name, site in capture.trace.nodes.items():
            tensor = site["value"].unconstrained()
            if tensor.requires_grad and not any(tensor is one for one in parameters.values()):
                parameters[name] = tensor
        self.parameters = parameters
        return loss

    def _gradients(self, args: Any, kwargs: Any) -> list[Tensor | None]:
        """Loss and gradients of an eager step; gradients there were stay as they were."""
        held = {id(one): (one, one.grad) for one in self.parameters.values()}
        for parameter, _ in held.values():
            parameter.grad = None
        try:
            loss = self._eager(args, kwargs)
            found = [parameter.grad for parameter in self.parameters.values()]
        finally:
            for parameter in self.parameters.values():
                parameter.grad = None
            for parameter, gradient in held.values():
                parameter.grad = gradient
        loss = loss if isinstance(loss, tuple) else (loss,)
        return [torch.as_tensor(loss[0]).detach(), *found]


def _backward_of(loss: Callable[..., Any]) -> Callable[..., Any]:
    def loss_and_grads(*args: Any, **kwargs: Any) -> Any:
        value = loss(*args, **kwargs)
        if getattr(value, "requires_grad", False):
            value.backward()
        return value.detach() if isinstance(value, Tensor) else value

    return loss_and_grads


def _signature(args: Any, kwargs: Any) -> tuple[Any, list[Tensor]]:
    """What a capture depends on in its arguments, and the tensors among them."""
    leaves, tree = pytree.tree_flatten((args, kwargs))
    arguments: list[Tensor] = []
    described: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if leaf.requires_grad or leaf.layout is not torch.strided:
                return None, arguments
            described.append((leaf.dtype, leaf.shape, leaf.stride(), leaf.device))
            # A tensor given twice is one input.
            arguments.append(leaf)
        elif isinstance(leaf, bool | int | float | str | type(None)):
            described.append((type(leaf), leaf))
        else:
            return None, arguments
    handlers = tuple(map(id, poutine.runtime._PYRO_STACK))
    setting = (torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), handlers)
    return (tree, tuple(described), setting), arguments


def _recorded() -> bool:
    """Whether a handler around the step records its sites, which a captured step does not visit."""
    return any(isinstance(handler, TraceMessenger) for handler in poutine.runtime._PYRO_STACK)


def _buffers(guards: Guards) -> list[Tensor]:
    return [
        buffer
        for module in guards.modules
        for buffer in module._buffers.values()
        if buffer is not None
    ]


def _difference(
    names: list[str], expected: list[Tensor | None], found: list[Tensor | None]
) -> str | None:
    """The name of the first result that differs by more than rounding, with by how much."""
    gradients = [one for one in expected[1:] if one is not None and one.numel()]
    largest = max((float(one.abs().max()) for one in gradients), default=0.0)
    for name, one, other in zip(names, expected, found, strict=False):
        if one is None or other is None:
            given = one if one is not None else other
            if given is not None and bool(given.count_nonzero()):
                return f"the gradient of {name}, which one of them does not have"
            continue
        if not one.numel():
            continue
        size = float(one.abs().max())
        error = float((one - other).abs().max())
        allowed = _TOLERANCE * (size if name == "loss" else max(size, 0.01 * largest))
        same = torch.equal(one.isnan(), other.isnan()) if error != error else error <= allowed
        if not same:
            what = "the loss" if name == "loss" else f"the gradient of {name}"
            return f"{what} (by {error:.3g}, of {size:.3g})"
    return None


def _why_not_traced(error: Exception) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    if "_local_scalar_dense" in str(error) or "item" in first:
        return (
            "the model reads a tensor's value in Python (item, float, a branch on a tensor), which "
            "a graph cannot hold"
        )
    return f"tracing it raises {type(error).__name__}: {first[:300]}"
