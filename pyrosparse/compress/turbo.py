"""Turbo-VBI: a trained network, its weights taken in clusters, and what is left fine-tuned."""

from __future__ import annotations

import copy
import math
from pathlib import Path

from torch import nn

from pyrosparse.compress.methods import support_prior, turbo
from pyrosparse.compress.outcome import Trained
from pyrosparse.compress.pretraining import FILE, pretrain
from pyrosparse.compress.run_files import run_files
from pyrosparse.compress.settings import Settings
from pyrosparse.data import DataSet
from pyrosparse.infer import fit, schedules
from pyrosparse.lift import Lifted, lift
from pyrosparse.methods import Gaussian
from pyrosparse.models import classifier
from pyrosparse.target import weights

SUPPORT = "support.safetensors"


def train(
    settings: Settings,
    net: nn.Module,
    data: DataSet,
    *,
    start_trained: bool = False,
    folder: Path | None = None,
    progress: bool | None = None,
) -> Trained:
    """Pretrain a network, take what the support prior makes inactive, and fine-tune the rest.

    settings:      with numbers for all, as ``Settings.for_data`` gives them.
    net:           trained in place.
    start_trained: the network is trained already.
    folder:        where ``pretraining.safetensors``, ``support.safetensors``,
                   ``checkpoint.safetensors`` and metrics of all three are; None for none.

    Raises what ``fit`` raises.

    >>> from pyrosparse import data, networks
    >>> digits, net = data.load("digits"), networks.fcn((1, 8, 8), hidden=(8,))
    >>> settings = Settings(method="turbo-vbi", pretrain=1, epochs=2, fine_tune=1, active=0.3)
    >>> trained = train(settings.for_data(len(digits.train)), net, digits, progress=False)
    >>> bool((net.fc1.weight == 0).any())
    True
    """
    pretraining = None
    if settings.pretrain and not start_trained:
        file = folder / FILE if folder else None
        pretraining = pretrain(settings, net, data, file=file, progress=progress)
    original = copy.deepcopy(net)
    prior = lift(net, support_prior(settings))  # slab and spike lie where the weights are now
    n = len(data.train)
    support = folder / SUPPORT if folder else None
    first = fit(
        classifier(prior, n=n),
        prior.guide,
        data.train,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        kl_scale=_kl_scale(settings, prior, n),
        callbacks=[turbo(settings)],
        validation=data.validation,
        checkpoint=support,
        metrics=support.with_suffix(".jsonl") if support else None,
        seed=settings.seed,
        progress=progress,
    )
    # What is left is fine-tuned as it was pretrained: the spike has nothing more to take.
    bnn = lift(net, Gaussian(scale=settings.scale), weights(net))
    bnn.freeze({key: net.get_parameter(key) != 0 for key in (t.key for t in prior.targets)})
    model = classifier(bnn, n=n)
    if not settings.fine_tune:
        return Trained(net, original, bnn, model, first, None, pretraining)
    run = fit(
        model,
        bnn.guide,
        data.train,
        epochs=settings.fine_tune,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        schedule=schedules.cosine(0.01),
        validation=data.validation,
        seed=settings.seed + 1,
        progress=progress,
        **run_files(folder),
    )
    return Trained(net, original, bnn, model, run, None, pretraining, first=first)


def _kl_scale(settings: Settings, prior: Lifted, n: int) -> float:
    """The weight of the KL divergence: where there are more weights than data, their priors would
    together outweigh the likelihood."""
    if isinstance(settings.kl_scale, (int, float)):
        return settings.kl_scale
    return min(1.0, n / sum(math.prod(target.shape) for target in prior.targets))
