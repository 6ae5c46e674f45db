"""Training that sets weights to zero as it goes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pyrosparse.compress.methods import pruner
from pyrosparse.compress.outcome import Trained
from pyrosparse.compress.run_files import run_files
from pyrosparse.compress.settings import Settings
from pyrosparse.data import DataSet
from pyrosparse.infer import Callback, Evaluation, fit
from pyrosparse.lift import lift
from pyrosparse.methods import Gaussian
from pyrosparse.models import classifier


def train(
    settings: Settings,
    net: nn.Module,
    data: DataSet,
    *,
    folder: Path | None = None,
    progress: bool | None = None,
) -> Trained:
    """Train a network under a Gaussian prior, in place, and prune it after every epoch.

    folder: where ``checkpoint.safetensors`` and ``metrics.jsonl`` are; None for neither.

    Raises what ``fit`` raises.

    >>> from pyrosparse import data, networks
    >>> digits, net = data.load("digits"), networks.fcn((1, 8, 8), hidden=(8,))
    >>> settings = Settings(method="magnitude", epochs=1)
    >>> trained = train(settings, net, digits, progress=False)
    >>> int(net.fc1.weight.count_nonzero())
    51
    """
    bnn = lift(net, Gaussian(scale=settings.scale))
    model = classifier(bnn, n=len(data.train))
    prunes = pruner(settings)
    callback: Callback = prunes if prunes is not None else Evaluation("train", data.train)
    run = fit(
        model,
        bnn.guide,
        data.train,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        callbacks=[callback],
        validation=data.validation,
        seed=settings.seed,
        progress=progress,
        **run_files(folder),
    )
    return Trained(net, net, bnn, model, run)
