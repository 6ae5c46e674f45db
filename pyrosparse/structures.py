"""Structures: which elements of a weight go together.

A structure is one of these, for a weight of shape (outputs, inputs, ...) as dense layers and
convolutions have it:

=============  =================================================================  ===============
``weight``     each element alone                                                 any shape
``kernel``     the k x k elements between an input and an output                  convolutions
``filter``     an output: all elements that lead to it                            any shape
``channel``    an input: all elements that read it                                2 dimensions on
``n:m``        of every m consecutive inputs n are kept, such as ``2:4``          2 dimensions on
a function     arranges a tensor of the weight's shape as (blocks, n); it may     any shape
               only move elements
=============  =================================================================  ===============

Weights of transposed convolutions and of Hugging Face's ``Conv1D`` have the inputs first: for them,
exchange ``filter`` and ``channel``. Weights of grouped convolutions have the inputs of one group:
a ``channel`` is then one input of each group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Structure = str | Callable[[Tensor], Tensor]

NAMES = ("weight", "kernel", "filter", "channel")


def check(structure: Structure) -> None:
    """Refuse anything that is not a structure.

    Raises ValueError.

    >>> check("2:4")
    """
    if callable(structure) or structure in NAMES or ratio(structure) is not None:
        return
    raise ValueError(
        "structure must be 'weight', 'kernel', 'filter', 'channel', 'n:m' such as '2:4', or a "
        f"function, got {structure!r}"
    )


def ratio(structure: Structure) -> tuple[int, int] | None:
    """n and m of a structure ``n:m``; None for any other.

    Raises ValueError unless 0 < n < m.

    >>> ratio("2:4"), ratio("kernel")
    ((2, 4), None)
    """
    found = re.fullmatch(r"(\d+):(\d+)", structure) if isinstance(structure, str) else None
    if found is None:
        return None
    n, m = int(found[1]), int(found[2])
    if not 0 < n < m:
        raise ValueError(f"n:m keeps n of every m inputs, 0 < n < m, got {structure!r}")
    return n, m


def blocks(tensor: Tensor, structure: Structure) -> Tensor:
    """A tensor of a weight's shape as (blocks, n); single weights stay as they are.

    For ``n:m`` a block is a group of m consecutive inputs, at one output and one position of the
    kernel.

    Raises ValueError if the shape has no such blocks.

    >>> blocks(torch.arange(8).view(2, 4), "2:4")
    tensor([[0, 1, 2, 3],
            [4, 5, 6, 7]])
    >>> blocks(torch.arange(4).view(2, 2), "channel")
    tensor([[0, 2],
            [1, 3]])
    """
    if structure == "weight":
        return tensor
    if structure == "filter":
        return tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1)
    if structure == "kernel":
        if tensor.dim() < 3:
            raise ValueError(
                f"a weight of shape {tuple(tensor.shape)} has no kernels: structure='kernel' "
                "is for convolutions; use 'weight' or 'filter', or choose targets with `on`"
            )
        return tensor.flatten(2).flatten(0, 1)
    if callable(structure):
        return _by_function(tensor, structure)
    if tensor.dim() < 2:
        raise ValueError(
            f"a weight of shape {tuple(tensor.shape)} has no dimension of inputs for "
            f"structure={structure!r}: use 'weight' or 'filter', or choose targets with `on`"
        )
    if structure == "channel":
        return tensor.transpose(0, 1).flatten(1)
    found = ratio(structure)
    if found is None:
        check(structure)
    _, m = found  # type: ignore[misc]
    if tensor.shape[1] % m:
        raise ValueError(
            f"a weight of shape {tuple(tensor.shape)} has {tensor.shape[1]} inputs, which cannot "
            f"be divided into groups of {m} for structure={structure!r}: leave this weight out, "
            "with `on`"
        )
    return tensor.movedim(1, -1).reshape(-1, m)


def unblocked(values: Tensor, structure: Structure, shape: Sequence[int]) -> Tensor:
    """Values in the arrangement of ``blocks``, back in the shape of the weight.

    >>> unblocked(torch.tensor([[0, 2], [1, 3]]), "channel", (2, 2))
    tensor([[0, 1],
            [2, 3]])
    """
    if callable(structure):
        places = torch.arange(math.prod(shape), device=values.device).view(shape)
        result = torch.empty_like(values.flatten())
        result[structure(places).flatten()] = values.flatten()
        return result.view(shape)
    if structure == "channel":
        return values.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)
    if ratio(structure) is not None:
        return values.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return values.reshape(shape)


def means(tensor: Tensor, structure: Structure) -> Tensor:
    """The mean of each block, (blocks, 1). For single weights and for ``n:m``, whose weights are
    ranked one by one, the result is that of ``blocks``.

    >>> means(torch.tensor([[1.0, 3.0], [5.0, 5.0]]), "filter")
    tensor([[2.],
            [5.]])
    """
    arranged = blocks(tensor, structure)
    single = structure == "weight" or ratio(structure) is not None
    return arranged if single else arranged.mean(1, keepdim=True)


def spread(values: Tensor, structure: Structure, shape: Sequence[int]) -> Tensor:
    """One value for each block, as ``means`` returns them, repeated for all its elements, in the
    shape of the weight.

    >>> spread(torch.tensor([[2.0], [5.0]]), "filter", (2, 2))
    tensor([[2., 2.],
            [5., 5.]])
    """
    if values.numel() != math.prod(shape):
        values = values.expand(-1, math.prod(shape) // len(values))
    return unblocked(values, structure, shape)


def largest(scores: Tensor, structure: str) -> Tensor:
    """The boolean mask of the n largest scores of every m consecutive inputs, exactly n (ties by
    position).

    scores:    of a weight's shape, free of NaN.
    structure: ``n:m``.

    Raises ValueError if the number of inputs is not a multiple of m.

    >>> largest(torch.tensor([[0.1, 3.0, 2.0, 1.0]]), "2:4")
    tensor([[False,  True,  True, False]])
    """
    found = ratio(structure)
    if found is None:
        raise ValueError(f"structure must be 'n:m', such as '2:4', got {structure!r}")
    arranged = blocks(scores, structure)
    on = arranged.topk(found[0], 1).indices
    kept = torch.zeros_like(arranged, dtype=torch.bool).scatter(1, on, True)
    return unblocked(kept, structure, scores.shape)


def _by_function(tensor: Tensor, structure: Callable[[Tensor], Tensor]) -> Tensor:
    arranged = structure(tensor)
    if arranged.dim() != 2 or arranged.numel() != tensor.numel():
        raise ValueError(
            f"the structure must arrange the {tensor.numel()} elements of a tensor of shape "
            f"{tuple(tensor.shape)} as (blocks, n), but gave {tuple(arranged.shape)}"
        )
    return arranged
