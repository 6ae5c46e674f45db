"""Split conformal prediction: sets and intervals that hold the truth as often as asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrosparse.prediction.prediction import ClassPrediction, Prediction, RealPrediction


def conformal(
    prediction: Prediction, y: Any, *, coverage: float = 0.9
) -> ConformalSets | ConformalIntervals:
    r"""Calibrate sets of classes, or intervals, on held-out data.

    .. math:: q = s_{(k)}, \quad k = \lceil (n + 1)(1 - \alpha) \rceil, \qquad
        1 - \alpha \le P(s_{n+1} \le q) \le 1 - \alpha + \frac{1}{n + 1}

    where :math:`s_{(k)}` is the k-th smallest of n scores, which are
    :math:`s_i = 1 - p(y_i \mid x_i)` of classes, and
    :math:`s_i = \max_j |y_{ij} - E[y_{ij}]| / \mathrm{sd}[y_{ij}]` of real targets. The left
    inequality holds for whatever network, where the n data and the new datum are exchangeable:
    calibrate on data that neither trained the network nor chose anything about it. The right one
    holds where no scores are equal.

    prediction: of the held-out data, as of ``predict``.
    y:          their labels, (n,) int64, or targets of the shape of ``prediction.mean``.
    coverage:   1 - alpha, in (0, 1). With fewer than coverage / (1 - coverage) data nothing can be
                left out, and sets and intervals are all there is.

    Raises ValueError if y does not fit, is not finite, or coverage is out of range.

    Sources: Vovk, Gammerman and Shafer (2005); Sadinle, Lei and Wasserman (2019) for sets, eq. 6;
    Lei et al. (2018), section 5.2, for intervals.

    >>> logs = torch.tensor([[0.9, 0.1]] * 9 + [[0.4, 0.6]]).log().double()[None]
    >>> calibrated = conformal(ClassPrediction(logs), torch.zeros(10).long(), coverage=0.9)
    >>> calibrated(ClassPrediction(logs))[0], round(calibrated.threshold, 3)
    (tensor([ True, False]), 0.6)
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is a probability in (0, 1), got {coverage}")
    if isinstance(prediction, ClassPrediction):
        scores = _class_scores(prediction, y)
        return ConformalSets(coverage, _threshold(scores, coverage), len(scores))
    if isinstance(prediction, RealPrediction):
        scores = _real_scores(prediction, y)
        return ConformalIntervals(coverage, _threshold(scores, coverage), len(scores))
    raise ValueError(f"a prediction is what predict returns, got {type(prediction).__name__}")


@dataclass(frozen=True)
class ConformalSets:
    """Sets of classes: those whose probability is 1 - threshold or more; call it with predictions.

    coverage:  what was asked for.
    threshold: of the score; infinite where there were too few data to leave anything out.
    data:      how many it was calibrated on.
    """

    coverage: float
    threshold: float
    data: int

    def __repr__(self) -> str:
        return (
            f"ConformalSets of coverage {self.coverage:g} from {self.data:,} data: classes of "
            f"probability {1 - self.threshold:.3g} or more"
        )

    def __call__(self, prediction: Prediction) -> Tensor:
        """Which classes are in the set of every datum, boolean, (n, classes)."""
        return 1 - _of_classes(prediction).probabilities <= self.threshold

    def covers(self, prediction: Prediction, y: Tensor) -> Tensor:
        """Of which data the set has the label, boolean, (n,); the mean of it is the coverage."""
        return _class_scores(_of_classes(prediction), y) <= self.threshold


@dataclass(frozen=True)
class ConformalIntervals:
    """Intervals around the mean, so many predictive standard deviations wide; call it with
    predictions.

    coverage:  what was asked for, jointly of all outputs of a datum.
    threshold: how many standard deviations; infinite where there were too few data.
    data:      how many it was calibrated on.
    """

    coverage: float
    threshold: float
    data: int

    def __repr__(self) -> str:
        return (
            f"ConformalIntervals of coverage {self.coverage:g} from {self.data:,} data: mean +- "
            f"{self.threshold:.3g} standard deviations"
        )

    def __call__(self, prediction: Prediction) -> Tensor:
        """The lower and upper ends, (2, n, ...)."""
        reach = self.threshold * _of_reals(prediction).variance.sqrt()
        return torch.stack([prediction.mean - reach, prediction.mean + reach])

    def covers(self, prediction: Prediction, y: Tensor) -> Tensor:
        """Of which data the intervals hold all targets, boolean, (n,)."""
        return _real_scores(_of_reals(prediction), y) <= self.threshold


def _of_classes(prediction: Prediction) -> ClassPrediction:
    if not isinstance(prediction, ClassPrediction):
        raise ValueError("sets of classes need a prediction of classes")
    return prediction


def _of_reals(prediction: Prediction) -> RealPrediction:
    if not isinstance(prediction, RealPrediction):
        raise ValueError("intervals need a prediction of real targets")
    return prediction


def _threshold(scores: Tensor, coverage: float) -> float:
    # Rounded first: (99 + 1) * 0.9 is 90.00000000000001 in some orders.
    rank = math.ceil(round((len(scores) + 1) * coverage, 9))
    return float(scores.sort().values[rank - 1]) if rank <= len(scores) else math.inf


def _class_scores(prediction: ClassPrediction, y: Any) -> Tensor:
    labels = torch.as_tensor(y).cpu()
    probabilities = prediction.probabilities
    n, *positions, classes = probabilities.shape
    if positions:
        raise ValueError(
            f"conformal sets are of one label for each datum, and these data have {positions}: "
            "the labels of a datum are not exchangeable. Give one label for each, such as the "
            "class of one position"
        )
    if labels.shape != (n,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"y must be the {n} labels, int64, got {labels.dtype} {tuple(labels.shape)}"
        )
    if ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"the labels must be classes 0..{classes - 1}")
    return 1 - probabilities.gather(1, labels.long()[:, None])[:, 0]


def _real_scores(prediction: RealPrediction, y: Any) -> Tensor:
    targets = torch.as_tensor(y).cpu().double()
    if targets.shape != prediction.mean.shape:
        raise ValueError(
            f"y must have the shape of the prediction's mean, {tuple(prediction.mean.shape)}, got "
            f"{tuple(targets.shape)}"
        )
    if not targets.isfinite().all():
        raise ValueError("y has numbers that are NaN or infinite")
    scale = prediction.variance.sqrt()
    if not (scale > 0).all():
        raise ValueError(
            "the predictive variance of some data is 0, so intervals cannot be scaled by it: "
            "predict with a likelihood that has noise"
        )
    return ((targets - prediction.mean).abs() / scale).reshape(len(targets), -1).amax(1)
