"""The main job: train a network on a data set, prune it, evaluate what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pyrosparse import data as data_sets
from pyrosparse import networks
from pyrosparse.data import DataSet
from pyrosparse.errors import unknown_name
from pyrosparse.evidence import evaluate
from pyrosparse.infer import Callback, Evaluation, Fit, fit, schedules
from pyrosparse.lift import Lifted, lift
from pyrosparse.methods import Gaussian
from pyrosparse.models import classifier
from pyrosparse.prune import BayesFactorPruner, Pruner
from pyrosparse.prune.bayes_factor import THRESHOLD

METHODS = {
    "none": "train only: the unpruned network",
    "random": "prune weights at random, ungated",
    "magnitude": "prune the smallest weights, ungated",
    "bayesian-random": "prune at random where the Bayes factor allows (Mathew and Rowe 2023)",
    "bayesian-magnitude": "prune the smallest where the Bayes factor allows (Mathew and Rowe 2023)",
}


@dataclass(frozen=True)
class Settings:
    """All that determines a compression run; JSON values.

    network, network_options: a name of ``networks.names()`` and what its function takes.
    dataset:    a name of ``data.names()`` or a folder of images.
    method:     a name of ``METHODS``.
    sparsity:   the fraction of the weights that goes, in [0, 1).
    ramp:       the sparsity rises from 0 along a cubic over this share of training; 0 prunes
                to all of it from the first epoch.
    freeze:     pruned weights stay zero; otherwise they regrow between rounds.
    threshold, likelihood, per_datum: the gate, as for ``BayesFactorPruner``; nats.
    scale:      standard deviation of the Gaussian prior.
    validation: the share of the training data that is held out.
    seed:       of the initial weights, the order of data and everything else random.

    Raises ValueError on unknown names and options out of range.

    >>> Settings(sparsity=0.5).network
    'fcn'
    """

    network: str = "fcn"
    network_options: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = "digits"
    method: str = "bayesian-magnitude"
    sparsity: float = 0.9
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    scale: float = 1.0
    ramp: float = 0.6
    freeze: bool = True
    threshold: float = THRESHOLD
    likelihood: Literal["mean", "sum"] = "sum"
    per_datum: bool = True
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        networks.describe(self.network)
        if self.dataset not in data_sets.names() and not Path(self.dataset).is_dir():
            raise unknown_name("data set", self.dataset, data_sets.names())
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"ramp is a share of training, in [0, 1], got {self.ramp}")
        self.pruner()

    def pruner(self) -> Pruner | None:
        """The callback that prunes; None for the unpruned network."""
        if self.method == "none":
            return None
        ramp = schedules.cubic(end=self.ramp) if self.ramp > 0 else schedules.constant
        criterion = self.method.removeprefix("bayesian-")
        if criterion == self.method:
            return Pruner(criterion, self.sparsity, ramp=ramp, freeze=self.freeze)
        return BayesFactorPruner(
            criterion,
            self.sparsity,
            threshold=self.threshold,
            likelihood=self.likelihood,
            per_datum=self.per_datum,
            ramp=ramp,
            freeze=self.freeze,
        )


@dataclass(frozen=True)
class Outcome:
    """What a compression run leaves.

    net:  the pruned network; its zeros are exact.
    bnn, model: the lifted network and the Pyro model it was trained in.
    run:  the training run with its history.
    data: the data set.
    test: negative log likelihood (``nll``, nats per datum) and ``accuracy`` on the test data.
    """

    net: nn.Module
    bnn: Lifted
    model: classifier
    run: Fit
    data: DataSet
    test: dict[str, float]

    @property
    def sparsity(self) -> float:
        """The fraction of the prunable weights that is exactly zero."""
        weights = [target.value for target in self.bnn.targets]
        zeros = sum(int((weight == 0).sum()) for weight in weights if weight is not None)
        return zeros / sum(weight.numel() for weight in weights if weight is not None)


def compress(
    settings: Settings,
    *,
    folder: Path | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    progress: bool | None = None,
) -> Outcome:
    """Train, prune and evaluate one network as the settings say.

    folder:  where ``checkpoint.safetensors`` and ``metrics.jsonl`` are written after every epoch; a
             run that finds its checkpoint there goes on from it.
    weights: a state dict to start from instead of a random initialisation.

    Raises ValueError where the weights do not fit the network, and what ``data.load``,
    ``networks.create`` and ``fit`` raise.

    >>> outcome = compress(Settings(epochs=2, network_options={"hidden": (16, 16)}), progress=False)
    >>> round(outcome.sparsity, 2)
    0.9
    """
    data = data_sets.load(settings.dataset, validation=settings.validation, seed=settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = networks.create(
            settings.network, data.image_shape, len(data.classes), **settings.network_options
        )
    # Convolutions and, above all, max-pooling are faster in this layout on a CPU.
    net = net.to(memory_format=torch.channels_last)
    if weights is not None:
        _load(net, weights)
    bnn = lift(net, Gaussian(scale=settings.scale))
    model = classifier(bnn, n=len(data.train))
    pruner = settings.pruner()
    callback: Callback = pruner if pruner is not None else Evaluation("train", data.train)
    run = fit(
        model,
        bnn.guide,
        data.train,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        callbacks=[callback],
        validation=data.validation,
        checkpoint=folder / "checkpoint.safetensors" if folder else None,
        metrics=folder / "metrics.jsonl" if folder else None,
        seed=settings.seed,
        progress=progress,
    )
    test = evaluate(model, bnn.guide, data.test)
    return Outcome(net, bnn, model, run, data, test)


def _load(net: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    own = net.state_dict()
    missing, foreign = own.keys() - weights.keys(), weights.keys() - own.keys()
    shapes = [k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape]
    if missing or foreign or shapes:
        raise ValueError(
            "the weights are not of this network: "
            + "; ".join(
                f"{what} {', '.join(sorted(names))}"
                for what, names in (
                    ("it lacks", missing),
                    ("it has no", foreign),
                    ("other shapes for", shapes),
                )
                if names
            )
        )
    net.load_state_dict(dict(weights))
