"""The methods, one file each: a sparsity prior with its guide."""

from pyrosparse.methods.beta_bernoulli import BetaBernoulli
from pyrosparse.methods.dependent_beta_bernoulli import DependentBetaBernoulli
from pyrosparse.methods.gamma_spike_and_slab import GammaSpikeAndSlab, generative
from pyrosparse.methods.gaussian import Gaussian
from pyrosparse.methods.gibbs import GibbsPruning
from pyrosparse.methods.horseshoe import Horseshoe
from pyrosparse.methods.information_bottleneck import InformationBottleneck
from pyrosparse.methods.variational_dropout import VariationalDropout

__all__ = [
    "BetaBernoulli",
    "DependentBetaBernoulli",
    "GammaSpikeAndSlab",
    "Gaussian",
    "GibbsPruning",
    "Horseshoe",
    "InformationBottleneck",
    "VariationalDropout",
    "generative",
]
