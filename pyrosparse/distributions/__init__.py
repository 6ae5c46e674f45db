"""Distributions that Pyro lacks, written for the shapes and magnitudes of network weights."""

from pyrosparse.distributions.bipartite_gibbs_mask import BipartiteGibbsMask
from pyrosparse.distributions.gibbs_mask import GibbsMask
from pyrosparse.distributions.grid_support import GridSupport
from pyrosparse.distributions.improper import Improper, ImproperPriorWarning, Penalty
from pyrosparse.distributions.ising_mask import IsingMask
from pyrosparse.distributions.isotropic_laplace import IsotropicLaplace
from pyrosparse.distributions.isotropic_normal import IsotropicNormal
from pyrosparse.distributions.kumaraswamy import Kumaraswamy
from pyrosparse.distributions.log_normal import normal_quadrature
from pyrosparse.distributions.logit_kumaraswamy import LogitKumaraswamy
from pyrosparse.distributions.point import Point
from pyrosparse.distributions.relaxed_bernoulli import log_relaxed_bernoulli, relaxed_bernoulli
from pyrosparse.distributions.spike_and_slab import Inclusions, SpikeAndSlabNormal
from pyrosparse.distributions.tree_support import TreeSupport

__all__ = [
    "BipartiteGibbsMask",
    "GibbsMask",
    "GridSupport",
    "Improper",
    "ImproperPriorWarning",
    "Inclusions",
    "IsingMask",
    "IsotropicLaplace",
    "IsotropicNormal",
    "Kumaraswamy",
    "LogitKumaraswamy",
    "Penalty",
    "Point",
    "SpikeAndSlabNormal",
    "TreeSupport",
    "log_relaxed_bernoulli",
    "normal_quadrature",
    "relaxed_bernoulli",
]
