"""The data and the network that a run begins with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyrosparse import data as data_sets
from pyrosparse import machine, networks
from pyrosparse.compress.settings import Settings
from pyrosparse.data import DataSet


def made(
    settings: Settings, weights: Mapping[str, Tensor] | None = None
) -> tuple[nn.Module, DataSet]:
    """The network of a run, with its first weights, and its data.

    weights: a state dict to start from instead of a random initialisation.

    Raises ValueError where the weights do not fit the network or there is no such device, and what
    ``data.load`` and ``networks.create`` raise.

    >>> net, data = made(Settings(network_options={"hidden": (8,)}))
    >>> net.fc1
    Linear(in_features=64, out_features=8, bias=True)
    """
    machine.check_device(settings.device)
    data = data_sets.load(
        settings.dataset,
        size=settings.size,
        validation=settings.validation,
        normalise=settings.normalise,
        seed=settings.seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = networks.create(
            settings.network, data.image_shape, len(data.classes), **settings.network_options
        )
    # Convolutions and, above all, max-pooling are faster in this layout on a CPU.
    net = net.to(memory_format=torch.channels_last)
    if weights is not None:
        _load(net, weights)
    return net.to(settings.device), data.to(settings.device)


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
