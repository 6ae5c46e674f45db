"""Predictions of a run's networks on the test data: calibration, and the classes that lost most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyrosparse.data import Examples
from pyrosparse.diagnostics import log_probabilities
from pyrosparse.models.calls import named_output
from pyrosparse.recipes import Result


@dataclass(frozen=True)
class ClassChange:
    """The recall of a class before and after.

    before, after: the share of its data that is classified correctly, in [0, 1].
    size:          the number of its data.
    taken_for:     the most frequent wrong class of its data afterwards; empty if there is none.
    """

    name: str
    before: float
    after: float
    size: int
    taken_for: str


def predictions(result: Result) -> dict[str, Tensor]:
    """Log probabilities of the classes of the test data by network: ``before`` if anything was
    removed, and ``compact``, or ``after`` without a compact network; (n, classes), nats.

    Empty if the network is not a classifier, or the data are not in memory.

    >>> import pyrosparse as ps
    >>> data = torch.ones(9, 4), torch.arange(9) % 3
    >>> recipe = ps.recipes.Magnitude(epochs=1)
    >>> result = ps.compress(torch.nn.Linear(4, 3), data, recipe, progress=False)
    >>> {name: tuple(found.shape) for name, found in predictions(result).items()}
    {'before': (2, 3), 'compact': (2, 3)}
    """
    networks = {} if result.original is result.net else {"before": result.original}
    if result.small is not None:
        networks["compact"] = result.small
    elif result.whole is result.net:
        networks["after"] = result.net
    data = result.data.judged
    if "accuracy" not in result.quality or not isinstance(data, Examples):
        return {}
    output = getattr(result.model, "output", None)
    return {
        name: log_probabilities(net if output is None else _Logits(net, output), data.x)
        for name, net in networks.items()
    }


class _Logits(nn.Module):
    """Wraps a network that returns its logits by name, and returns only the logits."""

    def __init__(self, net: nn.Module, output: str) -> None:
        super().__init__()
        self.net, self.output = net, output

    def forward(self, x: Tensor) -> Tensor:
        return named_output(self.net(x), self.output)


def class_changes(
    found: Mapping[str, Tensor], labels: Tensor, names: Sequence[int | str] | None = None
) -> list[ClassChange]:
    """The classes, largest loss first; empty without a network before.

    found:  from ``predictions``; labels: (n,) int64.
    names:  the names of the classes; by default their numbers.

    >>> before = torch.tensor([[0.0, -9.0], [-9.0, 0.0], [-9.0, 0.0]])
    >>> after = torch.tensor([[0.0, -9.0], [0.0, -9.0], [-9.0, 0.0]])
    >>> class_changes({"before": before, "compact": after}, torch.tensor([0, 1, 1]))[0]
    ClassChange(name='1', before=1.0, after=0.5, size=2, taken_for='0')
    """
    if "before" not in found or len(found) < 2:
        return []
    before, after = (one.argmax(1).cpu() for one in found.values())
    labels = labels.cpu()
    count = next(iter(found.values())).shape[1]
    told = [str(name) for name in (range(count) if names is None else names)]
    # Rows are the classes, columns the predicted classes.
    taken = torch.bincount(labels * count + after, minlength=count**2).view(count, count)
    right = torch.bincount(labels[before == labels], minlength=count)
    changes = []
    for number, (row, name) in enumerate(zip(taken, told, strict=True)):
        size = int(row.sum())
        if not size:
            continue
        wrong = row.clone()
        wrong[number] = 0
        changes.append(
            ClassChange(
                name,
                int(right[number]) / size,
                int(row[number]) / size,
                size,
                told[int(wrong.argmax())] if wrong.sum() else "",
            )
        )
    return sorted(changes, key=lambda change: change.after - change.before)
