"""The network that nothing is taken from, which a pruned one is compared with."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pyrosparse.compress import masking, pruning, reducing
from pyrosparse.compress.families import EVIDENCE
from pyrosparse.compress.settings import Settings
from pyrosparse.data import DataSet

FOLDER = "dense"


def train_dense(
    settings: Settings,
    net: nn.Module,
    data: DataSet,
    *,
    folder: Path | None = None,
    progress: bool | None = None,
) -> nn.Module:
    """Train a network as the settings say, in place, but take nothing away.

    settings: of a method that prunes while it trains, with numbers for all, as
              ``Settings.for_data`` gives them.
    net:      with the first weights of the run.
    folder:   where ``checkpoint.safetensors`` and ``metrics.jsonl`` are; None for neither.

    Raises what ``fit`` raises.

    >>> from pyrosparse import data, networks
    >>> digits, net = data.load("digits"), networks.fcn((1, 8, 8), hidden=(8,))
    >>> settings = Settings(method="magnitude", epochs=1)
    >>> dense = train_dense(settings, net, digits, progress=False)
    >>> bool((dense.fc1.weight == 0).any())
    False
    """
    dense = settings.unpruned
    family = masking if dense.masked else reducing if dense.method in EVIDENCE else pruning
    return family.train(dense, net, data, folder=folder, progress=progress).net
