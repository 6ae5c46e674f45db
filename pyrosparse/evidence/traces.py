"""Running Pyro programs on data, and reading their traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import TransformedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrosparse.evidence.batches import batches as batches
from pyrosparse.lift import mean_gates


class _AtMean(Messenger):
    """Give latent sites the mean of their distribution instead of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if (
            msg["is_observed"]
            or msg["value"] is not None
            or type(msg["fn"]).__name__ == "_Subsample"
        ):
            return
        msg["value"] = _mean(msg["fn"])
        msg["done"] = True


def _mean(fn: Any) -> Tensor:
    while hasattr(fn, "reinterpreted_batch_ndims"):
        fn = fn.base_dist
    if isinstance(fn, TransformedDistribution):
        # The image of the base's mean: the median, for a monotone transform of a normal.
        value = fn.base_dist.mean
        for transform in fn.transforms:
            value = transform(value)
        return value
    return fn.mean


def trace_at_mean(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Tensor, ...]
) -> poutine.Trace:
    """The trace of a model on a batch, with latent sites at the means of the guide, and scored."""
    # Blocked, so that a handler around this call (or a training step) sees none of it.
    with poutine.block(), _AtMean():
        guide_trace = poutine.trace(guide).get_trace(*batch)
    with poutine.block(), mean_gates():
        trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    trace.compute_log_prob()
    return trace


def sample_sites(trace: poutine.Trace, observed: bool) -> list[Any]:
    """The observed or the latent sites of a trace; a plate's indices are neither."""
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample"
        and site["is_observed"] == observed
        and type(site["fn"]).__name__ != "_Subsample"
    ]


def log_prob_sum(trace: poutine.Trace, observed: bool) -> float:
    """The unscaled log density of a trace's observed or latent sites, summed in float64, nats."""
    sites = sample_sites(trace, observed)
    if observed and not sites:
        raise ValueError("the model observes nothing: pass it the data it conditions on")
    if observed:
        # Unscaled: a plate that subsamples would multiply each batch up to the whole data set.
        return sum(float(site["unscaled_log_prob"].sum(dtype=torch.float64)) for site in sites)
    return sum(_log_prob_in_double(site["fn"], site["value"]) for site in sites)


def _log_prob_in_double(fn: Any, value: Tensor) -> float:
    # A weight matrix is one event, so its density is summed inside: over a million weights float32
    # resolves a tenth of a nat, which would swallow what a round of pruning changes.
    if value.is_floating_point():
        try:
            return float(fn.log_prob(value.double()).sum())
        except RuntimeError:  # distributions that solve with their own float32 matrices
            pass
    return float(fn.log_prob(value).sum(dtype=torch.float64))


class evaluation_mode:
    """Put the modules among the given callables in evaluation mode for a block."""

    def __init__(self, *callables: Any) -> None:
        self.modules = modules(*callables)

    def __enter__(self) -> None:
        self._training = [
            [(module, module.training) for module in root.modules()] for root in self.modules
        ]
        for module in self.modules:
            module.eval()

    def __exit__(self, *exception: object) -> None:
        for states in self._training:
            for module, training in states:
                module.training = training


def modules(*callables: Any) -> list[torch.nn.Module]:
    """The torch modules among the given callables, each once.

    A model that holds a ``network`` and no more, as ``classifier`` does, counts through it, the
    guide of a lifted network through that network.
    """
    found: list[torch.nn.Module] = []
    for one in callables:
        module = getattr(one, "lifted", None)
        if module is None:
            module = one if _holds_more(one) else getattr(one, "network", one)
        if isinstance(module, torch.nn.Module) and not any(module is other for other in found):
            found.append(module)
    return found


def _holds_more(model: Any) -> bool:
    """Whether a model is a torch module with other parts than its ``network``."""
    if not isinstance(model, torch.nn.Module):
        return False
    network = getattr(model, "network", None)
    own = [*model.children(), *model._parameters.values(), *model._buffers.values()]
    return not isinstance(network, torch.nn.Module) or any(part is not network for part in own)
