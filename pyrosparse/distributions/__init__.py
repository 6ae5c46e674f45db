"""Distributions that Pyro lacks, written for the shapes and magnitudes of network weights."""

from pyrosparse.distributions.bipartite_gibbs_mask import BipartiteGibbsMask
from pyrosparse.distributions.conditional_bernoulli import ConditionalBernoulli
from pyrosparse.distributions.gibbs_mask import GibbsMask
from pyrosparse.distributions.grid_support import GridSupport
from pyrosparse.distributions.hard_concrete import (
    hard_concrete,
    hard_concrete_logits,
    hard_concrete_moments,
)
from pyrosparse.distributions.improper import Improper, ImproperPriorWarning, Penalty
from pyrosparse.distributions.ising_mask import IsingMask
from pyrosparse.distributions.isotropic_laplace import IsotropicLaplace
from pyrosparse.distributions.isotropic_normal import IsotropicNormal
from pyrosparse.distributions.kumaraswamy import Kumaraswamy
from pyrosparse.distributions.log_normal import normal_quadrature
from pyrosparse.distributions.log_uniform import LogUniform
from pyrosparse.distributions.logit_kumaraswamy import LogitKumaraswamy
from pyrosparse.distributions.point import Point
from pyrosparse.distributions.relaxed_bernoulli import log_relaxed_bernoulli, relaxed_bernoulli
from pyrosparse.distributions.spike_and_slab import Inclusions, SpikeAndSlabNormal
from pyrosparse.distributions.tree_support import TreeSupport
from pyrosparse.distributions.truncated_normal import TruncatedNormal

__all__ = [
    "BipartiteGibbsMask",
    "ConditionalBernoulli",
    "GibbsMask",
    "GridSupport",
    "Improper",
    "ImproperPriorWarning",
    "Inclusions",
    "IsingMask",
    "IsotropicLaplace",
    "IsotropicNormal",
    "Kumaraswamy",
    "LogUniform",
    "LogitKumaraswamy",
    "Penalty",
    "Point",
    "SpikeAndSlabNormal",
    "TreeSupport",
    "TruncatedNormal",
    "hard_concrete",
    "hard_concrete_logits",
    "hard_concrete_moments",
    "log_relaxed_bernoulli",
    "normal_quadrature",
    "relaxed_bernoulli",
]
