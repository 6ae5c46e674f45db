"""The variables of a tree: a few numbers for each layer, gates, biases, and weights on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrosparse.lifting.guide import Entry
from pyrosparse.lifting.lift import Lifted
from pyrosparse.lifting.target import locate
from pyrosparse.util.errors import unknown_name

_SIDES = ("unit", "input", "row", "column", "depth")


def selected(sites: Mapping[str, Tensor], names: Sequence[str]) -> list[str]:
    """The sites that a tree contains whole: those of at most one dimension (gates, biases, scales
    shared by a layer), and those that a glob of ``names`` matches.

    Raises ValueError, with the nearest site, if a glob matches none.

    >>> sites = {"fc1.weight": torch.ones(3, 2), "fc1.bias": torch.ones(3)}
    >>> selected(sites, []), selected(sites, ["*.weight"])
    (['fc1.bias'], ['fc1.weight', 'fc1.bias'])
    """
    for pattern in names:
        if not any(fnmatchcase(site, pattern) for site in sites):
            raise unknown_name("site", pattern, sites)
    return [
        site
        for site, value in sites.items()
        if value.dim() <= 1 or any(fnmatchcase(site, pattern) for pattern in names)
    ]


def dims(name: str, shape: Sequence[int]) -> list[str]:
    """The names of a weight's dimensions, different from those of all other variables.

    >>> dims("fc1.weight", (3, 2))
    ['fc1.weight_unit', 'fc1.weight_input']
    """
    sides = [*_SIDES, *(f"side_{number}" for number in range(len(_SIDES), len(shape)))]
    return [f"{name}_{side}" for side in sides[: len(shape)]]


@contextmanager
def used_weights(bnn: Lifted) -> Iterator[dict[str, Tensor]]:
    """For a block, record the weights with which a lifted network computes: after masks, and after
    all other changes that its methods make to a draw.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> with used_weights(bnn) as used:
    ...     _ = bnn(torch.ones(1, 4))
    >>> used["weight"].shape
    torch.Size([3, 4])
    """
    found: dict[str, Tensor] = {}

    def note(entry: Entry, leaf: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            found[entry.target.site] = getattr(module, leaf).detach()

        return hook

    with ExitStack() as stack:
        for entry in bnn.guide.entries:
            if entry.target.kind == "weight":
                owner, leaf = locate(bnn.net, entry.target.name)
                stack.enter_context(owner.register_forward_pre_hook(note(entry, leaf)))
        yield found


def layer_numbers(used: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The Euclidean norm of each layer's weights and the share of them that is not zero, as
    ``norm`` and ``active``, (layers,).

    >>> layer_numbers({"fc1.weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]])})
    {'norm': tensor([5.]), 'active': tensor([0.5000])}
    """
    if not used:
        return {}
    return {
        "norm": torch.stack(
            [(weight.float() if _is_half(weight) else weight).norm() for weight in used.values()]
        ),
        "active": torch.stack([(weight != 0).float().mean() for weight in used.values()]),
    }


def guide_tensors(
    bnn: Lifted, parameters: Mapping[str, Tensor] | None = None, *, own: bool = True
) -> dict[str, Tensor]:
    """The tensors of a guide, and the network's parameters outside the guide, by name.

    Logarithms of scales are returned as scales. ``mask`` is True for elements that are not frozen
    at zero.

    parameters: the parameters, by Pyro's names, of a guide that is not the network's own.
    own:        whether that guide calls the network's own, whose tensors are then included.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> sorted(guide_tensors(bnn))
    ['bias', 'weight.loc', 'weight.mask', 'weight.scale']
    """
    found = {}
    for entry in bnn.guide.entries:
        for name, tensor in entry.posterior().items() if own else ():
            name = name.removeprefix("_")
            if name.endswith("log_scale"):
                name, tensor = name.removesuffix("log_scale") + "scale", tensor.exp()
            found[f"{entry.target.site}.{name}"] = tensor.detach()
        found[f"{entry.target.site}.mask"] = entry.mask
    drawn = {entry.target.name for entry in bnn.guide.entries if entry.target.kind == "weight"}
    for name, parameter in bnn.net.named_parameters():
        if name not in drawn:
            found[f"{bnn._site_prefix}{name}"] = parameter.detach()
    announced = {f"net.{name}" for name, _ in bnn.net.named_parameters()}
    announced |= {name for entry in bnn.guide.entries for name, *_ in entry.parameters}
    for name, value in (parameters or {}).items():
        if name.removeprefix(bnn._site_prefix) not in announced:
            found[name] = value.detach()
    return found


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor as an array; half precision becomes float32, as numpy has no bfloat16.

    >>> as_array(torch.ones(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    tensor = tensor.detach().cpu()
    return (tensor.float() if _is_half(tensor) else tensor).numpy()


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.bfloat16, torch.float16)
