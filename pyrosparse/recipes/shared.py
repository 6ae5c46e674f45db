"""Options that many recipes have, each with a default of its own, and rules for defaults."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pyrosparse.recipes.option import POSITIVE, Rule, option

if TYPE_CHECKING:
    from torch import nn

    from pyrosparse.recipes.split import Split


def epochs(default: Any) -> Any:
    return option(default, "passes over the training data", within="1..")


def batch_size(default: int) -> Any:
    return option(default, "examples in a step", within="1..")


def learning_rate(default: float) -> Any:
    return option(default, "learning rate of Adam, on the weights", within=POSITIVE)


def scale(default: Any) -> Any:
    return option(
        default, "standard deviation of the Gaussian prior on the weights", within=POSITIVE
    )


def _data_by_weights(recipe: Any, net: nn.Module, data: Split) -> float:
    from pyrosparse.lifting.target import weights

    return min(1.0, data.n / sum(math.prod(target.shape) for target in weights(net)))


def kl_scale() -> Any:
    """Where there are more weights than data, their priors would together outweigh the
    likelihood."""
    return option(
        Rule("min(1, data / weights)", _data_by_weights),
        "weight of the weights' KL divergence",
        within="[0, inf)",
    )


def at_least(least: int, steps: int) -> Rule:
    """So many epochs, and more where that makes fewer steps than that.

    >>> at_least(30, 2000)
    30, or more, for at least 2000 steps
    """
    return Rule(
        f"{least}, or more, for at least {steps} steps",
        lambda recipe, net, data: max(least, -(-steps // data.steps(recipe.batch_size))),
    )


def weight_decay(strength: float) -> Rule:
    """The standard deviation of the prior that is such a weight decay, beside the mean loss of n
    data.

    >>> weight_decay(1e-4)
    that of a weight decay of 0.0001
    """
    return Rule(
        f"that of a weight decay of {strength:g}",
        lambda recipe, net, data: (strength * data.n) ** -0.5,
    )
