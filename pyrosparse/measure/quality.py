"""How well a network classifies: accuracy, negative log likelihood, calibration error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.evidence.batches import batches
from pyrosparse.models.calls import Called, named_output
from pyrosparse.util.arrays import rows
from pyrosparse.util.modes import evaluating

BINS = 15


@dataclass(frozen=True)
class Quality:
    """How well a network classifies some data.

    accuracy: the share of the data that it classifies correctly, in [0, 1].
    nll:      the mean negative log likelihood, in nats per datum.
    ece:      the expected calibration error, in [0, 1], of 15 bins.

    >>> Quality(accuracy=0.5, nll=0.7, ece=0.0).accuracy
    0.5
    """

    accuracy: float
    nll: float
    ece: float

    def rows(self, after: Quality) -> list[tuple[str, str]]:
        """The rows of a report that compare this network with another."""
        return [
            ("accuracy", f"{100 * self.accuracy:.2f} % -> {100 * after.accuracy:.2f} %"),
            ("NLL", f"{self.nll:.4f} -> {after.nll:.4f} nats per datum"),
            ("ECE", f"{self.ece:.4f} -> {after.ece:.4f}"),
        ]


def quality(
    net: nn.Module, data: Any, *, output: str | None = None, batch_size: int = 256
) -> Quality:
    r"""Accuracy, negative log likelihood and calibration error of a network that returns logits.

    With the largest probability of datum :math:`i` as its confidence :math:`c_i`, and :math:`r_i` 1
    if that class is correct and 0 if not,

    .. math:: \mathrm{ECE} = \sum_{b=1}^{15} \frac{1}{N}
              \Big| \sum_{i :\, (b-1)/15 < c_i \le b/15} (r_i - c_i) \Big| .

    net:        inputs -> logits (N, classes); it is run in evaluation mode, and every module gets
                back the mode it was in.
    data:       a tuple of tensors or arrays, the network's inputs and last the classes, int64 (N,);
                ``Examples``; a dict of the network's arguments by name and ``labels``; or an
                iterable of such tuples or dicts (a ``DataLoader``).
    output:     the name of the logits in the network's output; None if it is a tensor.
    batch_size: the batch size, if data are not already batches.

    Raises ValueError if there are no data, if the labels (N,) are not classes of the network, and
    if its outputs are not logits (N, classes), or not finite.

    Source: Guo et al. (2017), "On calibration of modern neural networks", eq. 3, for the ECE.

    >>> data = (torch.eye(2), torch.tensor([0, 1]))
    >>> quality(nn.Identity(), data).accuracy
    1.0
    """
    return Tally.of(net, data, batch_size, output).quality()


class Tally:
    """What a network that gives logits has got right so far, in bins of confidence.

    counts:     of each bin, the number of data, (15,) float64.
    confidence: their confidences, summed, (15,) float64.
    right:      how many of them are right, (15,) float64.

    >>> tally = Tally.of(nn.Identity(), (torch.eye(2), torch.tensor([0, 0])), batch_size=2)
    >>> float(tally.counts.sum()), float(tally.right.sum())
    (2.0, 1.0)
    """

    def __init__(self) -> None:
        self._nll = 0.0
        self._sums = torch.zeros(BINS, 4, dtype=torch.float64)
        self._edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1]

    @classmethod
    def of(cls, net: nn.Module, data: Any, batch_size: int, output: str | None = None) -> Tally:
        """Run a network on data; takes and raises what ``quality`` does."""
        tally = cls()
        device = next((parameter.device for parameter in net.parameters()), None)
        with torch.no_grad(), evaluating(net):
            for *inputs, labels in labelled_batches(data, batch_size, net):
                result = net(*(x.to(device) if isinstance(x, Tensor) else x for x in inputs))
                logits = result if output is None else named_output(result, output)
                check_logits(type(net).__name__, logits, labels)
                tally.add(logits, labels)
        if not tally.counts.any():
            raise ValueError(
                "there are no data to classify: give data that are not empty (an "
                "iterator can be read only once)"
            )
        return tally

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch; logits: (N, classes), labels: (N,) classes."""
        labels = labels.cpu().long()
        # In float64: the confidence of a sure network is 1 in float32, and its log 0.
        logs = logits.cpu().double().log_softmax(1)
        confidence, chosen = logs.max(1)
        right = (chosen == labels).double()
        self._nll -= float(logs.gather(1, labels[:, None]).sum())
        confidence = confidence.exp()
        columns = [torch.ones_like(right), confidence, right, right - confidence]
        bins = torch.bucketize(confidence, self._edges)
        self._sums.index_add_(0, bins, torch.stack(columns, 1))

    @property
    def counts(self) -> Tensor:
        return self._sums[:, 0]

    @property
    def confidence(self) -> Tensor:
        return self._sums[:, 1]

    @property
    def right(self) -> Tensor:
        return self._sums[:, 2]

    def quality(self) -> Quality:
        """Accuracy, negative log likelihood and calibration error."""
        n = int(self.counts.sum())
        gaps = self._sums[:, 3]
        return Quality(int(self.right.sum()) / n, self._nll / n, float(gaps.abs().sum()) / n)


def labelled_batches(data: Any, batch_size: int, net: nn.Module | None = None) -> Any:
    """Minibatches of inputs with the classes last; raises ValueError where data cannot be that.

    net: whose arguments the names of a dict are; needed for those alone."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    if isinstance(data, tuple):
        if len(data) < 2:
            raise ValueError(
                "data must be a tuple of tensors, (inputs, classes), Examples, or an iterable of "
                f"batches; got a tuple of {', '.join(type(part).__name__ for part in data)}"
            )
        data = tuple(rows(part, f"tensor {place}") for place, part in enumerate(data))
        if len({len(part) for part in data}) > 1:
            shapes = ", ".join(str(tuple(part.shape)) for part in data)
            raise ValueError(f"the inputs and the labels differ in length: {shapes}")
    elif isinstance(data, Tensor):
        raise ValueError("data must be (inputs, classes); got one tensor, without the classes")
    return batches(data, batch_size, None if net is None else Called(net))


def check_logits(name: str, logits: Any, labels: Tensor) -> None:
    """Refuse labels (N,) that are no classes, and what a network gave for them if it is no logits
    (N, classes), or not finite."""
    if not isinstance(labels, Tensor):
        raise ValueError("the data have no labels: give them last, or as 'labels' in a dict")
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(
            f"the labels must be classes, int64 (N,); got {labels.dtype} {tuple(labels.shape)}"
        )
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"{name} must give logits (N, classes) for the {len(labels)} data of a batch; got "
            f"{shape}{'' if isinstance(logits, Tensor) else ': name them by output='}"
        )
    if not logits.isfinite().all():
        bad = int((~logits.isfinite()).any(1).sum())
        raise ValueError(
            f"{name} gives NaN or infinity for {bad} of the {len(labels)} data of a batch: "
            "accuracy is not defined. Look for NaN in the weights and in the data"
        )
    classes = logits.shape[1]
    if ((labels < 0) | (labels >= classes)).any():
        raise ValueError(
            f"the labels must be classes 0..{classes - 1}, one for each logit of {name}; got "
            f"{int(labels.min())}..{int(labels.max())}"
        )
