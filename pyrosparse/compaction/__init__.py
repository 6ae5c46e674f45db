"""Compaction: a network that is smaller and computes the same."""

from pyrosparse.compaction.account import Account, Layer
from pyrosparse.compaction.check import CompactionError
from pyrosparse.compaction.compact import CompactNet, compact

__all__ = [
    "Account",
    "CompactNet",
    "CompactionError",
    "Layer",
    "compact",
]
