"""Distributions that Pyro lacks, written for the shapes and magnitudes of network weights."""

from pyrosparse.distributions.isotropic_normal import IsotropicNormal
from pyrosparse.distributions.point import Point

__all__ = ["IsotropicNormal", "Point"]
