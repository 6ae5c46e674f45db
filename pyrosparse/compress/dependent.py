"""The second stage of gates: they learn for which inputs a unit is worth computing."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path

from torch import nn

from pyrosparse.compact import beta_bernoulli_counts
from pyrosparse.compact.active_features import active_features, mean_counts
from pyrosparse.compact.masked import masked
from pyrosparse.compress import gating
from pyrosparse.compress.outcome import Trained
from pyrosparse.compress.settings import Settings
from pyrosparse.data import DataSet
from pyrosparse.lift import lift
from pyrosparse.locks import locked_folder
from pyrosparse.methods import DependentBetaBernoulli, Gaussian
from pyrosparse.models import classifier
from pyrosparse.target import weights


def train(
    settings: Settings,
    net: nn.Module,
    data: DataSet,
    *,
    start_trained: bool = False,
    folder: Path | None = None,
    first: Path | None = None,
    progress: bool | None = None,
) -> Trained:
    """Train gates by beta-Bernoulli dropout, then gates that depend on the input in their place.

    What passes for no input of the training data goes altogether.

    settings, net, data, start_trained: as for ``gating.train``.
    folder: of the second stage's checkpoint and metrics.
    first:  of the first stage's; by default ``first`` in the folder. One that is done is used.

    Raises what ``gating.train`` raises.

    >>> from pyrosparse import data, networks
    >>> digits, net = data.load("digits"), networks.fcn((1, 8, 8), hidden=(8,))
    >>> method = "dependent-beta-bernoulli"
    >>> settings = Settings(method=method, pretrain=1, epochs=1, second_epochs=1)
    >>> trained = train(settings.for_data(len(digits.train)), net, digits, progress=False)
    >>> sorted(trained.gates)
    ['fc1.input', 'fc2.input']
    """
    if first is None and folder is not None:
        first = folder / "first"
    lock = locked_folder(first) if first is not None else nullcontext()
    with lock:
        before = gating.train(
            settings, net, data, start_trained=start_trained, folder=first, progress=progress
        )
    method = DependentBetaBernoulli(before.bnn)
    pairs = [(Gaussian(scale=settings.scale), weights(net)), (method, method.targets(net))]
    bnn = lift(net, pairs)
    bnn.freeze(before.bnn.masks())
    run = gating.fit_gates(
        settings,
        bnn,
        data,
        epochs=settings.second_epochs,
        kl_warmup=0,
        folder=folder,
        progress=progress,
    )
    bnn.freeze({key: gate.union for key, gate in active_features(bnn, data.train).items()})
    masks, gates = bnn.masks(), bnn.gates()
    example = data.train.x[:1]
    active = active_features(bnn, data.test)
    counts = None
    with suppress(ValueError):  # for networks of which the paper has no count
        whole = beta_bernoulli_counts(before.original, example)
        counts = whole, mean_counts(net, active, example)
    return Trained(
        masked(net, masks),
        before.original,
        bnn,
        classifier(bnn, n=len(data.train)),
        run,
        masks,
        before.pretraining,
        gates=gates,
        first=before.run,
        active={key: gate.mean for key, gate in active.items()},
        counts=counts,
    )
