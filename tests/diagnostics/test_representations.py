"""What a result prints is the result, and not its tensors."""

import pytest
import torch

from pyrosparse.compaction import Account, Layer
from pyrosparse.compaction.cut import Cut
from pyrosparse.compaction.ties import Tie
from pyrosparse.diagnostics import (
    Comparison,
    ElboTrace,
    Khat,
    ModelScore,
    PredictiveCheck,
    PredictiveQualities,
    PredictiveQuality,
    RegressionQualities,
    SimulationCalibration,
    calibration,
)
from pyrosparse.diagnostics.draws import Draw
from pyrosparse.evidence import BayesFactor, ElboEstimate, LogPosterior
from pyrosparse.lifting import Masks
from pyrosparse.measure import ActiveFeatures, RegressionQuality
from pyrosparse.prediction import ConformalIntervals, ConformalSets
from pyrosparse.prune import Candidate

JUDGED = calibration(torch.tensor([[0.5, 0.5]]).log().expand(4, 2), torch.tensor([0, 0, 1, 1]))
RANKS = {"w": torch.arange(64).view(64, 1)}
ZEROS, RISEN = ElboEstimate(torch.zeros(2)), ElboEstimate(torch.tensor([1.0, 1.5]))
VALUES = RegressionQuality(1.25, 1.4, 0.5, torch.zeros(4), torch.full((4,), 0.5))
QUALITY = PredictiveQuality(JUDGED, None, {}, torch.zeros(4))
SCORE = ModelScore("dense", -10.0, 2.0, 0.0, 0.0)
MASKS = Masks({"w": torch.tensor([True, False, False, False])})


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
        (RISEN, "ElboEstimate: 1.2 +- 0.25 nats from 2 draws"),
        (ElboEstimate(torch.zeros(2), ("w",)), "but for the constant of improper priors (w)"),
        (LogPosterior(-20.0, -5.0, 10), "-25.0 nats, of which likelihood -20.0 (-2.0000 a datum"),
        (BayesFactor(-1.5, 4.0, 10), "log BF +2.50 nats, of which likelihood -1.50"),
        (Candidate(0.1, MASKS, ZEROS, RISEN), "accepted: 10.0% of what was left go for a gain of"),
        (Candidate(0.1, MASKS, RISEN, ZEROS), "refused"),
        (MASKS, "Masks of 1 targets: 1 of 4 elements stay, sparsity 75.00%"),
        (SCORE, "ModelScore of dense: elpd -10.0 +- 2.0 nats"),
        (Comparison([SCORE], 50), "Comparison on 50 data, elpd in nats: dense -10.0 +- 2.0"),
        (PredictiveQualities(dense=QUALITY), "elpd in nats: dense 0.0 +- 0.0"),
        (VALUES, "of 4 data: RMSE 1.25, CRPS 0.5, elpd 0.0 +- 0 nats"),
        (RegressionQualities(line=VALUES), "elpd in nats: line 0.0 +- 0.0"),
        (Draw({"w": torch.zeros(2)}, -1.0, {"w": -2.0}, [], {}), "log prior -2.0, log q -1.0 nats"),
        (ConformalSets(0.9, 0.75, 100), "coverage 0.9 from 100 data: classes of probability 0.25"),
        (ConformalIntervals(0.9, 2.0, 100), "from 100 data: mean +- 2 standard deviations"),
        (Tie("a", "b", torch.tensor([0, 1, -1])), "2 of 3 inputs of 'b' are units of 'a'"),
        (Cut(torch.nn.Linear(2, 1), {}, {}), "Cut: a network of 3 parameters"),  # type: ignore
        (ActiveFeatures(torch.tensor([1.0, 0.5, 0.0]), None), "1.5 of 3 features pass"),
    ],
)
def test_results_say_what_they_are(result: object, said: str) -> None:
    assert said in repr(result)
    assert "tensor" not in repr(result)
