"""Ready Pyro models around a network."""

from pyrosparse.models.distillation import distill
from pyrosparse.models.language import language_model
from pyrosparse.models.likelihoods import classifier, regressor

__all__ = [
    "classifier",
    "distill",
    "language_model",
    "regressor",
]
