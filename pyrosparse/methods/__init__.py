"""The methods, one file each: a sparsity prior with its guide."""

from pyrosparse.methods.beta_bernoulli import BetaBernoulli
from pyrosparse.methods.dependent_beta_bernoulli import DependentBetaBernoulli
from pyrosparse.methods.gamma_spike_and_slab import GammaSpikeAndSlab, generative
from pyrosparse.methods.gaussian import Gaussian
from pyrosparse.methods.gibbs import GibbsPruning
from pyrosparse.methods.group_horseshoe import GroupHorseshoe
from pyrosparse.methods.group_spike_and_slab import GroupSpikeAndSlab
from pyrosparse.methods.horseshoe import Horseshoe
from pyrosparse.methods.laplace_prior import LaplacePrior
from pyrosparse.methods.polarization import Polarization
from pyrosparse.methods.spike_and_slab import SpikeAndSlab

__all__ = [
    "BetaBernoulli",
    "DependentBetaBernoulli",
    "GammaSpikeAndSlab",
    "Gaussian",
    "GibbsPruning",
    "GroupHorseshoe",
    "GroupSpikeAndSlab",
    "Horseshoe",
    "LaplacePrior",
    "Polarization",
    "SpikeAndSlab",
    "generative",
]
