"""Inference with the zeros that are left: a kernel for each layer, chosen by measurement."""

from pyrosparse.sparse.acceleration import Acceleration, acceleration
from pyrosparse.sparse.choices import Choice, Choices
from pyrosparse.sparse.inference import sparse_inference

__all__ = [
    "Acceleration",
    "Choice",
    "Choices",
    "acceleration",
    "sparse_inference",
]
