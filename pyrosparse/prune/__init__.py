"""Pruning: which weights go, when, and whether the evidence lets them."""

from pyrosparse.prune.annealing import Annealing
from pyrosparse.prune.bayes_factor import BayesFactorPruner
from pyrosparse.prune.common_mean import CommonMean
from pyrosparse.prune.criteria import magnitude, random_masks
from pyrosparse.prune.keep import keep_largest
from pyrosparse.prune.lottery_tickets import lottery, ticket_sparsities
from pyrosparse.prune.movement import Movement
from pyrosparse.prune.pruner import Pruner
from pyrosparse.prune.recalibration import recalibrate
from pyrosparse.prune.reduction import (
    Candidate,
    Order,
    ReductionPruner,
    prune_batch,
    ranked,
    reduce_model,
)
from pyrosparse.prune.run_criterion import RunCriterion
from pyrosparse.prune.snip import Snip, connection_sensitivity
from pyrosparse.prune.thinet_channels import thinet
from pyrosparse.prune.turbo import MessageExchange, TurboPruner, TurboVBI

__all__ = [
    "Annealing",
    "BayesFactorPruner",
    "Candidate",
    "CommonMean",
    "MessageExchange",
    "Movement",
    "Order",
    "Pruner",
    "ReductionPruner",
    "RunCriterion",
    "Snip",
    "TurboPruner",
    "TurboVBI",
    "connection_sensitivity",
    "keep_largest",
    "lottery",
    "magnitude",
    "prune_batch",
    "random_masks",
    "ranked",
    "recalibrate",
    "reduce_model",
    "thinet",
    "ticket_sparsities",
]
