"""What a result prints is the result, and not its tensors."""

import pytest
import torch

from pyrosparse.compaction import Account, Layer
from pyrosparse.diagnostics import (
    ElboTrace,
    Khat,
    PredictiveCheck,
    PredictiveQuality,
    SimulationCalibration,
    calibration,
)

JUDGED = calibration(torch.tensor([[0.5, 0.5]]).log().expand(4, 2), torch.tensor([0, 0, 1, 1]))
RANKS = {"w": torch.arange(64).view(64, 1)}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (ElboTrace(torch.zeros(40), 3.0, 2.0), "has stopped rising, by 3 +- 2 nats"),
        (ElboTrace(torch.zeros(40), 9.0, 2.0), "still rises, by 9 +- 2 nats"),
        (Khat(0.25, 1000), "Khat 0.25 of 1000 draws: importance sampling is reliable"),
        (PredictiveCheck(2.0, torch.tensor([1.0, 3.0])), "p-value 0.5, statistic 2 beside 2"),
        (SimulationCalibration(RANKS, 63, 8), "p-value 1 of 64 simulations with 63 draws"),
        (JUDGED, "of 4 data: accuracy 0.5000, NLL 0.6931 nats, Brier score 0.5000"),
        (PredictiveQuality(JUDGED, None, {}, torch.zeros(4)), "elpd 0.0 +- 0.0 nats"),
        (
            Account([Layer("a", "Linear", (2, 2), (3, 1), (9, 3))], {}, (9, 3), 0.0),
            "Account of 1 layers, 1: 9 -> 3 parameters",
        ),
    ],
)
def test_results_say_what_they_are(result: object, said: str) -> None:
    assert said in repr(result)
    assert "tensor" not in repr(result)
