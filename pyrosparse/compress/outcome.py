"""What a compression run leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pyrosparse.compact import CompactNet, PaperCounts, Quality
from pyrosparse.compress.compaction import Compaction
from pyrosparse.compress.settings import Settings
from pyrosparse.data import DataSet
from pyrosparse.infer import Fit
from pyrosparse.lift import Lifted
from pyrosparse.masks import Masks
from pyrosparse.models import classifier


@dataclass(frozen=True)
class Trained:
    """What the training of a method leaves.

    net:      the network with what goes at zero, exactly, and the gains of gates in its weights;
              what depends on the input is not in it.
    original: the network that nothing was taken from: the one the method begins with, or one that
              was trained alike; ``net`` where there is neither.
    bnn, model: the lifted network and the Pyro model it was trained in.
    run:      the training run with its history.
    masks:    of gates, with their gains; None where the method has none.
    pretraining: the run that trained ``original``; None where there was none.
    gates:    those whose gains depend on the input, as of ``Lifted.gates()``.
    first:    the run of the first of two stages; None where there is one.
    active:   how many units a test datum needs on average, by gate; empty where all need the same.
    counts:   the cost of ``original``, and that of these, as the beta-Bernoulli paper counts.
    """

    net: nn.Module
    original: nn.Module
    bnn: Lifted
    model: classifier
    run: Fit
    masks: Masks | None = None
    pretraining: Fit | None = None
    gates: Mapping[str, nn.Module] = field(default_factory=dict)
    first: Fit | None = None
    active: Mapping[str, float] = field(default_factory=dict)
    counts: tuple[PaperCounts, PaperCounts] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a compression run leaves.

    settings:   those of the run, with numbers for all that depends on the data.
    data:       the data set.
    trained:    the network, and how it came about.
    whole:      the network as it predicts: ``net``, with the gates whose gains depend on the input.
    test:       accuracy, negative log likelihood and calibration of ``whole`` on the test data.
    small:      the compact network; None where there is none.
    compaction: what it costs, or why there is none.
    """

    settings: Settings
    data: DataSet
    trained: Trained
    whole: nn.Module
    test: Quality
    small: CompactNet | None
    compaction: Compaction

    @property
    def net(self) -> nn.Module:
        """The network with what goes at zero."""
        return self.trained.net

    @property
    def history(self) -> list[dict[str, Any]]:
        """The history of the training run, pretraining aside."""
        return self.trained.run.history

    @property
    def prunable(self) -> list[str]:
        """The names of the parameters that the method may set to zero."""
        return [target.name for target in self.trained.bnn.targets if target.kind == "weight"]

    @property
    def sparsity(self) -> float:
        """The fraction of the prunable weights that is exactly zero."""
        weights = [self.net.get_parameter(name) for name in self.prunable]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        return zeros / sum(weight.numel() for weight in weights)

    @property
    def seconds(self) -> float:
        """The time of training, with pretraining and validation."""
        before = [run for run in (self.trained.pretraining, self.trained.first) if run is not None]
        entries = [*(entry for run in before for entry in run.history), *self.history]
        return float(sum(entry["seconds"] for entry in entries))
