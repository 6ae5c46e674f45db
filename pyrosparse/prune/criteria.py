"""Criteria: which weights go at a wanted sparsity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from pyrosparse.lifting.masks import Masks, largest
from pyrosparse.util.errors import unknown_name

Criterion = Callable[[Mapping[str, Tensor], float, torch.Generator], Masks]
Scope = Literal["tensor", "global"]


def magnitude(
    weights: Mapping[str, Tensor],
    sparsity: float,
    generator: torch.Generator | None = None,
    *,
    scope: Scope = "tensor",
    at_least: int = 1,
) -> Masks:
    """Remove the weights of smallest magnitude: of n elements, round(n sparsity).

    weights:  by name, floating point, any shapes.
    sparsity: the fraction that goes, in [0, 1).
    scope:    the fraction of each tensor, or of all together (``global``).
    at_least: each tensor keeps so many in any case, so that none is emptied.

    Returns boolean masks of the same shapes. Raises ValueError on a sparsity outside [0, 1) and on
    NaN weights.

    Source: Mathew and Rowe (2023), Algorithm 3 (``tensor``).

    >>> import torch
    >>> magnitude({"w": torch.tensor([0.3, -2.0, 0.1, 1.0])}, 0.5)["w"]
    tensor([False,  True, False,  True])
    """
    return _keep_largest(
        {n: w.detach().abs() for n, w in weights.items()}, sparsity, scope, at_least
    )


def random(
    weights: Mapping[str, Tensor],
    sparsity: float,
    generator: torch.Generator | None = None,
    *,
    scope: Scope = "tensor",
    at_least: int = 1,
) -> Masks:
    """Remove weights at random, those that are zero already first: of n, round(n sparsity).

    Arguments, result and errors as for ``magnitude``.

    generator: a CPU generator; torch's global one by default.

    Source: Mathew and Rowe (2023), Algorithm 2 (``tensor``).

    >>> import torch
    >>> masks = random({"w": torch.tensor([0.0, 1.0, 2.0, 0.0])}, 0.75)
    >>> int(masks["w"].sum()), bool(masks["w"][0])
    (1, False)
    """
    scores = {}
    for name, weight in weights.items():
        # Uniform scores in (0, 1], so that a uniformly random subset of the non-zero ones stays.
        uniform = 1 - torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        scores[name] = torch.where(weight.detach() == 0, 0.0, uniform.to(weight.device))
        _refuse_nan(name, weight)
    return _keep_largest(scores, sparsity, scope, at_least)


CRITERIA: dict[str, Criterion] = {"magnitude": magnitude, "random": random}


def criterion(name_or_function: str | Criterion) -> Criterion:
    """The criterion of a name, or the given function.

    Raises ValueError on an unknown name.

    >>> criterion("random") is random
    True
    """
    if callable(name_or_function):
        return name_or_function
    if name_or_function not in CRITERIA:
        raise unknown_name("criterion", name_or_function, CRITERIA)
    return CRITERIA[name_or_function]


def _keep_largest(
    scores: Mapping[str, Tensor], sparsity: float, scope: Scope, at_least: int
) -> Masks:
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    if scope not in ("tensor", "global"):
        raise ValueError(f"scope must be 'tensor' or 'global', got {scope!r}")
    for name, score in scores.items():
        _refuse_nan(name, score)
    if scope == "global":
        flat = torch.cat([score.flatten() for score in scores.values()])
        together = largest(flat, flat.numel() - round(flat.numel() * sparsity))
        parts = together.split([score.numel() for score in scores.values()])
        masks = Masks(
            {n: part.view(scores[n].shape) for n, part in zip(scores, parts, strict=True)}
        )
    else:
        masks = Masks(
            {n: largest(s, s.numel() - round(s.numel() * sparsity)) for n, s in scores.items()}
        )
    for name, mask in masks.items():
        if int(mask.count_nonzero()) < at_least:
            masks[name] = largest(scores[name], at_least)
    return masks


def _refuse_nan(name: str, tensor: Tensor) -> None:
    if tensor.isnan().any():
        raise ValueError(
            f"{int(tensor.isnan().sum())} elements of {name!r} are NaN: nothing to rank"
        )
