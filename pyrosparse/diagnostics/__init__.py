"""How good is a compressed posterior? Draws for ArviZ, convergence, comparison, calibration."""

from pyrosparse.diagnostics.calibration import Calibration, calibration
from pyrosparse.diagnostics.comparison import Comparison, ModelScore, compare_models
from pyrosparse.diagnostics.datatree import to_datatree
from pyrosparse.diagnostics.elbo_trace import ElboTrace, elbo_trace
from pyrosparse.diagnostics.khat import Khat, khat, pareto_khat
from pyrosparse.diagnostics.nuts import RecordingNUTS
from pyrosparse.diagnostics.out_of_distribution import (
    auroc,
    negative_log_confidence,
    predictive_entropy,
)
from pyrosparse.diagnostics.predictions import log_probabilities
from pyrosparse.diagnostics.predictive_check import PredictiveCheck, predictive_check
from pyrosparse.diagnostics.predictive_quality import (
    PredictiveQualities,
    PredictiveQuality,
    predictive_quality,
)
from pyrosparse.diagnostics.regression_qualities import (
    RegressionQualities,
    regression_qualities,
)
from pyrosparse.diagnostics.rhat import rhat
from pyrosparse.diagnostics.rotation import rotated
from pyrosparse.diagnostics.simulation import SimulationCalibration, simulation_calibration

__all__ = [
    "Calibration",
    "Comparison",
    "ElboTrace",
    "Khat",
    "ModelScore",
    "PredictiveCheck",
    "PredictiveQualities",
    "PredictiveQuality",
    "RecordingNUTS",
    "RegressionQualities",
    "SimulationCalibration",
    "auroc",
    "calibration",
    "compare_models",
    "elbo_trace",
    "khat",
    "log_probabilities",
    "negative_log_confidence",
    "pareto_khat",
    "predictive_check",
    "predictive_entropy",
    "predictive_quality",
    "regression_qualities",
    "rhat",
    "rotated",
    "simulation_calibration",
    "to_datatree",
]
