"""Training of a normal posterior, pruned as far as the evidence goes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pyrosparse.compress.methods import reduction_pruner
from pyrosparse.compress.outcome import Trained
from pyrosparse.compress.run_files import run_files
from pyrosparse.compress.settings import Settings
from pyrosparse.data import DataSet
from pyrosparse.infer import fit, schedules
from pyrosparse.lift import lift
from pyrosparse.methods import Gaussian
from pyrosparse.models import classifier
from pyrosparse.target import weights

# Standard deviations move by their logarithm, and have further to go than locations.
_SCALE_RATE = 10.0


def train(
    settings: Settings,
    net: nn.Module,
    data: DataSet,
    *,
    folder: Path | None = None,
    progress: bool | None = None,
) -> Trained:
    """Train a mean-field normal posterior over the weights of a network, in place, and prune it by
    model reduction as it trains.

    settings: with numbers for all, as ``Settings.for_data`` gives them.
    folder:   where ``checkpoint.safetensors`` and ``metrics.jsonl`` are; None for neither.

    Raises what ``fit`` raises.

    >>> from pyrosparse import data, networks
    >>> digits, net = data.load("digits"), networks.fcn((1, 8, 8), hidden=(8,))
    >>> settings = Settings(method="model-reduction", epochs=3).for_data(len(digits.train))
    >>> trained = train(settings, net, digits, progress=False)
    >>> trained.run.history[1]["elbo_gain"] > 0
    True
    """
    method = Gaussian(scale=settings.scale, posterior="normal", estimator="activations")
    bnn = lift(net, method, weights(net))
    model = classifier(bnn, n=len(data.train))
    prunes = reduction_pruner(settings)
    run = fit(
        model,
        bnn.guide,
        data.train,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate={
            "guide.*": _SCALE_RATE * settings.learning_rate,
            "*": settings.learning_rate,
        },
        schedule=schedules.cosine(0.01),
        callbacks=[prunes] if prunes is not None else [],
        validation=data.validation,
        seed=settings.seed,
        progress=progress,
        **run_files(folder),
    )
    return Trained(net, net, bnn, model, run)
