"""Sparse Bayesian neural networks on Pyro, PyTorch and ArviZ."""

from pyrosparse import data, distributions, evidence, infer, networks, prune
from pyrosparse.compact import compact, export_onnx, load, report, save
from pyrosparse.distill import distill
from pyrosparse.infer import fit
from pyrosparse.lift import Lifted, lift
from pyrosparse.masks import Masks
from pyrosparse.method import Method, from_pyro
from pyrosparse.methods import BetaBernoulli, DependentBetaBernoulli, Gaussian, Gibbs, Horseshoe
from pyrosparse.models import classifier, regressor
from pyrosparse.target import Target, gates, inputs, outputs, weights

__version__ = "0.1.0"

__all__ = [
    "BetaBernoulli",
    "DependentBetaBernoulli",
    "Gaussian",
    "Gibbs",
    "Horseshoe",
    "Lifted",
    "Masks",
    "Method",
    "Target",
    "classifier",
    "compact",
    "data",
    "distill",
    "distributions",
    "evidence",
    "export_onnx",
    "fit",
    "from_pyro",
    "gates",
    "infer",
    "inputs",
    "lift",
    "load",
    "networks",
    "outputs",
    "prune",
    "regressor",
    "report",
    "save",
    "weights",
]
