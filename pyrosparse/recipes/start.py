"""A start that several recipes share: a network that is trained before they begin."""

from __future__ import annotations

from dataclasses import replace

from pyrosparse.recipes.option import Rule
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.stages import StartsTrained


def begins_trained(recipe: Recipe) -> Recipe:
    """The recipe for a network that is trained already: without pretraining of its own.

    Raises ValueError if it says how long it pretrains, or draws weights anew.

    >>> from pyrosparse.recipes import BetaBernoulli
    >>> begins_trained(BetaBernoulli()).pretrain
    0
    """
    check_keeps_weights(recipe, "the start")
    if not isinstance(recipe, StartsTrained):
        return recipe
    if not isinstance(recipe.pretrain, Rule) and recipe.pretrain:
        raise ValueError(
            f"{recipe.name} would pretrain for {recipe.pretrain} epochs a network that is already "
            "trained: leave out pretrain or the start"
        )
    return replace(recipe, pretrain=0)


def check_keeps_weights(recipe: Recipe, given: str) -> None:
    """Refuse a recipe that would draw anew the weights that were given to it, as what.

    Raises ValueError."""
    if recipe.values().get("initial_scale"):
        raise ValueError(
            f"{recipe.name} would replace trained weights by random ones: leave out initial_scale "
            f"or {given}"
        )
