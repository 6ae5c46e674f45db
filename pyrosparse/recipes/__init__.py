"""Recipes: what papers do with a method to a network, from start to end.

A recipe is a frozen dataclass of options; ``pyrosparse.compress(net, data, recipe)`` runs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyrosparse.recipes.evidence import MeanField, ModelReduction
from pyrosparse.recipes.fine_tuning import FineTuning
from pyrosparse.recipes.gates import BetaBernoulli, DependentBetaBernoulli
from pyrosparse.recipes.gibbs import Gibbs, Reinitialised
from pyrosparse.recipes.information_bottleneck import InformationBottleneck
from pyrosparse.recipes.iterative import Han, L1Norm
from pyrosparse.recipes.laplace import Laplace
from pyrosparse.recipes.learned_dropout import (
    ConcreteDropout,
    GeneralizedDropout,
    HardConcrete,
    StructuredBayesianPruning,
)
from pyrosparse.recipes.lottery import Lottery
from pyrosparse.recipes.masks import (
    Cut,
    Dense,
    GradualMagnitude,
    OneShot,
    OneShotRecalibrated,
    RandomMask,
)
from pyrosparse.recipes.movement import Movement
from pyrosparse.recipes.nuts import Nuts
from pyrosparse.recipes.option import Auto, Rule, option
from pyrosparse.recipes.peers import TorchPruningMagnitude, TorchPruningTaylor
from pyrosparse.recipes.pruning import (
    BayesianMagnitude,
    BayesianRandom,
    Magnitude,
    NoPruning,
    Random,
)
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.references import DeepEnsemble, Langevin, LastLayerLaplace, Swag
from pyrosparse.recipes.selection import GroupHorseshoe, Polarization, SpikeAndSlab
from pyrosparse.recipes.snip import Snip
from pyrosparse.recipes.stages import Pretraining, StartsTrained
from pyrosparse.recipes.targeted import TargetedDropout
from pyrosparse.recipes.thinet import ThiNet
from pyrosparse.recipes.turbo import IndependentSupport, TurboVBI
from pyrosparse.recipes.units_first import TurboUnitsFirst
from pyrosparse.recipes.variational_dropout import GroupVariationalDropout, VariationalDropout
from pyrosparse.util.errors import unknown_name

if TYPE_CHECKING:
    from pyrosparse.recipes.compaction import Compaction
    from pyrosparse.recipes.job import Job, Stage
    from pyrosparse.recipes.result import Result
    from pyrosparse.recipes.split import Split

RECIPES: tuple[type[Recipe], ...] = (
    BetaBernoulli,
    DependentBetaBernoulli,
    TurboVBI,
    TurboUnitsFirst,
    IndependentSupport,
    Gibbs,
    Dense,
    RandomMask,
    Reinitialised,
    Cut,
    GradualMagnitude,
    OneShot,
    OneShotRecalibrated,
    NoPruning,
    Random,
    Magnitude,
    BayesianRandom,
    BayesianMagnitude,
    MeanField,
    ModelReduction,
    Snip,
    Han,
    Lottery,
    L1Norm,
    ThiNet,
    TargetedDropout,
    Movement,
    VariationalDropout,
    GroupVariationalDropout,
    InformationBottleneck,
    StructuredBayesianPruning,
    HardConcrete,
    GeneralizedDropout,
    ConcreteDropout,
    Laplace,
    Polarization,
    GroupHorseshoe,
    SpikeAndSlab,
)
"""All recipes; the first is the default."""

PEERS: tuple[type[Recipe], ...] = (TorchPruningMagnitude, TorchPruningTaylor)
"""What other packages do, for ``compress`` and suites; each ``needs`` its package."""

REFERENCES: tuple[type[Recipe], ...] = (Nuts, DeepEnsemble, Swag, Langevin, LastLayerLaplace)
"""What takes nothing away and approximations are compared with, for ``compress`` and suites."""

__all__ = [
    "PEERS",
    "RECIPES",
    "REFERENCES",
    "Auto",
    "BayesianMagnitude",
    "BayesianRandom",
    "BetaBernoulli",
    "Compaction",
    "ConcreteDropout",
    "Cut",
    "DeepEnsemble",
    "Dense",
    "DependentBetaBernoulli",
    "FineTuning",
    "GeneralizedDropout",
    "Gibbs",
    "GradualMagnitude",
    "GroupHorseshoe",
    "GroupVariationalDropout",
    "Han",
    "HardConcrete",
    "IndependentSupport",
    "InformationBottleneck",
    "Job",
    "L1Norm",
    "Langevin",
    "Laplace",
    "LastLayerLaplace",
    "Lottery",
    "Magnitude",
    "MeanField",
    "ModelReduction",
    "Movement",
    "NoPruning",
    "Nuts",
    "OneShot",
    "OneShotRecalibrated",
    "Polarization",
    "Pretraining",
    "Random",
    "RandomMask",
    "Recipe",
    "Reinitialised",
    "Result",
    "Rule",
    "Snip",
    "SpikeAndSlab",
    "Split",
    "Stage",
    "StartsTrained",
    "StructuredBayesianPruning",
    "Swag",
    "TargetedDropout",
    "ThiNet",
    "TorchPruningMagnitude",
    "TorchPruningTaylor",
    "TurboUnitsFirst",
    "TurboVBI",
    "VariationalDropout",
    "find",
    "names",
    "option",
]

_LATER = {"Compaction": "compaction", "Job": "job", "Result": "result", "Split": "split"}
_LATER["Stage"] = "job"


def names() -> tuple[str, ...]:
    """The names of all recipes; the first is the default.

    >>> names()[:3]
    ('beta-bernoulli', 'dependent-beta-bernoulli', 'turbo-vbi')
    """
    return tuple(recipe.name for recipe in RECIPES)


def find(name: str) -> type[Recipe]:
    """The class of a recipe by its name.

    Raises ValueError, with the nearest name, if there is none.

    >>> find("gibbs")().level
    0.9
    """
    for recipe in (*RECIPES, *PEERS, *REFERENCES):
        if recipe.name == name:
            return recipe
    raise unknown_name("recipe", name, names())


def __getattr__(name: str) -> Any:
    # What needs torch is loaded when it is asked for.
    if name in _LATER:
        return getattr(import_module(f"pyrosparse.recipes.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
