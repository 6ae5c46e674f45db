"""Pruning: which weights go, when, and whether the evidence lets them."""

from pyrosparse.prune.bayes_factor import BayesFactorPruner
from pyrosparse.prune.criteria import magnitude, random
from pyrosparse.prune.pruner import Pruner
from pyrosparse.prune.recalibration import recalibrate
from pyrosparse.prune.reduction import Batch, Order, ReductionPruner, prune_batch, ranked, reduce

__all__ = [
    "Batch",
    "BayesFactorPruner",
    "Order",
    "Pruner",
    "ReductionPruner",
    "magnitude",
    "prune_batch",
    "random",
    "ranked",
    "recalibrate",
    "reduce",
]
