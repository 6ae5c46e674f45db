"""The methods, one file each: a sparsity prior with its guide."""

from pyrosparse.methods.beta_bernoulli import BetaBernoulli
from pyrosparse.methods.dependent_beta_bernoulli import DependentBetaBernoulli
from pyrosparse.methods.gaussian import Gaussian
from pyrosparse.methods.gibbs import Gibbs
from pyrosparse.methods.horseshoe import Horseshoe
from pyrosparse.methods.support_mrf import SupportMRF, generative

__all__ = [
    "BetaBernoulli",
    "DependentBetaBernoulli",
    "Gaussian",
    "Gibbs",
    "Horseshoe",
    "SupportMRF",
    "generative",
]
