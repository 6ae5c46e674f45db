"""Settings, parameters and masks that must be equal on all ranks that train together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrosparse.evidence.traces import modules
from pyrosparse.infer.callback import Callback
from pyrosparse.infer.minibatches import distributed_sampler

if TYPE_CHECKING:
    from pyrosparse.infer.run import Fit


def check_settings(
    run: Fit, settings: Mapping[str, Any], callbacks: Sequence[Callback], validation: Any
) -> None:
    """Raise ValueError if each rank would see other validation data, and RankError if the arguments
    of ``fit`` differ between ranks."""
    if run.ranks.size > 1 and distributed_sampler(validation) is not None:
        raise ValueError(
            "validation has a DistributedSampler, so every rank would have different scores: give "
            "all validation data to every rank"
        )
    others = {
        "data": run.n,
        "batches an epoch": run.batches_an_epoch(),
        "optimizer": type(run.optimizer).__name__,
        "elbo": type(run.elbo).__name__,
        "callbacks": [type(callback).__name__ for callback in callbacks],
        "validation": validation is None,
        "checkpoint": run.checkpoint is None,
    }
    run.ranks.check_alike(
        {**settings, **others}, "before training", "call fit with the same on every rank"
    )


def check_agreement(run: Fit) -> None:
    """Raise RankError, naming what differs, if parameters, masks, other buffers or random
    generators are not bitwise equal on all ranks."""
    if run.ranks.size == 1:
        return
    run.ranks.check_alike(
        {**_tensors(run), "torch's random generator": torch.get_rng_state()},
        f"after epoch {run.epoch}" if run.step else "before the first step",
        "make the network after torch.manual_seed with one seed on every rank, or load it; in "
        "callbacks, change and draw on all ranks alike (torch.random.fork_rng keeps draws out)",
    )


def average_statistics(run: Fit) -> None:
    """Average over the ranks the buffers that steps write, such as the running mean and variance of
    batch normalisation."""
    if run.ranks.size == 1:
        return
    buffers = {
        name: tensor
        for name, tensor in _tensors(run).items()
        if tensor.dtype is not torch.bool and name not in run.parameters
    }
    run.ranks.average(buffers)


def _tensors(run: Fit) -> dict[str, Tensor]:
    """All tensors of a run's model and guide, by name, each once."""
    found = dict(run.parameters)
    known = {id(one) for one in found.values()}
    for number, root in enumerate(modules(run.model, run.guide)):
        for name, tensor in root.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor) and id(tensor) not in known:
                known.add(id(tensor))
                found[f"{name} ({number})" if name in found else name] = tensor
    return found
