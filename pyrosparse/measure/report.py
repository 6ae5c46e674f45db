"""The report of a compaction: what the network and its compact form cost, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from pyrosparse.compaction.account import Account
from pyrosparse.compaction.compact import compact
from pyrosparse.compaction.layers import parameter_count
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.measure.costs import file_bytes, macs
from pyrosparse.measure.paper_counts import PaperCounts, beta_bernoulli_counts
from pyrosparse.measure.quality import quality
from pyrosparse.measure.regression import RegressionQuality, regression_quality
from pyrosparse.models.latents import ModelGuide
from pyrosparse.util.arguments import arguments
from pyrosparse.util.errors import expect_network
from pyrosparse.util.timing import batch_of, latency

Pair = tuple[int, int]


@dataclass(frozen=True)
class Report:
    """Costs and scores of two networks, as pairs (before, after); print it.

    ``json.dumps(dataclasses.asdict(report))`` writes it down.

    structure:  the numbers of outputs of the compact network's layers, ``288-114-10``; "" if it has
                no ``account``.
    parameters: of all tensors that are trained.
    macs:       multiply-accumulate operations per datum, by layer.
    bytes:      of the state dicts as safetensors files.
    seconds:    by batch size, medians of a forward pass.
    paper:      FLOPs and memory as the beta-Bernoulli paper counts them; None for networks with
                other layers than it counts.
    quality:    accuracy, negative log likelihood and calibration error, or what ``judge`` returned;
                for models of values RMSE, likelihood, CRPS and coverage; None without data.
    exact:      if widths were rounded, the report of the same network with exact widths; otherwise
                None.

    >>> print(Report("3-2", (23, 14), {"0": (12, 6), "2": (6, 4)}, (300, 260), {1: (2e-3, 1e-3)}))
    structure   3-2
    parameters  23 -> 14 (1.64x)
    bytes       300 -> 260 (1.15x)
    MACs        18 -> 10 (1.80x)
      0         12 -> 6 (2.00x)
      2         6 -> 4 (1.50x)
    batch 1     2.000 ms -> 1.000 ms (2.00x)
    """

    structure: str
    parameters: Pair
    macs: Mapping[str, Pair]
    bytes: Pair
    seconds: Mapping[int, tuple[float, float]]
    paper: tuple[PaperCounts, PaperCounts] | None = None
    quality: tuple[Any, Any] | None = None
    exact: Report | None = None

    @property
    def total_macs(self) -> Pair:
        """Multiply-accumulate operations per datum, over all layers."""
        before, after = zip(*self.macs.values(), strict=True) if self.macs else ((0,), (0,))
        return sum(before), sum(after)

    def __str__(self) -> str:
        rows = [("structure", self.structure)] if self.structure else []
        rows += [
            ("parameters", _change(self.parameters)),
            ("bytes", _change(self.bytes)),
            ("MACs", _change(self.total_macs)),
        ]
        rows += [(f"  {name}", _change(pair)) for name, pair in self.macs.items()]
        if self.paper is not None:
            before, after = self.paper
            memory = f"{before.memory:,}"
            if before.memory != after.memory:
                memory += f" -> {after.memory:,} ({100 * after.memory / before.memory:.2f} %)"
            rows += [
                ("paper's FLOPs", _change((before.flops, after.flops))),
                ("paper's memory", memory),
            ]
        rows += self._latencies()
        if self.exact is not None:
            rows += [
                ("exact widths", self.exact.structure),
                ("  parameters", _change(self.exact.parameters)),
                ("  bytes", _change(self.exact.bytes)),
                ("  MACs", _change(self.exact.total_macs)),
            ]
            rows += [(f"  {name}", times) for name, times in self.exact._latencies()]
        if self.quality is not None:
            first, second = self.quality
            rows += first.rows(second)
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _latencies(self) -> list[tuple[str, str]]:
        return [
            (
                f"batch {size}",
                f"{1e3 * first:.3f} ms -> {1e3 * second:.3f} ms ({first / second:.2f}x)",
            )
            for size, (first, second) in self.seconds.items()
        ]


def report(
    net: nn.Module,
    small: nn.Module,
    example: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    batch_sizes: Sequence[int] = (1, 128),
    repeats: int = 30,
    data: Any = None,
    data_batch_size: int = 256,
    model: Callable[[Any], Any] | None = None,
    output: str | None = None,
    judge: Callable[..., Any] = quality,
) -> Report:
    """Measure a network and its compact form: parameters, MACs, bytes of the file, latency.

    For networks of dense layers, convolutions and batch normalisations it also gives the counts of
    the beta-Bernoulli paper. If ``compact`` rounded widths, the network with exact widths is
    measured too. With data, both networks are evaluated as classifiers, or by a model of values.

    example:         an input of the networks: a tensor, several, or a dict by the names of the
                     network's arguments. Its first datum is repeated to the batch sizes.
    batch_sizes:     batch sizes for the latencies; () for none.
    repeats:         the number of timings, of which the median is reported.
    data:            (inputs, classes), tensors (N, ...) and int64 (N,); ``Examples``; or an
                     iterable of such batches that can be gone through twice.
    data_batch_size: the batch size for accuracy, likelihood and calibration.
    model:           a function from a network to the Pyro model of values that predicts with it,
                     such as ``lambda net: ps.models.around(trained, net)``; by default the networks
                     return logits of classes.
    output:          the name of the logits in the networks' output, such as ``"logits"``; None if
                     it is a tensor.
    judge:           the function that scores a network on the data: ``ps.measure.quality`` for
                     classifiers, or ``ps.measure.perplexity`` for causal language models.

    Raises ValueError if repeats is not positive, and what ``quality`` raises: for labels that are
    not the networks' classes, and outputs that are not logits or not finite; with a model what
    ``regression_quality`` raises.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> data = (torch.ones(3, 4), torch.tensor([0, 1, 1]))
    >>> measured = report(net, net, torch.ones(1, 4), batch_sizes=(), data=data)
    >>> measured.total_macs
    (18, 18)
    >>> 0 <= measured.quality[0].ece <= 1
    True
    """
    expect_network(net)
    expect_network(small)
    if isinstance(example, Mapping):
        inputs = arguments(example, net)
    else:
        inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    account = getattr(small, "account", None)
    compacts = [small]
    if isinstance(account, Account) and account.round_to > 1:
        compacts.append(compact(small, None, example, at_least=0))
    seconds: dict[int, list[float]] = {
        size: latency([net, *compacts], *batch_of(inputs, size), repeats=repeats)
        for size in batch_sizes
    }
    costs = [
        _costs(net, one, inputs, {size: (taken[0], taken[n]) for size, taken in seconds.items()})
        for n, one in enumerate(compacts, 1)
    ]
    return replace(
        costs[0],
        quality=None
        if data is None
        else _quality(net, small, data, data_batch_size, model, output, judge),
        exact=costs[1] if len(costs) > 1 else None,
    )


def _costs(
    net: nn.Module,
    small: nn.Module,
    inputs: tuple[Any, ...],
    seconds: Mapping[int, tuple[float, float]],
) -> Report:
    account = getattr(small, "account", None)
    first, second = macs(net, *inputs), macs(small, *inputs)
    return Report(
        account.structure if isinstance(account, Account) else "",
        (parameter_count(net), parameter_count(small)),
        {name: (first.get(name, 0), second.get(name, 0)) for name in first | second},
        (file_bytes(net), file_bytes(small)),
        seconds,
        _paper(net, small, inputs),
    )


def _quality(
    net: nn.Module,
    small: nn.Module,
    data: Any,
    batch_size: int,
    model: Callable[[Any], Any] | None,
    output: str | None,
    judge: Callable[..., Any],
) -> tuple[Any, Any]:
    if model is None:
        first, second = (
            judge(one, data, output=output, batch_size=batch_size) for one in (net, small)
        )
    else:
        data = Repeated.of(data)
        first, second = (point_quality(model(one), data, batch_size) for one in (net, small))
    return first, second


def point_quality(model: Any, data: Any, batch_size: int = 256) -> RegressionQuality:
    """The scores of a model of values at the weights that its network has.

    What is latent beside the network, such as noise, is drawn from the model's guide.
    """
    guide = getattr(model, "guide", None)
    own = guide if isinstance(guide, ModelGuide) else _nothing
    return regression_quality(model, own, data, batch_size=batch_size)


def _nothing(*_: Any) -> None:
    """The guide of a model without latent variables."""


def _paper(
    net: nn.Module, small: nn.Module, inputs: tuple[Any, ...]
) -> tuple[PaperCounts, PaperCounts] | None:
    try:
        before, after = (beta_bernoulli_counts(one, *inputs) for one in (net, small))
    except ValueError:  # layers that the paper's tables do not have
        return None
    return (before, after) if before.memory else None


def _change(pair: Pair) -> str:
    before, after = pair
    factor = f" ({before / after:.2f}x)" if after and before != after else ""
    return f"{before:,} -> {after:,}{factor}" if before != after else f"{before:,}"
