"""Pruning: which weights go, when, and whether the evidence lets them."""

from pyrosparse.prune.bayes_factor import BayesFactorPruner
from pyrosparse.prune.criteria import magnitude, random
from pyrosparse.prune.pruner import Pruner
from pyrosparse.prune.recalibration import recalibrate

__all__ = ["BayesFactorPruner", "Pruner", "magnitude", "random", "recalibrate"]
