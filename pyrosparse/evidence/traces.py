"""Running Pyro programs on data."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FunctionType, MethodType
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import TransformedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrosparse.evidence.latents import check_covered
from pyrosparse.evidence.sites import observed_sites, score_observed
from pyrosparse.lifting.lift import Lifted, mean_gates
from pyrosparse.util.modes import evaluating


class _AtMean(Messenger):
    """Give latent sites the mean of their distribution instead of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if (
            msg["is_observed"]
            or msg["value"] is not None
            or type(msg["fn"]).__name__ == "_Subsample"
        ):
            return
        if msg["fn"].has_enumerate_support:
            raise ValueError(
                f"the guide draws {msg['name']!r} from {type(msg['fn']).__name__}, which is "
                "discrete, so its mean is not a value that the model can use: draw from it "
                "instead of using means"
            )
        msg["value"] = _mean(msg["fn"])
        msg["done"] = True


def _mean(fn: Any) -> Tensor:
    while hasattr(fn, "reinterpreted_batch_ndims"):
        fn = fn.base_dist
    if isinstance(fn, TransformedDistribution):
        # The base's mean, transformed: for a monotone transform of a normal, the median.
        value = fn.base_dist.mean
        for transform in fn.transforms:
            value = transform(value)
        return value
    return fn.mean


def trace_at_mean(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Tensor, ...]
) -> poutine.Trace:
    """The trace of a model on a batch, with latent sites at the means of the guide; its observed
    sites are scored.

    Raises ValueError if the model observes nothing or a plate chooses some of its data, if the
    guide does not draw a latent site, and if it draws one from a discrete distribution.
    """
    # Blocked, so that handlers around this call (or a training step) do not see it.
    with poutine.block(), _AtMean():
        guide_trace = poutine.trace(guide).get_trace(*batch)
    with poutine.block(), mean_gates():
        trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    score_observed(trace, len(batch[0]))
    observed_sites(trace)  # first, as an observed site without its data becomes latent
    check_covered(trace, guide_trace)
    return trace


@contextmanager
def calls_of(guide: torch.nn.Module) -> Iterator[list[bool]]:
    """For a block, record whether a guide is called, also by another guide: one True for each
    call."""
    calls: list[bool] = []
    handle = guide.register_forward_hook(lambda *_: calls.append(True))
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def own_guide_called(bnn: Lifted, used: str) -> Iterator[None]:
    """For a block in which a guide must call the guide of a lifted network, also within another.

    used: what is done with its weights.

    Raises ValueError if it does not."""
    with calls_of(bnn.guide) as calls:
        yield
    if not calls:
        raise ValueError(
            "the guide does not call the lifted network's own guide, bnn.guide, whose weights are "
            f"{used}: train with a guide that calls it"
        )


def evaluation_mode(*callables: Any) -> AbstractContextManager[None]:
    """Put modules in evaluation mode for a block: those among the given callables, and those that
    functions among them use."""
    return evaluating(*used_modules(*callables))


def modules(*callables: Any) -> list[torch.nn.Module]:
    """The torch modules among the given callables, each once.

    If a model has only a ``network``, as ``classifier`` has, that network takes its place; a lifted
    network's guide is replaced by that network.
    """
    found: list[torch.nn.Module] = []
    for one in callables:
        module = getattr(one, "lifted", None)
        if module is None:
            module = one if _holds_more(one) else getattr(one, "network", one)
        if isinstance(module, torch.nn.Module) and not any(module is other for other in found):
            found.append(module)
    return found


_SHORT = 100
"""The most elements of a container of a program in which its networks are looked for."""


def used_modules(*callables: Any) -> list[torch.nn.Module]:
    """The torch modules among the given callables, and those that functions among them use."""
    return list(dict.fromkeys([*modules(*callables), *_used(callables, set())]))


def _holds_more(model: Any) -> bool:
    """Whether a model is a torch module with parts beside its ``network``."""
    if not isinstance(model, torch.nn.Module):
        return False
    network = getattr(model, "network", None)
    own = [*model.children(), *model._parameters.values(), *model._buffers.values()]
    return not isinstance(network, torch.nn.Module) or any(part is not network for part in own)


def _used(callables: Iterable[Any], seen: set[int]) -> Iterator[torch.nn.Module]:
    """The modules that callables refer to: a function has its network as a global or closed-over
    variable, an autoguide has its model."""
    for one in callables:
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.nn.Module):
            yield one  # its forward may ask for its mode
            yield from modules(one)
            for part in one.modules():
                inner = [getattr(part, name, None) for name in ("lifted", "model", "_guide")]
                yield from _used([other for other in inner if callable(other)], seen)
        elif isinstance(one, MethodType):
            yield from _used([one.__self__, one.__func__], seen)
        elif isinstance(one, functools.partial):
            yield from _used([one.func, *one.args, *one.keywords.values()], seen)
        elif isinstance(one, FunctionType):
            used = inspect.getclosurevars(one)
            rest = (*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values())
            yield from _used(
                [
                    other
                    for other in _each((*used.nonlocals.values(), *used.globals.values(), *rest))
                    if isinstance(other, torch.nn.Module)
                    or getattr(other, "__module__", None) == one.__module__
                    or hasattr(other, "network")
                ],
                seen,
            )
        else:
            yield from modules(one)
            parts = _each(getattr(one, "__dict__", {}).values())
            yield from _used([part for part in parts if isinstance(part, torch.nn.Module)], seen)
            if isinstance(call := vars(type(one)).get("__call__"), FunctionType):
                yield from _used([call], seen)


def _each(values: Iterable[Any], depth: int = 3) -> Iterator[Any]:
    """The values, and those within lists, tuples and dicts short enough to look through."""
    for value in values:
        if depth and isinstance(value, dict | list | tuple) and len(value) <= _SHORT:
            inner = value.values() if isinstance(value, dict) else value
            yield from _each(inner, depth - 1)
        else:
            yield value
