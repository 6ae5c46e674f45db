"""Pruning: which weights go, when, and whether the evidence lets them."""

from pyrosparse.prune.bayes_factor import BayesFactorPruner
from pyrosparse.prune.criteria import magnitude, random
from pyrosparse.prune.pruner import Pruner

__all__ = ["BayesFactorPruner", "Pruner", "magnitude", "random"]
