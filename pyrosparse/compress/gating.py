"""Training that closes gates on units: pretraining, then the gates, and what is dead is cut."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyrosparse.compact.cut import cut
from pyrosparse.compact.masked import masked
from pyrosparse.compress.methods import beta_bernoulli
from pyrosparse.compress.outcome import Trained
from pyrosparse.compress.pretraining import FILE, pretrain
from pyrosparse.compress.run_files import run_files
from pyrosparse.compress.settings import Settings
from pyrosparse.data import DataSet
from pyrosparse.infer import Callback, Fit, fit, schedules
from pyrosparse.lift import Lifted, lift
from pyrosparse.methods import Gaussian
from pyrosparse.models import classifier
from pyrosparse.target import gates, weights

# A cut costs about as much as some hundred steps of a small network.
_STEPS_BETWEEN_CUTS = 500


def train(
    settings: Settings,
    net: nn.Module,
    data: DataSet,
    *,
    start_trained: bool = False,
    folder: Path | None = None,
    progress: bool | None = None,
) -> Trained:
    """Pretrain a network, put gates on it, train both, and fold what the gates became into it.

    settings:      with numbers for all, as ``Settings.for_data`` gives them.
    net:           trained in place; its gates are in a copy, ``Trained.net``.
    start_trained: the network is trained already.
    folder:        where ``checkpoint.safetensors``, ``pretraining.safetensors`` and metrics of
                   both are; None for none.

    Raises what ``fit`` raises, and ValueError where no gate can be put on the network.

    >>> from pyrosparse import data, networks
    >>> digits, net = data.load("digits"), networks.fcn((1, 8, 8), hidden=(8,))
    >>> settings = Settings(pretrain=1, epochs=1).for_data(len(digits.train))
    >>> trained = train(settings, net, digits, progress=False)
    >>> [key for key in trained.masks if key.endswith("input")]
    ['fc1.input', 'fc2.input']
    """
    bnn = lift(
        net,
        [(Gaussian(scale=settings.scale), weights(net)), (beta_bernoulli(settings), gates(net))],
    )
    pretraining = None
    if settings.pretrain and not start_trained:
        file = folder / FILE if folder else None
        pretraining = pretrain(settings, net, data, file=file, progress=progress)
    original = copy.deepcopy(net)
    run = fit_gates(
        settings,
        bnn,
        data,
        epochs=settings.epochs,
        kl_warmup=settings.kl_warmup,
        folder=folder,
        progress=progress,
    )
    masks = bnn.masks()
    bnn.freeze(masks)
    model = classifier(bnn, n=len(data.train))
    return Trained(masked(net, masks), original, bnn, model, run, masks, pretraining)


def fit_gates(
    settings: Settings,
    bnn: Lifted,
    data: DataSet,
    *,
    epochs: int,
    kl_warmup: int,
    folder: Path | None,
    progress: bool | None,
) -> Fit:
    """Train gates together with the weights, as the settings say, and cut what is dead meanwhile.

    Raises what ``fit`` raises."""
    return fit(
        classifier(bnn, n=len(data.train)),
        bnn.guide,
        data.train,
        epochs=epochs,
        batch_size=settings.batch_size,
        learning_rate={"guide.*": settings.gate_rate, "*": settings.learning_rate},
        schedule=schedules.cosine(0.01),
        kl_warmup=kl_warmup,
        callbacks=[KeptUnits()],
        validation=data.validation,
        compact_every=_epochs_between_cuts(settings, bnn.net, data),
        seed=settings.seed,
        progress=progress,
        **run_files(folder),
    )


class KeptUnits(Callback):
    """Records how many units each gate keeps: ``units``, numbers by the gate's name."""

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        masks = run.lifted.masks()
        return {
            "units": {
                target.key: int(masks[target.key].count_nonzero())
                for target in run.lifted.targets
                if target.kind != "weight"
            }
        }


def _epochs_between_cuts(settings: Settings, net: nn.Module, data: DataSet) -> int | None:
    """After how many epochs what is dead is cut; None where the network cannot be traced, which is
    then trained whole."""
    example: Tensor = data.train.x[:2]
    try:
        cut(net, {}, (example,))
    except ValueError:
        return None
    return math.ceil(_STEPS_BETWEEN_CUTS / math.ceil(len(data.train) / settings.batch_size))
