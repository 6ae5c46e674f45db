"""The methods, one file each: a sparsity prior with its guide."""

from pyrosparse.methods.beta_bernoulli import BetaBernoulli
from pyrosparse.methods.dependent_beta_bernoulli import DependentBetaBernoulli
from pyrosparse.methods.gamma_spike_and_slab import GammaSpikeAndSlab, generative
from pyrosparse.methods.gaussian import Gaussian
from pyrosparse.methods.gibbs import GibbsPruning
from pyrosparse.methods.horseshoe import Horseshoe
from pyrosparse.methods.masked_weights import MaskedWeights
from pyrosparse.methods.movement_pruning import MovementPruning
from pyrosparse.methods.targeted_dropout import TargetedDropout

__all__ = [
    "BetaBernoulli",
    "DependentBetaBernoulli",
    "GammaSpikeAndSlab",
    "Gaussian",
    "GibbsPruning",
    "Horseshoe",
    "MaskedWeights",
    "MovementPruning",
    "TargetedDropout",
    "generative",
]
