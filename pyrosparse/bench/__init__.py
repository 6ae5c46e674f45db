"""Suites of runs: declared in TOML, run side by side, resumed where they stopped, tabled."""

from pyrosparse.bench.costs import CostRow, cost_table
from pyrosparse.bench.predictive import unpacked
from pyrosparse.bench.predictive_table import Difference, PredictiveRow, predictive_table
from pyrosparse.bench.run import read, run
from pyrosparse.bench.structures import StructureRow, structure_table
from pyrosparse.bench.suite import Job, Suite, load, suites
from pyrosparse.bench.table import Row, provenance, table

__all__ = [
    "CostRow",
    "Difference",
    "Job",
    "PredictiveRow",
    "Row",
    "StructureRow",
    "Suite",
    "cost_table",
    "load",
    "predictive_table",
    "provenance",
    "read",
    "run",
    "structure_table",
    "suites",
    "table",
    "unpacked",
]
