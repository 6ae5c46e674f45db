"""Conformal sets and intervals hold the truth as often as asked, whatever the model."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrosparse as ps
from pyrosparse.prediction import ClassPrediction, RealPrediction

SPLITS, CALIBRATION, TEST = 200, 29, 40
COVERAGE = 0.9  # of 30 ranks the 27th: exactly 0.9 where no scores are equal


def classes(n: int, generator: torch.Generator) -> tuple[ClassPrediction, Tensor]:
    """Probabilities that are far too sure, and labels of another law."""
    logits = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return ClassPrediction((5 * logits).log_softmax(1)[None]), labels


def targets(n: int, generator: torch.Generator) -> tuple[RealPrediction, Tensor]:
    """Means that are wrong, and deviations that are too small, of two outputs."""
    means = torch.randn(1, n, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    law = dist.Normal(means[0], 0.1)
    return RealPrediction(means, law.variance[None], [[law]]), 1 + means[0] + noise


@pytest.mark.parametrize("make", [classes, targets])
def test_coverage_over_many_splits(make) -> None:
    generator = torch.Generator().manual_seed(0)
    covered = []
    for _ in range(SPLITS):
        calibrated = ps.conformal(*make(CALIBRATION, generator), coverage=COVERAGE)
        prediction, y = make(TEST, generator)
        held = calibrated.covers(prediction, y)
        found = calibrated(prediction)
        if make is classes:
            assert torch.equal(held, found.gather(1, y[:, None])[:, 0])
        else:
            assert torch.equal(held, ((found[0] <= y) & (y <= found[1])).all(1))
        covered.append(float(held.double().mean()))
    # The coverage of one split is Beta(27, 3), and of its test data binomial given that.
    spread = COVERAGE * (1 - COVERAGE)
    beta = spread / (CALIBRATION + 2)
    error = math.sqrt((beta + (spread - beta) / TEST) / SPLITS)
    assert abs(sum(covered) / SPLITS - COVERAGE) < 4 * error


def test_too_few_data_leave_nothing_out() -> None:
    prediction, y = classes(5, torch.Generator().manual_seed(0))
    calibrated = ps.conformal(prediction, y, coverage=0.9)
    assert calibrated.threshold == math.inf
    assert calibrated(prediction).all()


def test_what_does_not_fit_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, labels = classes(9, generator)
    real, y = targets(9, generator)
    for wrong, message in [
        (labels.double(), "int64"),
        (labels[:3], "the 9 labels"),
        (labels + 4, "classes 0..3"),
    ]:
        with pytest.raises(ValueError, match=message):
            ps.conformal(prediction, wrong)
    with pytest.raises(ValueError, match="shape of the prediction"):
        ps.conformal(real, y[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        ps.conformal(real, y * torch.nan)
    with pytest.raises(ValueError, match="coverage"):
        ps.conformal(real, y, coverage=1.0)
    with pytest.raises(ValueError, match="variance"):
        ps.conformal(RealPrediction(real.means, 0 * real.variances, real.laws), y)
    with pytest.raises(ValueError, match="prediction of classes"):
        ps.conformal(prediction, labels)(real)
    with pytest.raises(ValueError, match="prediction of real targets"):
        ps.conformal(real, y)(prediction)
    with pytest.raises(ValueError, match="what predict returns"):
        ps.conformal(y, y)  # type: ignore[arg-type]
