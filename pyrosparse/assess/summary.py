"""What a compression run came to, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save

from pyrosparse.compact.storage import Stored, save_sparse
from pyrosparse.compress import Outcome


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
        """The fraction of the weights that is exactly zero."""
        return 1 - self.nonzero / self.size


@dataclass(frozen=True)
class Round:
    """The evidence of one round of pruning: log Bayes factor and its parts, in nats.

    weighting: how the likelihood's part is taken, the ``sum`` over the data or their ``mean``.
    """

    epoch: int
    total: float
    likelihood: float
    prior: float
    weighting: Literal["sum", "mean"]


@dataclass(frozen=True)
class Summary:
    """What a compression run came to; all of it counted or measured.

    dataset:            the data set's name for people.
    train, validation, test: numbers of data.
    test_accuracy:      in [0, 1]; test_nll: nats per datum.
    parameters, nonzero_parameters: over the whole network.
    layers:             the prunable tensors.
    dense_bytes, sparse_bytes: of the network's safetensors file, without and with sparse storage.
    seconds:            training with pruning and validation.
    last_round:         the last round in which weights became zero; None where none did.
    """

    dataset: str
    train: int
    validation: int
    test: int
    test_accuracy: float
    test_nll: float
    parameters: int
    nonzero_parameters: int
    layers: list[Layer]
    dense_bytes: int
    sparse_bytes: int
    seconds: float
    last_round: Round | None

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
        """The fraction of the prunable weights that is exactly zero."""
        return 1 - self.nonzero / self.prunable


def summarize(outcome: Outcome, weights: Path, likelihood: Literal["sum", "mean"]) -> Summary:
    """Write the network's sparse weights to a file, and count and measure what is left.

    weights:    the safetensors file to write.
    likelihood: how the run's Bayes factors took the likelihood.

    Raises OSError where the file cannot be written.

    >>> import tempfile
    >>> from pyrosparse.compress import Settings, compress
    >>> small = {"hidden": (8,)}
    >>> settings = Settings(method="magnitude", epochs=1, network_options=small)
    >>> outcome = compress(settings, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = summarize(outcome, Path(folder, "weights.safetensors"), "mean")
    >>> summary.prunable, summary.nonzero
    (592, 59)
    """
    # Clones: tied parameters share their memory, which safetensors refuses.
    state = {name: tensor.clone() for name, tensor in outcome.net.state_dict().items()}
    stored = save_sparse(weights, state)
    layers = [
        Layer(
            name,
            tuple(state[name].shape),
            int(state[name].count_nonzero()),
            stored[name],
            state[name].numel(),
        )
        for name in outcome.prunable
    ]
    parameters = list(outcome.net.parameters())
    data = outcome.data
    return Summary(
        dataset=data.name,
        train=len(data.train),
        validation=len(data.validation) if data.validation is not None else 0,
        test=len(data.test),
        test_accuracy=outcome.test.accuracy,
        test_nll=outcome.test.nll,
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzero_parameters=sum(int(parameter.count_nonzero()) for parameter in parameters),
        layers=layers,
        dense_bytes=len(save(state)),
        sparse_bytes=weights.stat().st_size,
        seconds=outcome.seconds,
        last_round=_last_round(outcome.history, likelihood),
    )


def headline(summary: Summary) -> list[tuple[str, str]]:
    """The summary's numbers as people read them: (what, value) in the order of their interest.

    >>> layer = Layer("fc.weight", (10, 10), 10, Stored("bitmask", 53, 400), 100)
    >>> headline(Summary("Toy", 9, 0, 9, 0.9, 0.3, 110, 20, [layer], 800, 400, 2.0, None))[0]
    ('test accuracy', '90.00 % of 9')
    """
    ratio = summary.dense_bytes / summary.sparse_bytes
    smaller = f" ({ratio:.1f} times smaller)" if ratio > 1.05 else ""
    rows = [
        ("test accuracy", f"{100 * summary.test_accuracy:.2f} % of {summary.test:,}"),
        ("test negative log likelihood", f"{summary.test_nll:.4f} nats per datum"),
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


def _last_round(history: list[dict[str, Any]], weighting: Literal["sum", "mean"]) -> Round | None:
    # A round that is let through but finds nothing left to remove has all zeros: it says nothing.
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
