"""The main job: train a network on a data set, take away what it can do without, evaluate it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pyrosparse.compact import quality
from pyrosparse.compact.masked import masked
from pyrosparse.compress import dependent, gating, masking, pruning, reducing, turbo
from pyrosparse.compress.compaction import compacted
from pyrosparse.compress.dense import FOLDER, train_dense
from pyrosparse.compress.families import EVIDENCE, TURBO
from pyrosparse.compress.network import made
from pyrosparse.compress.outcome import Outcome
from pyrosparse.compress.settings import Settings
from pyrosparse.locks import locked_folder


def compress(
    settings: Settings,
    *,
    folder: Path | None = None,
    weights: Mapping[str, Tensor] | None = None,
    first: Path | None = None,
    dense: bool = True,
    progress: bool | None = None,
) -> Outcome:
    """Train, compress and evaluate one network as the settings say.

    folder:  where ``checkpoint.safetensors`` and ``metrics.jsonl`` (and, with gates, the same of
             the pretraining) are written after every epoch; a run that finds its checkpoint there
             goes on from it.
    weights: a state dict to start from instead of a random initialisation; with gates, in place
             of the pretraining.
    first:   where the first of two stages is, or is put; by default ``first`` in the folder.
    dense:   of methods that prune while they train: train the network once more without pruning, in
             ``dense`` in the folder, to compare with; where there are weights, they are that
             network. Otherwise the pruned network is compared with its compact form.

    A second process that is given the same folder waits for the end of the first.

    Raises ValueError where the weights do not fit the network, and what ``data.load``,
    ``networks.create`` and ``fit`` raise.

    >>> small = {"hidden": (16, 16)}
    >>> settings = Settings(method="magnitude", epochs=2, network_options=small)
    >>> outcome = compress(settings, progress=False)
    >>> round(outcome.sparsity, 2)
    0.9
    """
    # Whoever wants these files waits: a second process, or a run of which this is the first stage.
    lock = locked_folder(folder) if folder is not None else nullcontext()
    with lock:
        return _compress(settings, folder, weights, first, dense, progress)


def _compress(
    settings: Settings,
    folder: Path | None,
    weights: Mapping[str, Tensor] | None,
    first: Path | None,
    dense: bool,
    progress: bool | None,
) -> Outcome:
    net, data = made(settings, weights)
    start = copy.deepcopy(net)
    settings = settings.for_data(len(data.train), augment=data.shift, flip=data.flip)
    shared: dict[str, Any] = {"folder": folder, "progress": progress}
    start_trained = weights is not None
    if settings.method == "dependent-beta-bernoulli":
        trained = dependent.train(
            settings, net, data, start_trained=start_trained, first=first, **shared
        )
    elif settings.gated:
        trained = gating.train(settings, net, data, start_trained=start_trained, **shared)
    elif settings.method in TURBO:
        trained = turbo.train(settings, net, data, start_trained=start_trained, **shared)
    elif settings.method in EVIDENCE:
        trained = reducing.train(settings, net, data, **shared)
    elif settings.masked:
        trained = masking.train(settings, net, data, first=first, **shared)
    else:
        trained = pruning.train(settings, net, data, **shared)
    if dense and settings.unpruned != settings:
        if not start_trained:
            at = folder / FOLDER if folder is not None else None
            train_dense(settings, start, data, folder=at, progress=progress)
        trained = replace(trained, original=start)
    whole = masked(net, trained.masks, trained.gates) if trained.gates else trained.net
    test = quality(whole, data.test)
    small, compaction = compacted(
        net,
        trained.original,
        data,
        masks=trained.masks,
        gates=trained.gates,
        active=trained.active,
        counts=trained.counts,
    )
    return Outcome(settings, data, trained, whole, test, small, compaction)
