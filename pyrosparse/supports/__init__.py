"""Priors over supports, which of a tensor's weights are active, and their sum-product."""

from pyrosparse.supports.chain import Chain
from pyrosparse.supports.grid import Grid
from pyrosparse.supports.prior import SupportPrior
from pyrosparse.supports.tree import Tree, from_the_centre
from pyrosparse.supports.units import UnitFactor

__all__ = ["Chain", "Grid", "SupportPrior", "Tree", "UnitFactor", "from_the_centre"]
