"""Pruning: which weights go, when, and whether the evidence lets them."""

from pyrosparse.prune.annealing import Annealing
from pyrosparse.prune.bayes_factor import BayesFactorPruner
from pyrosparse.prune.common_mean import CommonMean
from pyrosparse.prune.criteria import magnitude, random
from pyrosparse.prune.pruner import Pruner
from pyrosparse.prune.recalibration import recalibrate
from pyrosparse.prune.reduction import Batch, Order, ReductionPruner, prune_batch, ranked, reduce
from pyrosparse.prune.turbo import MessageExchange, TurboPruner, TurboVBI

__all__ = [
    "Annealing",
    "Batch",
    "BayesFactorPruner",
    "CommonMean",
    "MessageExchange",
    "Order",
    "Pruner",
    "ReductionPruner",
    "TurboPruner",
    "TurboVBI",
    "magnitude",
    "prune_batch",
    "random",
    "ranked",
    "recalibrate",
    "reduce",
]
