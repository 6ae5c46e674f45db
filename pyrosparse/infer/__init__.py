"""Inference: the training loop with its schedules, callbacks and checkpoints."""

from pyrosparse.infer import schedules
from pyrosparse.infer.annealing import Annealing
from pyrosparse.infer.callback import Callback, Evaluation
from pyrosparse.infer.captured import CapturedSVI
from pyrosparse.infer.fit import fit
from pyrosparse.infer.kl_scale import kl_scale
from pyrosparse.infer.non_finite import NonFiniteLossError
from pyrosparse.infer.run import Fit
from pyrosparse.infer.turbo import Exchange, Turbo, TurboVBI
from pyrosparse.sum_product import (
    LoopyRegimeWarning,
    Messages,
    sum_product,
    sum_product_messages,
    tree_sum_product,
)

__all__ = [
    "Annealing",
    "Callback",
    "CapturedSVI",
    "Evaluation",
    "Exchange",
    "Fit",
    "LoopyRegimeWarning",
    "Messages",
    "NonFiniteLossError",
    "Turbo",
    "TurboVBI",
    "fit",
    "kl_scale",
    "schedules",
    "sum_product",
    "sum_product_messages",
    "tree_sum_product",
]
