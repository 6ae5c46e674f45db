"""The table of a suite with outside data: what its networks' probabilities are worth, by cell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from pyrosparse.bench.predictive import unpacked
from pyrosparse.bench.run import reading
from pyrosparse.bench.suite import Suite
from pyrosparse.bench.table import by_cell


@dataclass(frozen=True)
class Difference:
    """How much larger the negative log likelihood is than a reference's, nats per datum.

    by_seed: of each seed that both have.
    se:      the standard error over the test data of the mean of these, from the differences datum
             by datum: data that are hard for both cancel.
    """

    by_seed: list[float]
    se: float

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return mean(self.by_seed)


@dataclass(frozen=True)
class PredictiveRow:
    """One cell by one way to predict; figures by seed.

    predicts:   ``network``, with its weights, or ``posterior``, averaged over draws of it.
    accuracies, sparsities: in %.
    nlls:       nats per datum.
    elpds, elpd_ses: summed over the test data, with standard errors, nats.
    from_dense: the NLL beside that of the network of ``none`` of the same seed; None without one.
    from_mean_field: beside that of the posterior of ``mean-field``; None without one.
    """

    cell: str
    predicts: str
    accuracies: list[float]
    nlls: list[float]
    eces: list[float]
    aurocs: list[float]
    elpds: list[float]
    elpd_ses: list[float]
    sparsities: list[float]
    from_dense: Difference | None
    from_mean_field: Difference | None


def predictive_table(suite: Suite, results: Path) -> list[PredictiveRow]:
    """The cells of a suite that have such results, in the suite's order; lines without are left
    out."""
    cells = {
        cell: [line for line in lines if "predictive" in line]
        for cell, lines in by_cell(suite, results).items()
    }
    rows: list[PredictiveRow] = []
    for cell, lines in cells.items():
        with reading(f"{results}, a line of {cell}"):
            rows += _rows(cell, lines, cells)
    return rows


def _rows(
    cell: str, lines: list[dict[str, Any]], cells: dict[str, list[dict[str, Any]]]
) -> Iterator[PredictiveRow]:
    for predicts in ("network", "posterior"):
        if not lines or predicts not in lines[0]["predictive"]:
            continue
        found = [line["predictive"][predicts] for line in lines]
        by_seed = {line["seed"]: one for line, one in zip(lines, found, strict=True)}
        kin = [other for other in cells.values() if other and _setting(other) == _setting(lines)]
        yield PredictiveRow(
            cell=cell,
            predicts=predicts,
            accuracies=[100 * one["accuracy"] for one in found],
            nlls=[one["nll"] for one in found],
            eces=[one["ece"] for one in found],
            aurocs=[one["ood_auroc"] for one in found],
            elpds=[one["elpd"] for one in found],
            elpd_ses=[one["elpd_se"] for one in found],
            sparsities=[100 * line["sparsity"] for line in lines],
            from_dense=_difference(by_seed, kin, "none", "network"),
            from_mean_field=_difference(by_seed, kin, "mean-field", "posterior"),
        )


def _setting(lines: list[dict[str, Any]]) -> tuple[str, str]:
    settings = lines[0]["settings"]
    return settings["dataset"], settings["network"]


def _difference(
    by_seed: dict[int, dict[str, Any]],
    kin: list[list[dict[str, Any]]],
    method: str,
    predicts: str,
) -> Difference | None:
    """Beside the first cell of a method on the same data and network."""
    of_method = [lines for lines in kin if lines[0]["settings"]["method"] == method]
    reference = {
        line["seed"]: line["predictive"][predicts] for lines in of_method[:1] for line in lines
    }
    pairs = [(one, reference[seed]) for seed, one in by_seed.items() if seed in reference]
    if not pairs:
        return None
    differences = torch.stack(
        [unpacked(b["log_density"]) - unpacked(a["log_density"]) for a, b in pairs]
    ).mean(0)
    # The means are exact; only the standard error is from the rounded densities.
    return Difference(
        [a["nll"] - b["nll"] for a, b in pairs],
        float(differences.std()) / math.sqrt(len(differences)),
    )
