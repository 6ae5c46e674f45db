"""Distributions that Pyro lacks, written for the shapes and magnitudes of network weights."""

from pyrosparse.distributions.bipartite_gibbs_mask import BipartiteGibbsMask
from pyrosparse.distributions.conditional_bernoulli import ConditionalBernoulli
from pyrosparse.distributions.gibbs_mask import GibbsMask
from pyrosparse.distributions.grid_support import GridSupport
from pyrosparse.distributions.improper import Improper, ImproperPriorWarning, Penalty
from pyrosparse.distributions.ising_mask import IsingMask
from pyrosparse.distributions.isotropic_normal import IsotropicNormal
from pyrosparse.distributions.kumaraswamy import Kumaraswamy
from pyrosparse.distributions.logit_kumaraswamy import LogitKumaraswamy
from pyrosparse.distributions.point import Point
from pyrosparse.distributions.relaxed_bernoulli import log_relaxed_bernoulli, relaxed_bernoulli
from pyrosparse.distributions.tree_support import TreeSupport

__all__ = [
    "BipartiteGibbsMask",
    "ConditionalBernoulli",
    "GibbsMask",
    "GridSupport",
    "Improper",
    "ImproperPriorWarning",
    "IsingMask",
    "IsotropicNormal",
    "Kumaraswamy",
    "LogitKumaraswamy",
    "Penalty",
    "Point",
    "TreeSupport",
    "log_relaxed_bernoulli",
    "relaxed_bernoulli",
]
