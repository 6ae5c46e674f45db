"""The network that gates are put on: trained without them, once for all who want it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from pyrosparse.compress.network import made
from pyrosparse.compress.settings import Settings
from pyrosparse.data import DataSet
from pyrosparse.infer import Fit, fit, schedules
from pyrosparse.lift import lift
from pyrosparse.locks import locked
from pyrosparse.methods import Gaussian
from pyrosparse.models import classifier

FILE = "pretraining.safetensors"

# What another value of gives another pretrained network.
_INPUTS = (
    "network",
    "network_options",
    "dataset",
    "size",
    "normalise",
    "validation",
    "seed",
    "pretrain",
    "batch_size",
    "learning_rate",
    "scale",
)


def pretrain(
    settings: Settings,
    net: nn.Module,
    data: DataSet,
    *,
    file: Path | None = None,
    progress: bool | None = None,
) -> Fit:
    """Train a network, in place, under the Gaussian prior alone.

    settings: with numbers for all, as ``Settings.for_data`` gives them.
    file:     its checkpoint, from which it goes on; beside it a line an epoch in ``.jsonl``.

    Raises what ``fit`` raises.

    >>> from pyrosparse import data, networks
    >>> digits, net = data.load("digits"), networks.fcn((1, 8, 8), hidden=(8,))
    >>> settings = Settings(pretrain=1).for_data(len(digits.train))
    >>> len(pretrain(settings, net, digits, progress=False).history)
    1
    """
    bnn = lift(net, Gaussian(scale=settings.scale))
    return fit(
        classifier(bnn, n=len(data.train)),
        bnn.guide,
        data.train,
        epochs=settings.pretrain,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        schedule=schedules.cosine(0.01),
        validation=data.validation,
        checkpoint=file,
        metrics=file.with_suffix(".jsonl") if file else None,
        seed=settings.seed,
        progress=progress,
    )


def shared(settings: Settings, folder: Path) -> tuple[dict[str, Tensor], float]:
    """The weights of the pretrained network of these settings, and the seconds they took.

    folder: where such networks are kept. The first process that asks trains the network, those
            that ask meanwhile wait for it, also where it is another run that differs in nothing
            but what is done afterwards.

    Raises what ``data.load``, ``networks.create`` and ``fit`` raise.

    >>> import tempfile
    >>> settings = Settings(pretrain=1, network_options={"hidden": (8,)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     weights, seconds = shared(settings, Path(folder))
    >>> weights["fc1.weight"].shape
    torch.Size([8, 64])
    """
    net, data = made(settings)
    settings = settings.for_data(len(data.train))
    chosen = {name: value for name, value in asdict(settings).items() if name in _INPUTS}
    text = json.dumps(chosen, sort_keys=True)
    code = hashlib.sha256(text.encode()).hexdigest()[:12]
    network = settings.network.replace(":", "-")
    name = f"{Path(settings.dataset).name}-{network}-seed{settings.seed}-{code}.safetensors"
    with locked(folder / name):
        run = pretrain(settings, net, data, file=folder / name, progress=False)
    return net.state_dict(), sum(entry["seconds"] for entry in run.history)
