"""What the networks of a run say of the test data: calibration, and the classes that lost most."""

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
    """How often the data of a class are recognised before and after.

    before, after: the share of its data, in [0, 1].
    size:          the number of its data.
    taken_for:     the class that its data are most often taken for after; empty where none are.
    """

    name: str
    before: float
    after: float
    size: int
    taken_for: str


def predictions(result: Result) -> dict[str, Tensor]:
    """Log probabilities of the classes of the test data by network: ``before`` where anything
    went, and ``compact``, or ``after`` without a compact network; (n, classes), nats.

    Empty where the network is no classifier, or the data are not in memory.

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
    """A network that gives its logits by name, as one that gives them alone."""

    def __init__(self, net: nn.Module, output: str) -> None:
        super().__init__()
        self.net, self.output = net, output

    def forward(self, x: Tensor) -> Tensor:
        return named_output(self.net(x), self.output)


def class_changes(
    found: Mapping[str, Tensor], labels: Tensor, names: Sequence[int | str] | None = None
) -> list[ClassChange]:
    """The classes, from the one that lost most on; empty without a network before.

    found:  as of ``predictions``; labels: (n,) int64.
    names:  of the classes; by default their numbers.

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
    # Rows are the classes, columns what they are taken for.
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
