"""Suites of runs: declared in TOML, run side by side, resumed where they stopped, tabled."""

from pyrosparse.bench.cell import Cell, Difference, table
from pyrosparse.bench.cluster import cluster
from pyrosparse.bench.failures import FailedRunsError
from pyrosparse.bench.plan import Plan, plan
from pyrosparse.bench.predictive import unpacked
from pyrosparse.bench.results import provenance, read
from pyrosparse.bench.run import run
from pyrosparse.bench.suite import Job, Suite, load, suites
from pyrosparse.bench.tables import markdown

__all__ = [
    "Cell",
    "Difference",
    "FailedRunsError",
    "Job",
    "Plan",
    "Suite",
    "cluster",
    "load",
    "markdown",
    "plan",
    "provenance",
    "read",
    "run",
    "suites",
    "table",
    "unpacked",
]
