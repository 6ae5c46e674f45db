"""The methods, one file each: a sparsity prior with its guide."""

from pyrosparse.methods.beta_bernoulli import BetaBernoulli
from pyrosparse.methods.concrete_dropout import ConcreteDropout
from pyrosparse.methods.dependent_beta_bernoulli import DependentBetaBernoulli
from pyrosparse.methods.gamma_spike_and_slab import GammaSpikeAndSlab, generative
from pyrosparse.methods.gaussian import Gaussian
from pyrosparse.methods.generalized_dropout import GeneralizedDropout
from pyrosparse.methods.gibbs import GibbsPruning
from pyrosparse.methods.group_horseshoe import GroupHorseshoe
from pyrosparse.methods.group_spike_and_slab import GroupSpikeAndSlab
from pyrosparse.methods.hard_concrete import HardConcrete
from pyrosparse.methods.horseshoe import Horseshoe
from pyrosparse.methods.information_bottleneck import InformationBottleneck
from pyrosparse.methods.laplace_prior import LaplacePrior
from pyrosparse.methods.masked_weights import MaskedWeights
from pyrosparse.methods.movement_pruning import MovementPruning
from pyrosparse.methods.polarization import Polarization
from pyrosparse.methods.spike_and_slab import SpikeAndSlab
from pyrosparse.methods.structured_bayesian_pruning import StructuredBayesianPruning
from pyrosparse.methods.targeted_dropout import TargetedDropout
from pyrosparse.methods.variational_dropout import VariationalDropout

__all__ = [
    "BetaBernoulli",
    "ConcreteDropout",
    "DependentBetaBernoulli",
    "GammaSpikeAndSlab",
    "Gaussian",
    "GeneralizedDropout",
    "GibbsPruning",
    "GroupHorseshoe",
    "GroupSpikeAndSlab",
    "HardConcrete",
    "Horseshoe",
    "InformationBottleneck",
    "LaplacePrior",
    "MaskedWeights",
    "MovementPruning",
    "Polarization",
    "SpikeAndSlab",
    "StructuredBayesianPruning",
    "TargetedDropout",
    "VariationalDropout",
    "generative",
]
