"""Inference with sparse kernels: one for each layer with zeros, chosen by measurement."""

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
