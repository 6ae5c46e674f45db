"""Criteria: which weights go at a wanted sparsity."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pyrosparse.lifting.masks import Masks
from pyrosparse.prune.keep import Scope, keep_largest, refuse_nan
from pyrosparse.prune.movement import Movement
from pyrosparse.prune.run_criterion import RunCriterion
from pyrosparse.prune.snip import Snip
from pyrosparse.structures import Structure, means, spread
from pyrosparse.util.errors import unknown_name

WeightCriterion = Callable[[Mapping[str, Tensor], float, torch.Generator], Masks]
Criterion = WeightCriterion | RunCriterion


def magnitude(
    weights: Mapping[str, Tensor],
    sparsity: float,
    generator: torch.Generator | None = None,
    *,
    scope: Scope = "tensor",
    at_least: int = 1,
    structure: Structure = "weight",
) -> Masks:
    """Masks that prune the weights of smallest magnitude, or the blocks of smallest l1 norm.

    weights: by name, floating point, any shapes.
    sparsity, scope, at_least, structure: as for ``keep_largest``.

    Returns boolean masks of the same shapes. Raises ValueError as ``keep_largest``.

    Source: Mathew and Rowe (2023), Algorithm 3 (``tensor``); Li et al. (2017) for the l1 norm of
    filters.

    >>> import torch
    >>> magnitude({"w": torch.tensor([0.3, -2.0, 0.1, 1.0])}, 0.5)["w"]
    tensor([False,  True, False,  True])
    """
    scores = {name: weight.detach().abs() for name, weight in weights.items()}
    return keep_largest(scores, sparsity, scope=scope, at_least=at_least, structure=structure)


def random_masks(
    weights: Mapping[str, Tensor],
    sparsity: float,
    generator: torch.Generator | None = None,
    *,
    scope: Scope = "tensor",
    at_least: int = 1,
    structure: Structure = "weight",
) -> Masks:
    """Masks that prune round(n sparsity) of n weights at random, first those that are already zero.

    Arguments, result and errors as for ``magnitude``. A block counts as zero if all its weights are
    zero.

    generator: a CPU generator; torch's global one by default.

    Source: Mathew and Rowe (2023), Algorithm 2 (``tensor``).

    >>> import torch
    >>> masks = random_masks({"w": torch.tensor([0.0, 1.0, 2.0, 0.0])}, 0.75)
    >>> int(masks["w"].sum()), bool(masks["w"][0])
    (1, False)
    """
    scores = {}
    for name, weight in weights.items():
        refuse_nan(name, weight)
        left = means((weight.detach() != 0).double(), structure) > 0
        # Uniform scores in (0, 1], so that a uniformly random subset of the non-zero ones stays.
        uniform = 1 - torch.rand(left.shape, generator=generator, dtype=torch.float64)
        score = torch.where(left, uniform.to(weight.device), 0.0)
        # The sum over a block is its score.
        score = score * (score.numel() / weight.numel())
        scores[name] = spread(score, structure, tuple(weight.shape))
    return keep_largest(scores, sparsity, scope=scope, at_least=at_least, structure=structure)


CRITERIA: dict[str, Callable[[], Criterion]] = {
    "magnitude": lambda: magnitude,
    "random": lambda: random_masks,
    "snip": Snip,
    "movement": Movement,
}


def criterion(name_or_function: str | Criterion) -> Criterion:
    """The criterion of a name, or the given one.

    Raises ValueError on an unknown name.

    >>> criterion("random") is random_masks
    True
    """
    if not isinstance(name_or_function, str):
        return name_or_function
    if name_or_function not in CRITERIA:
        raise unknown_name("criterion", name_or_function, CRITERIA)
    return CRITERIA[name_or_function]()
