"""How networks are called with batches: several inputs, inputs by name, outputs by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrosparse.lifting.particles import leading_dimension
from pyrosparse.util.arguments import arguments
from pyrosparse.util.errors import UsageError

LABELS = ("y", "labels", "label")
"""The names that labels may have in data by name."""


def with_labels(named: Mapping[str, Any], network: Callable[..., Any]) -> tuple[Any, ...]:
    """The positional arguments of a network from arguments by name, followed by the labels, or None
    without labels.

    If ``x`` is the only input, it is the network's first argument, whatever its name there.

    Raises TypeError if the network has no argument of that name.

    >>> with_labels({"labels": 3, "mask": 2, "ids": 1}, lambda ids, past=None, mask=None: None)
    (1, None, 2, 3)
    """
    inputs = {name: value for name, value in named.items() if name not in LABELS}
    labels = [named[name] for name in LABELS if name in named]
    if len(labels) > 1:
        raise UsageError(
            f"the data have labels twice: {', '.join(n for n in LABELS if n in named)}"
        )
    positional = tuple(inputs.values()) if list(inputs) == ["x"] else arguments(inputs, network)
    return (*positional, labels[0] if labels else None)


class Called:
    """A network whose batches are its inputs and the labels, for data by name.

    >>> Called(lambda ids, mask=None: None).from_names({"ids": 1, "labels": 3})
    (1, 3)
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        self.network = network

    def __call__(self, *inputs: Any) -> Any:
        return self.network(*inputs)

    def from_names(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The inputs and the labels from a dict."""
        return with_labels(named, self.network)


def takes_labels_last(model: Callable[..., Any]) -> bool:
    """Whether a model takes any number of inputs followed by the labels, as ``classifier`` does.

    >>> import pyrosparse as ps
    >>> net = torch.nn.Linear(4, 3)
    >>> takes_labels_last(ps.classifier(net, 10)), takes_labels_last(net)
    (True, False)
    """
    function = model.forward if isinstance(model, torch.nn.Module) else model
    kinds = {one.name: one.kind for one in inspect.signature(function).parameters.values()}
    return (
        inspect.Parameter.VAR_POSITIONAL in kinds.values()
        and kinds.get("y") is inspect.Parameter.KEYWORD_ONLY
    )


def separated(x: Any, more: Sequence[Any], y: Tensor | None) -> tuple[tuple[Any, ...], Any]:
    """The inputs and the labels of a batch: of two arguments or more, the last is the labels.

    >>> separated("x", ["mask", "y"], None), separated("x", [], None)
    ((('x', 'mask'), 'y'), (('x',), None))
    """
    if y is not None or not more:
        return (x, *more), y
    return (x, *more[:-1]), more[-1]


def named_output(result: Any, output: str | None) -> Tensor:
    """The tensor that a network returns, or the named one in the mapping or object that it returns.

    Raises TypeError if there is none; the message lists the names that exist.

    >>> named_output({"logits": Tensor([1.0])}, "logits")
    tensor([1.])
    """
    if output is None:
        found = result
    elif isinstance(result, Mapping):
        found = result.get(output)
    else:
        found = getattr(result, output, None)
    if isinstance(found, Tensor):
        return found
    kind, names = type(result).__name__, tensor_names(result)
    if isinstance(result, Tensor):
        raise UsageError(f"the network returns a single tensor: leave output={output!r} out")
    if output is None:
        raise UsageError(
            f"the network gives no tensor but {kind}"
            f"{' with ' + ', '.join(names) if names else ''}: name the tensor, "
            f"output={names[0] if names else 'logits'!r}"
        )
    raise UsageError(
        f"the network returns {kind}, which has no tensor {output!r}; it has: "
        f"{', '.join(names) or 'none'}"
    )


def called(
    network: Callable[..., Any], inputs: Sequence[Any], output: str | None = None
) -> tuple[Tensor, int]:
    """The tensor that a network returns, or the named one in its output, and the number of its
    dimensions in front of those that the network gives: 1 where it is lifted and draws many
    particles at once, otherwise 0.

    Raises TypeError as ``named_output`` does.

    >>> called(torch.nn.Linear(2, 1), [torch.ones(3, 2)])[1]
    0
    """
    with leading_dimension() as leading:
        result = network(*inputs)
    return named_output(result, output), leading.count


def tensor_names(result: Any) -> list[str]:
    """The names of the tensors in a mapping or object that a network returns.

    >>> tensor_names({"loss": None, "logits": Tensor([1.0])})
    ['logits']
    """
    if isinstance(result, Mapping):
        return [str(name) for name, value in result.items() if isinstance(value, Tensor)]
    own = getattr(result, "_fields", None) or getattr(result, "__dict__", {})
    return [name for name in own if isinstance(getattr(result, name), Tensor)]
