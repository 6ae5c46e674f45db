"""Inference: the training loop with its schedules, callbacks and checkpoints."""

from pyrosparse.infer import schedules
from pyrosparse.infer.annealing import Annealing
from pyrosparse.infer.callback import Callback, Evaluation
from pyrosparse.infer.captured import CapturedSVI
from pyrosparse.infer.fit import fit
from pyrosparse.infer.kl_scale import kl_scale
from pyrosparse.infer.non_finite import NonFiniteLossError
from pyrosparse.infer.run import Fit

__all__ = [
    "Annealing",
    "Callback",
    "CapturedSVI",
    "Evaluation",
    "Fit",
    "NonFiniteLossError",
    "fit",
    "kl_scale",
    "schedules",
]
