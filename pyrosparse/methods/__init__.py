"""The methods, one file each: a sparsity prior with its guide."""

from pyrosparse.methods.beta_bernoulli import BetaBernoulli
from pyrosparse.methods.dependent_beta_bernoulli import DependentBetaBernoulli
from pyrosparse.methods.gamma_spike_and_slab import GammaSpikeAndSlab, generative
from pyrosparse.methods.gaussian import Gaussian
from pyrosparse.methods.gibbs import GibbsPruning
from pyrosparse.methods.horseshoe import Horseshoe

__all__ = [
    "BetaBernoulli",
    "DependentBetaBernoulli",
    "GammaSpikeAndSlab",
    "Gaussian",
    "GibbsPruning",
    "Horseshoe",
    "generative",
]
