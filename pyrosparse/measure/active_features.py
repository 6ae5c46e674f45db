"""Which features pass their gates: on average for an input, for any input, and class by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.evidence.batches import batches
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.lifting.guide import Entry
from pyrosparse.lifting.lift import Lifted
from pyrosparse.measure.paper_counts import PaperCounts, dependent_counts
from pyrosparse.models.calls import Called, separated


@dataclass(frozen=True)
class ActiveFeatures:
    """The gains of one target's gates over a data set.

    frequency:  for how large a share of the data each feature passes, (features,).
    class_mean: the mean gain by class, (classes, features); None without classes.

    >>> ActiveFeatures(torch.tensor([1.0, 0.5, 0.0]), None).mean
    1.5
    """

    frequency: Tensor
    class_mean: Tensor | None

    @property
    def mean(self) -> float:
        """How many features pass for an input, on average: what computing it needs."""
        return float(self.frequency.sum())

    @property
    def union(self) -> Tensor:
        """Which features pass for some input, boolean (features,): what memory must hold."""
        return self.frequency > 0

    def __repr__(self) -> str:
        return (
            f"ActiveFeatures: {self.mean:.1f} of {len(self.frequency)} features pass for an input, "
            f"{int(self.union.sum())} for some input"
        )

    def class_correlation(self) -> Tensor:
        """The correlation of the mean gains of every two classes over the features that some input
        uses, (classes, classes): near 1 where classes share their features.

        Raises ValueError if there were no classes. Source: Lee et al. (2019), figure 3.
        """
        if self.class_mean is None:
            raise ValueError("the data have no classes: give (x, y) with int64 y")
        used = self.class_mean[:, self.union].double()
        centred = used - used.mean(1, keepdim=True)
        norm = centred.norm(dim=1)
        # Classes whose gains are all alike vary together with nothing.
        return (centred @ centred.T) / (norm.outer(norm)).clamp_min(torch.finfo(norm.dtype).tiny)


def active_features(
    bnn: Lifted, data: Any, *, classes: int | None = None, batch_size: int = 256
) -> dict[str, ActiveFeatures]:
    """Which features of every gate pass at test time, by target name.

    A feature passes for an input where its mean gain is not 0: for gates that do not depend on the
    input, what ``masks`` keeps.

    data:    (x,), or inputs and labels, (x, y) or (ids, mask, y), ``Examples``, or an iterable of
             such batches; int64 y for means by class.
    classes: how many there are; needed for the means by class.

    Raises ValueError if the network has no gates, or there are no data.

    >>> import pyrosparse as ps
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> bnn = ps.lift(net, ps.BetaBernoulli())
    >>> active_features(bnn, (torch.ones(5, 4),))["2.input"].mean
    3.0
    """
    entries = [entry for entry in bnn.guide.entries if entry.target.kind != "weight"]
    if not entries:
        raise ValueError(
            "the lifted network has no gates: lift it with a method that has gates, "
            "such as ps.BetaBernoulli"
        )
    masks = bnn.masks()
    passed = {entry.target.key: torch.zeros(entry.target.shape).double() for entry in entries}
    sums = {
        entry.target.key: torch.zeros(classes or 0, *entry.target.shape).double()
        for entry in entries
    }
    counts = torch.zeros(classes or 0).double()
    n = 0
    labels: Tensor | None = None

    def watch(entry: Entry) -> Callable[[Tensor], None]:
        key = entry.target.key

        def note(x: Tensor) -> None:
            gains = entry.method.mean(entry.target, entry.posterior(), x)
            gains = (gains * (masks[key] != 0)).expand(len(x), -1).cpu().double()
            passed[key] += (gains != 0).sum(0)
            if classes and labels is not None:
                sums[key].index_add_(0, labels.cpu(), gains)

        return note

    with torch.no_grad(), evaluation_mode(bnn), ExitStack() as hooks:
        for entry in entries:
            module = bnn.net.get_submodule(entry.target.name)
            hooks.enter_context(_before_gate(module, entry.target.kind, watch(entry)))
        for batch in batches(data, batch_size, Called(bnn)):
            inputs, given = separated(batch[0], batch[1:], None)
            labels = given if given is not None and given.dtype == torch.int64 else None
            bnn.mean_forward(*inputs)
            n += len(batch[0])
            if classes and labels is not None:
                counts += torch.bincount(labels.cpu(), minlength=classes)
    if n == 0:
        raise ValueError(
            "there are no data, so the active features are not known: give data that are not empty"
        )
    by_class = classes and bool(counts.any())
    return {
        key: ActiveFeatures(
            (passed[key] / n).float(),
            (sums[key] / counts.clamp_min(1).unsqueeze(1)).float() if by_class else None,
        )
        for key in passed
    }


def _before_gate(module: nn.Module, kind: str, note: Callable[[Tensor], None]) -> Any:
    # Registered before the lifted network's own hook, so that it sees what the gate sees.
    if kind == "input":
        return module.register_forward_pre_hook(lambda _, args: note(args[0]))
    return module.register_forward_hook(lambda _, args, output: note(output))


def mean_counts(
    net: nn.Module, active: Mapping[str, ActiveFeatures], *inputs: Tensor
) -> PaperCounts:
    """FLOPs and memory of a network for an average input, as the beta-Bernoulli paper counts them:
    every layer computes the units that pass for some input from the inputs that pass for this one.

    The average numbers of each gate are rounded, and those that pass most often are counted.

    net:    the network that was lifted.
    active: as of ``active_features``.
    inputs: what the network is called with.

    Raises what ``dependent_counts`` raises.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> active = {"2.input": ActiveFeatures(torch.tensor([1.0, 1.0, 0.1]), None)}
    >>> mean_counts(net, active, torch.ones(1, 4)).memory  # 3 units of 4, then 2 of 2
    21
    """
    kept, few = {}, {}
    for key, features in active.items():
        kept[key] = features.union
        often = features.frequency.topk(max(1, round(features.mean))).indices
        few[key] = torch.zeros_like(features.union).index_fill(0, often, True)
    return dependent_counts(net, kept, few, *inputs)
