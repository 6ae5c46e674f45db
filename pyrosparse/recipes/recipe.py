"""A recipe: what is done to a network from start to end, with its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pyrosparse.recipes.option import Auto, Option, Rule, option, options

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.lifting.lift import Lifted
    from pyrosparse.recipes.job import Job
    from pyrosparse.recipes.split import Split


@dataclass(frozen=True)
class Recipe:
    """The base class of recipes: what is done to a network from start to end. Subclass it, and list
    the class in ``pyrosparse.recipes``.

    Every field is an ``option``. Import torch within methods, so that the command line lists
    recipes quickly.

    name: the recipe's name on the command line, in suites and in results.
    knob: the option that trades size for accuracy, by which runs are named; "" for none.
    unpruned: for recipes that prune during training, the recipe with the same training without
              pruning.
    keeps_more, takes_more: advice if too much, or nothing, was pruned; "" if the user sets the
                            sparsity.
    needs: the package that the recipe needs and that is not installed with pyrosparse, by its name
           on PyPI; "" for none.
    fine_tune: epochs of fine-tuning the remaining weights. ``compress`` does this after ``train``,
               with ``FineTuning``; a recipe that declares this option itself does it in its own
               ``train``.

    Raises ValueError if an option is out of range.
    """

    name: ClassVar[str]
    knob: ClassVar[str] = ""
    unpruned: ClassVar[type[Recipe] | None] = None
    keeps_more: ClassVar[str] = ""
    takes_more: ClassVar[str] = ""
    needs: ClassVar[str] = ""
    fine_tune: Auto[int] = option(
        0, "epochs of fine-tuning: the remaining weights train, zeros stay zero", within="0.."
    )

    def __post_init__(self) -> None:
        for name, one in self.options().items():
            one.check(getattr(self, name))

    @classmethod
    def options(cls) -> Mapping[str, Option]:
        """The options by name."""
        return options(cls)

    @classmethod
    def summary(cls) -> str:
        """What the recipe does, in one line."""
        return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The recipe with those of the values that are its options; None means the default."""
        known = cls.options()
        return cls(**{k: v for k, v in values.items() if k in known and v is not None})

    @classmethod
    def fine_tunes_itself(cls) -> bool:
        """Whether ``train`` does the fine-tuning: True if the class declares ``fine_tune`` itself.

        >>> from pyrosparse.recipes import Magnitude, TurboVBI
        >>> Magnitude.fine_tunes_itself(), TurboVBI.fine_tunes_itself()
        (False, True)
        """
        return cls.__dataclass_fields__["fine_tune"] is not Recipe.__dataclass_fields__["fine_tune"]

    def values(self) -> dict[str, Any]:
        """The options by name, as JSON values; None if the default depends on network and data."""
        found = {name: getattr(self, name) for name in self.options()}
        return {name: None if isinstance(one, Rule) else one for name, one in found.items()}

    def resolve(self, net: nn.Module, data: Split) -> Self:
        """The recipe with numbers for all defaults that depend on the network and the data."""
        recipe = self
        for name in self.options():
            value = getattr(recipe, name)
            if isinstance(value, Rule):
                recipe = replace(recipe, **{name: value.value(recipe, net, data)})
        return recipe

    @property
    def label(self) -> str:
        """Its name, with the options that distinguish it from other runs."""
        return self.name

    @property
    def level(self) -> float | None:
        """The value of the knob; of several by name, the last; None without a knob."""
        value = getattr(self, self.knob) if self.knob else None
        return list(value.values())[-1] if isinstance(value, Mapping) else value

    @property
    def cell(self) -> str:
        """Label and level as names of cells have them, shares in %: ``magnitude-90``."""
        if self.level is None:
            return self.label
        level = 100 * self.level if self.options()[self.knob].share else self.level
        return f"{self.label}-{level:g}"

    def train(self, job: Job) -> Lifted:
        """Train the network of a job; returns it lifted, with what goes frozen at zero."""
        raise NotImplementedError
