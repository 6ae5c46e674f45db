"""Sparse Bayesian neural networks on Pyro, PyTorch and ArviZ."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrosparse import (
        data,
        diagnostics,
        distributions,
        evidence,
        infer,
        models,
        networks,
        prediction,
        prune,
        recipes,
        structures,
        supports,
    )
    from pyrosparse.compaction import compact
    from pyrosparse.diagnostics import compare_models, to_datatree
    from pyrosparse.infer import fit  # type: ignore[no-redef]
    from pyrosparse.lifting.lift import Lifted, lift
    from pyrosparse.lifting.masks import Masks
    from pyrosparse.lifting.method import Method, from_pyro
    from pyrosparse.lifting.target import Target, gates, inputs, outputs, weights
    from pyrosparse.lifting.transformers import ffn, heads
    from pyrosparse.measure import report
    from pyrosparse.methods import (
        BetaBernoulli,
        ConcreteDropout,
        DependentBetaBernoulli,
        GammaSpikeAndSlab,
        Gaussian,
        GeneralizedDropout,
        GibbsPruning,
        GroupHorseshoe,
        GroupSpikeAndSlab,
        HardConcrete,
        Horseshoe,
        InformationBottleneck,
        LaplacePrior,
        MovementPruning,
        Polarization,
        SpikeAndSlab,
        StructuredBayesianPruning,
        TargetedDropout,
        VariationalDropout,
        generative,
    )
    from pyrosparse.models import (
        classifier,
        counts,
        distill,
        distill_language_model,
        heteroscedastic_regressor,
        language_model,
        multilabel,
        ordinal,
        regressor,
    )
    from pyrosparse.prediction import conformal, ensemble, predict  # type: ignore[no-redef]
    from pyrosparse.recipes.run import compress
    from pyrosparse.sparse import sparse_inference
    from pyrosparse.storage import export_onnx, load, save  # type: ignore[no-redef]

__version__ = "0.1.0"

__all__ = [
    "BetaBernoulli",
    "ConcreteDropout",
    "DependentBetaBernoulli",
    "GammaSpikeAndSlab",
    "Gaussian",
    "GeneralizedDropout",
    "GibbsPruning",
    "GroupHorseshoe",
    "GroupSpikeAndSlab",
    "HardConcrete",
    "Horseshoe",
    "InformationBottleneck",
    "LaplacePrior",
    "Lifted",
    "Masks",
    "Method",
    "MovementPruning",
    "Polarization",
    "SpikeAndSlab",
    "StructuredBayesianPruning",
    "Target",
    "TargetedDropout",
    "VariationalDropout",
    "captured",
    "classifier",
    "compact",
    "compaction",
    "compare_models",
    "compress",
    "conformal",
    "counts",
    "data",
    "diagnostics",
    "distill",
    "distill_language_model",
    "distributions",
    "ensemble",
    "evidence",
    "export_onnx",
    "ffn",
    "fit",
    "from_pyro",
    "gates",
    "generative",
    "heads",
    "heteroscedastic_regressor",
    "infer",
    "inputs",
    "language_model",
    "lift",
    "load",
    "measure",
    "models",
    "multilabel",
    "networks",
    "ordinal",
    "outputs",
    "plots",
    "predict",
    "prediction",
    "prune",
    "recipes",
    "regressor",
    "report",
    "reports",
    "robustness",
    "save",
    "sparse",
    "sparse_inference",
    "storage",
    "structures",
    "sum_product",
    "supports",
    "to_datatree",
    "weights",
]

# Where each name is; what is not here is a module of the package. Nothing is imported before it is
# asked for: a command line that only prints its help needs neither torch nor Pyro.
_PLACES = {
    "compaction": "compact",
    "diagnostics": "compare_models to_datatree",
    "infer": "fit",
    "lifting": "Lifted Masks Method Target ffn from_pyro gates heads inputs lift outputs weights",
    "measure": "report",
    "methods": "BetaBernoulli ConcreteDropout DependentBetaBernoulli GammaSpikeAndSlab Gaussian "
    "GeneralizedDropout GibbsPruning GroupHorseshoe GroupSpikeAndSlab HardConcrete "
    "Horseshoe InformationBottleneck LaplacePrior MovementPruning Polarization SpikeAndSlab "
    "StructuredBayesianPruning TargetedDropout VariationalDropout generative",
    "models": "classifier counts distill distill_language_model heteroscedastic_regressor "
    "language_model multilabel ordinal regressor",
    "prediction": "conformal ensemble predict",
    "recipes.run": "compress",
    "sparse": "sparse_inference",
    "storage": "export_onnx load save",
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
