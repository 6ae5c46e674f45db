"""Ready-made Pyro models around a network."""

from pyrosparse.models.distillation import distill
from pyrosparse.models.language import language_model
from pyrosparse.models.language_distillation import distill_language_model
from pyrosparse.models.latents import Latent, ModelGuide, around, guide_of
from pyrosparse.models.likelihoods import classifier, multilabel
from pyrosparse.models.ordinal import ordinal
from pyrosparse.models.regression import counts, heteroscedastic_regressor, regressor

__all__ = [
    "Latent",
    "ModelGuide",
    "around",
    "classifier",
    "counts",
    "distill",
    "distill_language_model",
    "guide_of",
    "heteroscedastic_regressor",
    "language_model",
    "multilabel",
    "ordinal",
    "regressor",
]
