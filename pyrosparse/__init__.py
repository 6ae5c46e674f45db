"""Sparse Bayesian neural networks on Pyro, PyTorch and ArviZ."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrosparse import (
        assess,
        data,
        diagnostics,
        distributions,
        evidence,
        infer,
        networks,
        prune,
        recipes,
        supports,
    )
    from pyrosparse.compact import compact, export_onnx, load, report, save, sparse_inference  # type: ignore[no-redef]
    from pyrosparse.diagnostics import compare_models, to_datatree
    from pyrosparse.distill import distill
    from pyrosparse.infer import fit  # type: ignore[no-redef]
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
    from pyrosparse.recipes.run import compress
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
    "SupportMRF",
    "Target",
    "assess",
    "classifier",
    "compact",
    "compare_models",
    "compress",
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
    "recipes",
    "regressor",
    "report",
    "save",
    "sparse_inference",
    "supports",
    "to_datatree",
    "weights",
]

# Where each name is; what is not here is a module of the package. Nothing is imported before it is
# asked for: a command line that only prints its help needs neither torch nor Pyro.
_PLACES = {
    "compact": "compact export_onnx load report save sparse_inference",
    "diagnostics": "compare_models to_datatree",
    "distill": "distill",
    "infer": "fit",
    "lift": "Lifted lift",
    "masks": "Masks",
    "method": "Method from_pyro",
    "methods": "BetaBernoulli DependentBetaBernoulli Gaussian Gibbs Horseshoe SupportMRF "
    "generative",
    "models": "classifier regressor",
    "recipes.run": "compress",
    "target": "Target gates inputs outputs weights",
}
_PLACE = {name: place for place, names in _PLACES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _PLACE:
        return import_module(f"pyrosparse.{name}")
    value = getattr(import_module(f"pyrosparse.{_PLACE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A package in which ``compact``, ``distill`` and ``lift`` are the functions, and not the
    modules of that name that they are in."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PLACE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
