"""A function's value and gradients, captured once, checked, and run as a tensor program."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass as is_sharded

from pyrosparse.captured.capture import Captured, why_not_traced, writable
from pyrosparse.captured.compilation import Compilation
from pyrosparse.captured.difference import difference
from pyrosparse.captured.explanation import explain
from pyrosparse.captured.graph import trace
from pyrosparse.captured.guards import Guards
from pyrosparse.captured.signature import is_recorded, same_kind, signature
from pyrosparse.captured.state import State

CHECK_EVERY = 200
"""Steps after which a captured step is compared with the eager one again."""

_MOST_CAPTURES = 8
"""Captures of one signature, for other values of what is guarded, before all steps run eagerly."""

_SHARDED = "tensors of the step are sharded, and a captured program reads whole ones"

_MOST_SIGNATURES = 64
"""Kinds of arguments of which steps are captured."""


class CapturedGradients(ABC):
    """A loss and its gradients with respect to parameters, without the Python of a step.

    A subclass says what a step computes: ``_own_roots``, ``_eager``, ``_differentiable_loss`` and
    ``evaluate_loss``. This class captures it, compares it with the eager step, and runs it.

    compile, same_random_stream: see ``CapturedSVI``.
    parameters: by name, as the last step found them.
    fallback:   why all steps run eagerly from now on, or None.
    """

    kind: ClassVar[str]
    """The name that warnings give: that of the public class."""

    def __init__(self, *, compile: bool = False, same_random_stream: bool = True) -> None:
        self.compile = compile
        self.same_random_stream = same_random_stream
        self.parameters: dict[str, Tensor] = {}
        self.fallback: str | None = None
        self.eager_steps = 0
        self.captured: dict[Any, list[Captured]] = {}
        self._stored: set[str] = set()
        self._compilation = Compilation()

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles capture anew: programs refer to the tensors of this process.
        return self.__dict__ | {"captured": {}, "_compilation": Compilation()}

    @abstractmethod
    def _own_roots(self) -> dict[str, Any]:
        """By name, the objects whose values in Python the step may read."""

    @abstractmethod
    def _eager(self, args: Any, kwargs: Any) -> Any:
        """The loss; adds the gradients to those of ``parameters``, which it may set anew."""

    @abstractmethod
    def _differentiable_loss(self, args: Any, kwargs: Any) -> Any:
        """The loss, which autograd can differentiate."""

    @abstractmethod
    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The estimate of the loss, in nats, without a step."""

    def _why_not(self) -> str | None:
        """Why a step of this kind cannot be captured, or None."""
        return None

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        """Add the gradients to those the parameters have; returns the loss.

        It is the half of ``step`` before the optimizer: use it to accumulate gradients over several
        minibatches, to clip or to inspect them. A captured step returns the loss as a
        zero-dimensional tensor and does not wait for the device.
        """
        captured, arguments = self._find(args, kwargs)
        if captured is None or not self._checked(captured, args, kwargs, arguments):
            self.eager_steps += 1
            return self._eager(args, kwargs)
        captured.runs += 1
        self.parameters = captured.parameters
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

        Without this the first step runs eagerly, as it may create parameters.
        """
        if not self.parameters:
            # Once beforehand, as the first run of a model may create parameters and plates.
            guards = Guards(self._roots())
            if any(map(is_sharded, guards.tensors)):
                self._fall_back(_SHARDED)
                return False
            before = State(writable(guards, ()), guards.generators)
            self._gradients(args, kwargs)
            before.restore()
        return self._find(args, kwargs)[0] is not None

    def explain(self) -> str:
        """The captures in plain words: arguments, operations, guards, and how often they ran."""
        return explain(self)

    def _find(self, args: Any, kwargs: Any) -> tuple[Captured | None, list[Tensor]]:
        """The capture that holds for these arguments, made now if there is none."""
        if self.fallback is not None or not self.parameters or not torch.is_grad_enabled():
            return None, []
        store = pyro.get_param_store()
        if not all(name in store for name in self._stored):
            return None, []  # cleared: an eager step creates or registers its parameters anew
        key, arguments = signature(args, kwargs)
        if key is None or is_recorded() or any(map(_has_hooks, self.parameters.values())):
            return None, arguments
        key = (*key, *map(id, self._own_roots().values()))
        known = self.captured.setdefault(key, [])
        for captured in known:
            if captured.guards.hold():
                return captured, arguments
        if len(known) >= _MOST_CAPTURES:
            changing = ", ".join(sorted(set(known[-1].guards.broken()))[:5])
            self._fall_back(
                f"values that the step reads in Python keep changing ({changing}): hold them in "
                "tensors that are changed in place"
            )
            return None, arguments
        if len(self.captured) > _MOST_SIGNATURES:
            self._fall_back("the shapes of the arguments keep changing")
            return None, arguments
        alike = sum(bool(made) for other, made in self.captured.items() if same_kind(other, key))
        if not known and alike >= _MOST_CAPTURES:
            self._fall_back(
                "numbers among the arguments or in the handlers around the step keep changing: "
                "give them as tensors"
            )
            return None, arguments
        made = self._capture(key, args, kwargs, arguments)
        if made is not None:
            self._forget_stale(known)
            known.append(made)
        return made, arguments

    def _forget_stale(self, known: list[Captured]) -> None:
        """Drop captures whose parameters no longer belong to the model."""
        live = {id(tensor) for tensor in pyro.get_param_store()._params.values()}
        live |= {id(tensor) for tensor in self.parameters.values()}
        known[:] = [
            one for one in known if all(id(tensor) in live for tensor in one.parameters.values())
        ]

    def _capture(
        self, key: Any, args: Any, kwargs: Any, arguments: list[Tensor]
    ) -> Captured | None:
        guards = Guards(self._roots())
        if any(map(is_sharded, (*guards.tensors, *arguments))):
            self._fall_back(_SHARDED)
            return None
        before = State(writable(guards, arguments), guards.generators)
        try:
            # The caller sees exceptions of the model itself.
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
        else:
            reason = self._why_not()
        if reason:
            self._fall_back(reason)
            return None
        parameters = dict(self.parameters)
        for name in self._stored:
            guards.add(_Store(), name, f"the parameter {name}")
        # Separate objects: a tensor may be given twice, or also belong to the model.
        leaves, tree = pytree.tree_flatten((args, kwargs))
        leaves = [one.detach() if isinstance(one, Tensor) else one for one in leaves]
        own_args, own_kwargs = pytree.tree_unflatten(leaves, tree)
        try:
            graph = trace(
                lambda: self._differentiable_loss(own_args, own_kwargs),
                list(parameters.values()),
                [one for one in leaves if isinstance(one, Tensor)],
            )
        except Exception as error:
            self._fall_back(why_not_traced(error))
            return None
        finally:
            before.restore()
        program = graph.program()
        captured = Captured(parameters, graph, program, program, program, guards, key)
        lost = [one for one in captured.written(arguments) if not before.covers(one)]
        if lost:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in lost)
            self._fall_back(
                f"the model writes to tensors that are no buffers of a module (shapes {shapes})"
            )
            return None
        for tensor in (*parameters.values(), *graph.outside):
            guards.add_tensor(tensor)
        del before  # a copy of all that a step may write to; the comparison makes its own
        if not self._agrees(captured, args, kwargs, arguments, seeds=2):
            return None
        if not self.same_random_stream:
            captured.graph = graph.without_unused_draws()
            if len(captured.graph.operations) < len(graph.operations):
                captured.run = captured.program = captured.graph.program()
        if self.compile:
            self._compilation.compile(captured, arguments)
        return captured

    def _checked(self, captured: Captured, args: Any, kwargs: Any, arguments: list[Tensor]) -> bool:
        """Whether a capture may run: compared with eager on the second batch, and now and then."""
        if captured.runs == 1:
            captured.checks += 1
            return self._agrees(captured, args, kwargs, arguments)
        if captured.runs % CHECK_EVERY == CHECK_EVERY - 1:
            captured.checks += 1
            self._compilation.check(captured, arguments)
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
        """Compare a capture with the eager step; the state is restored."""
        # An eager step that disagrees may write to other tensors than the graph.
        guards = captured.guards
        written = writable(guards, arguments) if gradients else captured.written(arguments)
        start = State(written, guards.generators)
        wrong = cannot_run = None
        try:
            for _ in range(seeds):
                start.restore_tensors()
                draws = State((), guards.generators)
                if gradients:
                    expected = self._gradients(args, kwargs)
                else:
                    expected = [torch.as_tensor(self.evaluate_loss(*args, **kwargs))]
                start.restore_tensors()
                draws.restore()
                try:
                    with torch.no_grad():
                        found = captured.same_stream(captured.inputs(arguments))
                except Exception as error:  # such as oneDNN's LSTM, whose workspace is not a tensor
                    cannot_run = str(error).partition("\n")[0]
                    break
                names, usual = ["loss", *captured.parameters], captured.largest_loss
                wrong = wrong or difference(names, expected, found, usual_loss=usual)
                if math.isfinite(loss := float(expected[0] or 0.0)):
                    captured.largest_loss = max(usual, abs(loss))
                del expected, found  # gradients, which the next eager step would find in its way
        finally:
            start.restore()
        if cannot_run:
            self._fall_back(f"an operation of the step cannot run from its trace: {cannot_run}")
            return False
        if wrong:
            self._fall_back(
                f"the captured step differs from the eager one in {wrong}: it reads a value "
                "in Python that changes; hold it in a tensor that is changed in place"
            )
        return wrong is None

    def _fall_back(self, reason: str) -> None:
        self.fallback = reason
        self.captured.clear()
        warnings.warn(f"{self.kind} takes eager steps: {reason}", stacklevel=5)

    def _roots(self) -> dict[str, Any]:
        roots = self._own_roots()
        for index, handler in enumerate(poutine.runtime._PYRO_STACK):
            roots[f"handler {index}"] = handler
        return roots

    def _gradients(self, args: Any, kwargs: Any) -> list[Tensor | None]:
        """Loss and gradients of an eager step; existing gradients do not change."""
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


class _Store:
    """The unconstrained parameters in Pyro's store, also after it was cleared."""

    def __getitem__(self, name: str) -> Tensor:
        return pyro.get_param_store()._params[name]


def _has_hooks(parameter: Tensor) -> bool:
    # Hooks of the caller, to inspect or change gradients as autograd computes them.
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)
