"""Sparse Bayesian neural networks on Pyro, PyTorch and ArviZ."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyrosparse import (
    data,
    diagnostics,
    distributions,
    evidence,
    infer,
    networks,
    prune,
    supports,
)
from pyrosparse.compact import compact, export_onnx, load, report, save, sparse_inference
from pyrosparse.diagnostics import compare_models, to_datatree
from pyrosparse.distill import distill
from pyrosparse.infer import fit
from pyrosparse.lift import Lifted, lift
from pyrosparse.masks import Masks
from pyrosparse.method import Method, from_pyro
from pyrosparse.methods import (
    BetaBernoulli,
    DependentBetaBernoulli,
    Gaussian,
    Gibbs,
    Horseshoe,
    SupportMRF,
    generative,
)
from pyrosparse.models import classifier, regressor
from pyrosparse.target import Target, gates, inputs, outputs, weights

if TYPE_CHECKING:
    from pyrosparse import assess

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
    "SupportMRF",
    "Target",
    "assess",
    "classifier",
    "compact",
    "compare_models",
    "data",
    "diagnostics",
    "distill",
    "distributions",
    "evidence",
    "export_onnx",
    "fit",
    "from_pyro",
    "gates",
    "generative",
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
    "sparse_inference",
    "supports",
    "to_datatree",
    "weights",
]


def __getattr__(name: str) -> Any:
    # It draws: matplotlib is loaded when it is asked for, and not by every import.
    if name == "assess":
        return import_module("pyrosparse.assess")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
