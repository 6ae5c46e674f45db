"""Networks before and after compression in one table: calibration, other data, rotation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pyrosparse.diagnostics.calibration import Calibration, calibration
from pyrosparse.diagnostics.guides import guides_by_name
from pyrosparse.diagnostics.out_of_distribution import auroc, predictive_entropy
from pyrosparse.diagnostics.predictions import log_probabilities
from pyrosparse.diagnostics.rotation import rotated
from pyrosparse.diagnostics.table import text_table
from pyrosparse.evidence.batches import inputs_and_targets
from pyrosparse.models.calls import Called


@dataclass(frozen=True)
class PredictiveQuality:
    """Scores of a network's predictive probabilities, also on other and on rotated data.

    calibration: on the data.
    ood_auroc:   AUROC of the predictive entropy, of data against ``outside``; None without it.
    rotation:    by angle in degrees, the calibration on the rotated data.
    log_density: the log predictive density of every datum's class, (n,) float64, nats.
    """

    calibration: Calibration
    ood_auroc: float | None
    rotation: dict[float, Calibration]
    log_density: Tensor

    @property
    def elpd(self) -> float:
        """The summed log predictive density of the data, nats."""
        return float(self.log_density.sum())

    @property
    def elpd_se(self) -> float:
        """The standard error of ``elpd``, nats, as for ``compare_models``; NaN for one datum."""
        return math.sqrt(len(self.log_density)) * float(self.log_density.std())

    def __repr__(self) -> str:
        return f"PredictiveQuality: elpd {self.elpd:.1f} +- {self.elpd_se:.1f} nats; " + repr(
            self.calibration
        )


class PredictiveQualities(dict[str, PredictiveQuality]):
    """Scores by the name of the network; printed as a table."""

    def __repr__(self) -> str:
        shown = [f"{name} {one.elpd:.1f} +- {one.elpd_se:.1f}" for name, one in self.items()]
        return f"PredictiveQualities, elpd in nats: {', '.join(shown)}"

    def __str__(self) -> str:
        names = ["network", "accuracy", "NLL", "Brier", "ECE"]
        first = next(iter(self.values()))
        if first.ood_auroc is not None:
            names.append("OOD AUROC")
        names += [f"{angle:g} deg" for angle in first.rotation]
        rows = []
        for name, one in self.items():
            found = one.calibration
            numbers = [found.accuracy, found.nll, found.brier, found.ece]
            numbers += [] if one.ood_auroc is None else [one.ood_auroc]
            numbers += [turned.accuracy for turned in one.rotation.values()]
            rows.append([name, *(f"{v:.4f}" for v in numbers)])
        return text_table(names, rows)


def predictive_quality(
    networks: Mapping[str, nn.Module],
    data: Any,
    *,
    guide: Mapping[str, Callable[..., Any]] | None = None,
    outside: Tensor | None = None,
    angles: Sequence[float] = (),
    draws: int = 30,
    seed: int = 0,
    batch_size: int = 1000,
) -> PredictiveQualities:
    """Calibration, also under rotation, and out-of-distribution AUROC of several networks.

    networks: by name; for a lifted network ``draws`` draws of its posterior predict, for any other
              network (a compact one, the mean ``bnn.net``) its weights.
    data:     test data, ``Examples``, (x, y), (n, ...) and int64 (n,), or batches of these.
    guide:    the guides with which the models were trained, by the name of the network; by default
              the lifted network's own.
    outside:  inputs of another kind, (m, ...), normalised as the data are.
    angles:   in degrees; they need images as data.

    Raises ValueError as ``log_probabilities``, ``calibration`` and ``rotated`` do, if a guide has
    no network, and if the data are values: use ``regression_qualities`` for those.

    >>> import torch
    >>> data = (torch.eye(2), torch.tensor([0, 1]))
    >>> print(predictive_quality({"identity": nn.Identity()}, data))
    network   accuracy     NLL   Brier     ECE
    identity    1.0000  0.3133  0.1447  0.2689
    """
    guides = guides_by_name(guide, networks)
    x, y = inputs_and_targets(data, Called(next(iter(networks.values()))) if networks else None)
    if y.is_floating_point():
        raise ValueError(
            f"the targets are values, {y.dtype}, and not classes: use regression_qualities, with "
            "the Pyro models that predict them"
        )
    found = PredictiveQualities()
    for name, net in networks.items():
        options: dict[str, Any] = {"draws": draws, "seed": seed, "batch_size": batch_size}
        options["guide"] = guides.get(name)
        inside = log_probabilities(net, x, **options)
        judged = calibration(inside, y)
        area = None
        if outside is not None:
            area = auroc(
                predictive_entropy(inside),
                predictive_entropy(log_probabilities(net, outside, **options)),
            )
        turned = {
            angle: calibration(log_probabilities(net, rotated(x, angle), **options), y)
            for angle in angles
        }
        density = inside.gather(1, y.cpu()[:, None])[:, 0]
        found[name] = PredictiveQuality(judged, area, turned, density)
    return found
