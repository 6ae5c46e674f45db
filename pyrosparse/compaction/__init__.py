"""Compaction: a smaller network that computes the same."""

from pyrosparse.compaction.account import Account, Layer
from pyrosparse.compaction.check import CompactionError
from pyrosparse.compaction.compact import CompactNet, compact
from pyrosparse.compaction.rules.mixing import Mixing
from pyrosparse.compaction.rules.pointwise import Elementwise, Parametric, Pointwise, Pool
from pyrosparse.compaction.rules.registry import register
from pyrosparse.compaction.rules.rule import Features, Flow, Rule

__all__ = [
    "Account",
    "CompactNet",
    "CompactionError",
    "Elementwise",
    "Features",
    "Flow",
    "Layer",
    "Mixing",
    "Parametric",
    "Pointwise",
    "Pool",
    "Rule",
    "compact",
    "register",
]
