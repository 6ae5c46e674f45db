"""The results of a compression run, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pyrosparse.evidence.batches import batches
from pyrosparse.measure import file_bytes
from pyrosparse.recipes.compaction import Compaction
from pyrosparse.recipes.result import Result
from pyrosparse.recipes.split import count
from pyrosparse.reports.predictions import predictions
from pyrosparse.storage import Stored, save, save_sparse
from pyrosparse.util.files import write_atomically


@dataclass(frozen=True)
class Layer:
    """One prunable tensor: its name and shape, its non-zero weights, and how it is stored."""

    name: str
    shape: tuple[int, ...]
    nonzero: int
    stored: Stored
    size: int

    @property
    def sparsity(self) -> float:
        """The share of the weights that is exactly zero."""
        return 1 - self.nonzero / self.size


@dataclass(frozen=True)
class Round:
    """The evidence of one round of pruning: log Bayes factor and its parts, in nats.

    weighting: how the likelihood's part is computed: the ``sum`` over the data or their ``mean``.
    """

    epoch: int
    total: float
    likelihood: float
    prior: float
    weighting: Literal["sum", "mean"]


@dataclass(frozen=True)
class Summary:
    """The results of a compression run, all of them counted or measured.

    dataset:            the data set's display name.
    train, validation, test: numbers of data.
    test_accuracy:      in [0, 1], for classifiers; test_nll: nats per datum.
    parameters, nonzero_parameters: numbers in the whole network.
    layers:             the prunable tensors.
    dense_bytes, sparse_bytes: size of the network's safetensors file, without and with sparse
                        storage.
    seconds:            time of training, including pruning and validation.
    last_round:         the last round in which weights became zero; None if there was none.
    compaction:         the costs of the compact network, or the reason why there is none.
    compact_bytes:      size of the compact network's file; None without one.
    test_ece:           expected calibration error on the test data, in [0, 1].
    chance:             the share of the most frequent class of the test data.
    compared:           whether the result is compared with a network before pruning.
    keeps_more, takes_more: as in the recipe.
    accuracy_before:    the test accuracy of the network before pruning, without a compact one.
    values:             for networks that predict values ``rmse``, ``crps`` and the coverage of
                        intervals, ``coverage_50``, on the test data; None for classifiers.
    """

    dataset: str
    train: int
    validation: int
    test: int
    test_accuracy: float | None
    test_nll: float
    parameters: int
    nonzero_parameters: int
    layers: list[Layer]
    dense_bytes: int
    sparse_bytes: int
    seconds: float
    last_round: Round | None
    compaction: Compaction | None = None
    compact_bytes: int | None = None
    test_ece: float | None = None
    chance: float | None = None
    compared: bool = False
    keeps_more: str = ""
    takes_more: str = ""
    accuracy_before: float | None = None
    values: Mapping[str, float] | None = None

    @property
    def prunable(self) -> int:
        """The number of prunable weights."""
        return sum(layer.size for layer in self.layers)

    @property
    def nonzero(self) -> int:
        """The number of prunable weights that are not zero."""
        return sum(layer.nonzero for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """The share of the prunable weights that is exactly zero."""
        return 1 - self.nonzero / self.prunable if self.prunable else 0.0

    def json(self) -> dict[str, Any]:
        """Everything as JSON values, with the derived values ``sparsity``, ``mac_speedup`` and, by
        batch size, ``latency_speedup``."""
        values = asdict(self) | {"sparsity": self.sparsity}
        report = self.compaction.report if self.compaction is not None else None
        quality = report.quality if report is not None else None
        if quality is not None and self.values is not None:  # ``quality`` then has tensors
            values["compaction"]["report"]["quality"] = [one.figures() for one in quality]
        if self.compaction is None or self.compaction.report is None:
            return values
        before, after = self.compaction.report.total_macs
        times = self.compaction.report.seconds
        return values | {
            "mac_speedup": before / after if after else None,
            "latency_speedup": {size: first / second for size, (first, second) in times.items()},
        }


def summarize(result: Result, folder: Path) -> Summary:
    """Write the networks of a run to files, and count and measure the result.

    folder: gets ``weights.safetensors`` (sparse) and, if there is a compact network,
            ``compact.safetensors`` and ``account.txt``.

    Raises OSError if a file cannot be written.

    >>> import tempfile
    >>> import pyrosparse as ps
    >>> net, digits = ps.networks.fcn((1, 8, 8), hidden=(8,)), ps.data.load("digits")
    >>> result = ps.compress(net, digits, ps.recipes.Magnitude(epochs=1), progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = summarize(result, Path(folder))
    ...     sorted(file.name for file in Path(folder).iterdir())
    ['account.txt', 'compact.safetensors', 'weights.safetensors']
    >>> summary.prunable, summary.nonzero
    (592, 59)
    """
    # Clones in row-major layout: safetensors refuses shared memory (tied parameters) and others.
    state = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in result.net.state_dict().items()
    }
    weights = folder / "weights.safetensors"
    stored = save_sparse(weights, state)
    compaction, compact_bytes = _save_compact(result, folder)
    layers = [
        Layer(
            name,
            tuple(state[name].shape),
            int(state[name].count_nonzero()),
            stored[name],
            state[name].numel(),
        )
        for name in result.prunable
    ]
    parameters = list(result.net.parameters())
    data = result.data
    of_values = "rmse" in result.quality
    values = {k: v for k, v in result.quality.items() if of_values and k != "nll"}
    return Summary(
        dataset=data.name,
        train=data.n,
        validation=count(data.validation),
        test=count(data.test),
        test_accuracy=result.quality.get("accuracy"),
        test_nll=result.quality["nll"],
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzero_parameters=sum(int(parameter.count_nonzero()) for parameter in parameters),
        layers=layers,
        dense_bytes=file_bytes(result.net),
        sparse_bytes=weights.stat().st_size,
        seconds=result.seconds,
        last_round=_last_round(result.history, getattr(result.recipe, "likelihood", "sum")),
        compaction=compaction,
        compact_bytes=compact_bytes,
        test_ece=result.quality.get("ece"),
        chance=_chance(data.judged) if "ece" in result.quality else None,
        compared=result.original is not result.net,
        keeps_more=result.recipe.keeps_more,
        takes_more=result.recipe.takes_more,
        accuracy_before=_accuracy_before(result) if compaction.report is None else None,
        values=values or None,
    )


def headline(summary: Summary) -> list[tuple[str, str]]:
    """The summary's numbers, formatted for readers: (quantity, value), most important first.

    >>> layer = Layer("fc.weight", (10, 10), 10, Stored("bitmask", 53, 400), 100)
    >>> headline(Summary("Toy", 9, 0, 9, 0.9, 0.3, 110, 20, [layer], 800, 400, 2.0, None))[0]
    ('test accuracy', '90.00 % of 9')
    """
    ratio = summary.dense_bytes / summary.sparse_bytes
    smaller = f" ({ratio:.1f} times smaller)" if ratio > 1.05 else ""
    rows = []
    if summary.test_accuracy is not None:
        rows.append(("test accuracy", f"{100 * summary.test_accuracy:.2f} % of {summary.test:,}"))
    rows.append(("test negative log likelihood", f"{summary.test_nll:.4f} nats per datum"))
    if summary.test_ece is not None:
        rows.append(("test calibration error", f"{summary.test_ece:.4f}"))
    for name, value in (summary.values or {}).items():
        rows.append((f"test {value_name(name)}", value_text(name, value)))
    rows += [
        ("sparsity of the prunable weights", f"{100 * summary.sparsity:.2f} %"),
        ("prunable weights", f"{summary.prunable:,}, not zero {summary.nonzero:,}"),
        ("all parameters", f"{summary.parameters:,}, not zero {summary.nonzero_parameters:,}"),
        ("dense file", f"{summary.dense_bytes:,} bytes"),
        ("sparse file", f"{summary.sparse_bytes:,} bytes{smaller}"),
        ("training time", f"{summary.seconds:.1f} s"),
    ]
    if summary.last_round is not None:
        last = summary.last_round
        mean = ", mean over the data" if last.weighting == "mean" else ""
        rows += [
            ("last round that set weights to zero", f"epoch {last.epoch}"),
            ("its log Bayes factor", f"{last.total:+.4g} nats"),
            ("of that, the likelihood", f"{last.likelihood:+.4g} nats{mean}"),
            ("of that, the prior", f"{last.prior:+.4g} nats"),
        ]
    return rows


def value_name(score: str) -> str:
    """The display name of a score of predicted values.

    >>> value_name("rmse"), value_name("coverage_50")
    ('RMSE', 'coverage of 50 % intervals')
    """
    _, covers, level = score.partition("coverage_")
    return f"coverage of {level} % intervals" if covers else score.upper()


def value_text(score: str, value: float) -> str:
    """The value of such a score, formatted for readers.

    >>> value_text("rmse", 0.25), value_text("coverage_50", 0.25)
    ('0.2500', '25.0 %')
    """
    return f"{100 * value:.1f} %" if score.startswith("coverage_") else f"{value:.4f}"


def _save_compact(result: Result, folder: Path) -> tuple[Compaction, int | None]:
    if result.small is None:
        return result.compaction, None
    write_atomically(folder / "account.txt", result.compaction.account + "\n")
    try:
        file = save(folder / "compact.safetensors", result.small)
    except ValueError as error:
        return replace(result.compaction, problem=str(error)), None
    return result.compaction, file.stat().st_size


def _accuracy_before(result: Result) -> float | None:
    found = predictions(result).get("before")
    if found is None:
        return None
    return float((found.argmax(1).cpu() == result.data.judged.y.cpu()).double().mean())


def _chance(data: Any) -> float:
    labels = torch.cat([batch[-1] for batch in batches(data, 1000)])
    return float(labels.bincount().max()) / len(labels)


def _last_round(history: list[dict[str, Any]], weighting: Literal["sum", "mean"]) -> Round | None:
    # A round that is accepted but finds nothing left to prune has only zeros: it says nothing.
    rounds: list[Mapping[str, Any]] = [
        entry
        for entry in history
        if entry.get("log_bayes_factor_likelihood") or entry.get("log_bayes_factor_prior")
    ]
    if not rounds:
        return None
    last = rounds[-1]
    return Round(
        epoch=last["epoch"],
        total=last["log_bayes_factor"],
        likelihood=last["log_bayes_factor_likelihood"],
        prior=last["log_bayes_factor_prior"],
        weighting=weighting,
    )
