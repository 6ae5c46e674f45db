"""A network as a function of a tuple of inputs that gives a list of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


class Called(nn.Module):
    """A network whose one input, if it is a mapping, holds keyword arguments.

    Of the results only tensors are returned, in their order: a cache of keys and values is none,
    and has fewer heads than before.

    >>> import torch
    >>> Called(nn.Linear(2, 1))({"input": torch.ones(3, 2)})[0].shape
    torch.Size([3, 1])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Any) -> list[Tensor]:
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return list(tensors_in(self.net(**inputs[0])))
        return list(tensors_in(self.net(*inputs)))


def tensors_in(result: Any) -> Iterator[Tensor]:
    """The tensors in lists, mappings and dataclasses.

    >>> import torch
    >>> [x.item() for x in tensors_in({"a": torch.tensor(1), "b": (torch.tensor(2), None)})]
    [1, 2]
    """
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from tensors_in(value)
    elif isinstance(result, (list, tuple)):
        for value in result:
            yield from tensors_in(value)
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            yield from tensors_in(getattr(result, field.name))
