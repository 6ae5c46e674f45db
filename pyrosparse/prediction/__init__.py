"""Predictions of a posterior, their uncertainty, and sets that hold the truth as often as asked."""

from pyrosparse.prediction.conformal import ConformalIntervals, ConformalSets, conformal
from pyrosparse.prediction.ensemble import Ensemble, ensemble
from pyrosparse.prediction.predict import predict
from pyrosparse.prediction.prediction import ClassPrediction, Prediction, RealPrediction

__all__ = [
    "ClassPrediction",
    "ConformalIntervals",
    "ConformalSets",
    "Ensemble",
    "Prediction",
    "RealPrediction",
    "conformal",
    "ensemble",
    "predict",
]
