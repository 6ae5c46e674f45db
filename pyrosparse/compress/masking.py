"""Training under masks that are drawn in every step, and the baselines it is compared with."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyrosparse.compress.mask_settings import RATES, annealing, gibbs
from pyrosparse.compress.outcome import Trained
from pyrosparse.compress.run_files import run_files
from pyrosparse.compress.settings import Settings
from pyrosparse.data import Augmented, DataSet
from pyrosparse.infer import Callback, Fit, fit
from pyrosparse.infer.momentum import forget_momentum
from pyrosparse.lift import Lifted, lift
from pyrosparse.locks import locked_folder
from pyrosparse.masks import Masks
from pyrosparse.method import Method
from pyrosparse.methods import Gaussian
from pyrosparse.models import classifier
from pyrosparse.prune import recalibrate
from pyrosparse.prune.pruner import weights_of
from pyrosparse.target import Target, weights


def train(
    settings: Settings,
    net: nn.Module,
    data: DataSet,
    *,
    folder: Path | None = None,
    first: Path | None = None,
    progress: bool | None = None,
) -> Trained:
    """Train a network by Gibbs pruning, or as one of its baselines, in place.

    settings: with numbers for all, as ``Settings.for_data`` gives them.
    folder:   where ``checkpoint.safetensors`` and ``metrics.jsonl`` are; None for neither.
    first:    of ``reinitialised``, where the network that gibbs prunes is, or is put; by default
              ``first`` in the folder.

    Raises what ``fit`` raises, and ValueError where the network has no such structure.

    >>> from pyrosparse import data, networks
    >>> digits, net = data.load("digits"), networks.fcn((1, 8, 8), hidden=(8,))
    >>> settings = Settings(method="gibbs", epochs=2).for_data(len(digits.train))
    >>> trained = train(settings, net, digits, progress=False)
    >>> 0.85 < 1 - int(net.fc1.weight.count_nonzero()) / net.fc1.weight.numel() < 0.95
    True
    """
    before = None
    masks = Masks()
    if settings.method == "reinitialised":
        before = _gibbs_first(settings, net, data, folder, first, progress)
        masks = Masks(
            {one.key: one.value != 0 for one in before.bnn.targets if one.value is not None}
        )
        _reinitialise(net, settings.seed)
    bnn = _lifted(settings, net)
    method = gibbs(settings)
    pruned = {target.name: target for target in method.targets(net)}
    callbacks: list[Callback] = []
    if settings.method == "gibbs":
        callbacks = [annealing(settings)]
    elif settings.method == "cut":
        callbacks = [_Cut(method.magnitude_mask, list(pruned), settings.annealed)]
    elif settings.method == "random-mask":
        masks = _random_masks(method.magnitude_mask, pruned, settings.seed)
    bnn.freeze({name: mask for name, mask in masks.items() if name in pruned})
    run = fit(
        classifier(bnn, n=len(data.train)),
        bnn.guide,
        Augmented(data.train, flip=settings.flip)
        if settings.augment and len(data.image_shape) == 3
        else data.train,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        schedule=RATES[settings.rate_schedule],
        callbacks=callbacks,
        validation=data.validation,
        seed=settings.seed,
        progress=progress,
        **run_files(folder),
    )
    if settings.method.startswith("one-shot"):
        bnn.freeze({name: method.magnitude_mask(net.get_parameter(name)) for name in pruned})
    if settings.method == "one-shot-recalibrated":
        recalibrate(net, data.train)
    model = classifier(bnn, n=len(data.train))
    return Trained(net, net, bnn, model, run, first=before.run if before else None)


def _lifted(settings: Settings, net: nn.Module) -> Lifted:
    """The network with the Gaussian prior on all its convolutions (where it has none, on all its
    weights), and with masks where they are to be drawn."""
    method = gibbs(settings)
    targets = method.targets(net)
    names = {target.name for target in targets}
    others = [one for one in weights(net) if one.name not in names and len(one.shape) > 2]
    plain = Gaussian(scale=settings.scale)
    first: Method = method if settings.method == "gibbs" else plain
    pairs = [(first, targets), (plain, others)]
    return lift(net, [(one, chosen) for one, chosen in pairs if chosen])


def _gibbs_first(
    settings: Settings,
    net: nn.Module,
    data: DataSet,
    folder: Path | None,
    first: Path | None,
    progress: bool | None,
) -> Trained:
    """The network that gibbs prunes, trained from the same start."""
    if first is None and folder is not None:
        first = folder / "first"
    lock = locked_folder(first) if first is not None else nullcontext()
    with lock:
        return train(
            replace(settings, method="gibbs"),
            copy.deepcopy(net),
            data,
            folder=first,
            progress=progress,
        )


def _reinitialise(net: nn.Module, seed: int) -> None:
    """Draw the weights anew, by a seed of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1_000_003)
        for module in net.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()


def _random_masks(magnitude_mask: Any, pruned: dict[str, Target], seed: int) -> Masks:
    """Masks by the magnitude of random weights: random blocks, as many."""
    generator = torch.Generator().manual_seed(seed)
    return Masks(
        {
            name: magnitude_mask(torch.randn(target.shape, generator=generator))
            for name, target in pruned.items()
        }
    )


class _Cut(Callback):
    """Freezes the masks by magnitude at the end of the epoch in which annealing would end."""

    def __init__(self, magnitude_mask: Any, names: list[str], annealed: float) -> None:
        self.magnitude_mask = magnitude_mask
        self.names = names
        self.annealed = annealed

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        if run.epoch == max(1, round(self.annealed * run.epochs)):
            weights = {name: one for name, one in weights_of(run).items() if name in self.names}
            masks = Masks({name: self.magnitude_mask(one) for name, one in weights.items()})
            run.lifted.freeze(masks)
            forget_momentum(run.optimizer, run.lifted)
        return {}
