"""Inference: the training loop with its schedules, callbacks and checkpoints."""

from pyrosparse.infer import schedules
from pyrosparse.infer.alone import RankError
from pyrosparse.infer.callback import Callback, Evaluation
from pyrosparse.infer.iterates import SWAG, KeepDraws
from pyrosparse.infer.last_layer_laplace import LastLayerLaplace
from pyrosparse.infer.loop import fit
from pyrosparse.infer.non_finite import NonFiniteLossError
from pyrosparse.infer.run import Fit
from pyrosparse.infer.scaling import kl_scale
from pyrosparse.infer.sgld import SGLD

__all__ = [
    "SGLD",
    "SWAG",
    "Callback",
    "Evaluation",
    "Fit",
    "KeepDraws",
    "LastLayerLaplace",
    "NonFiniteLossError",
    "RankError",
    "fit",
    "kl_scale",
    "schedules",
]
