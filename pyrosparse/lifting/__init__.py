"""Lifting: a network as a Pyro model, with a guide."""

from pyrosparse.lifting.lift import Lifted, lift
from pyrosparse.lifting.masks import Masks
from pyrosparse.lifting.method import Method, Posterior, from_pyro
from pyrosparse.lifting.target import Target, gates, inputs, outputs, weights
from pyrosparse.lifting.transformers import ffn, heads

__all__ = [
    "Lifted",
    "Masks",
    "Method",
    "Posterior",
    "Target",
    "ffn",
    "from_pyro",
    "gates",
    "heads",
    "inputs",
    "lift",
    "outputs",
    "weights",
]
