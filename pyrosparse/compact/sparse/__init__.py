"""Inference with what zeros are left: a kernel for each layer, chosen by measurement."""

from pyrosparse.compact.sparse.choices import Choice, Choices
from pyrosparse.compact.sparse.inference import sparse_inference

__all__ = ["Choice", "Choices", "sparse_inference"]
