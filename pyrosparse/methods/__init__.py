"""The methods, one file each: a sparsity prior with its guide."""

from pyrosparse.methods.beta_bernoulli import BetaBernoulli
from pyrosparse.methods.gaussian import Gaussian
from pyrosparse.methods.horseshoe import Horseshoe

__all__ = ["BetaBernoulli", "Gaussian", "Horseshoe"]
