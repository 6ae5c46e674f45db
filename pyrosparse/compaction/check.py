"""The final check of a compaction: do both networks compute the same?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from pyrosparse.compaction.other_sizes import other_sizes
from pyrosparse.util.modes import forget

Network = TypeVar("Network", bound=nn.Module)
SMALLEST = 1e-3  # differences are divided by the largest output or, if larger, by this
OTHERS = 7_348_201
"""The seed of inputs beside the example. An example may have been drawn with a common seed, and the
others would be the same: what is constant on it would then count as constant on all."""


class CompactionError(RuntimeError):
    """A compact network does not compute what the masked network does: a defect of pyrosparse."""


class SizeError(CompactionError):
    """A compact network is correct on the example, but not on inputs of another size."""


def check(
    reference: nn.Module, small: nn.Module, inputs: tuple[Any, ...], resize: bool = False
) -> float:
    """The largest difference between two networks, on an example and on random inputs.

    The difference is divided by the largest output, or by 1e-3 if that is larger. The arithmetic is
    in float64 if the networks support it, so that the check compares the networks and not the
    rounding of their sums.

    inputs: the networks' arguments.
    resize: whether to compare also on inputs of the other sizes that the reference accepts.

    Raises CompactionError if the difference exceeds 1e-5 (1e-9 for float64 networks), if the shapes
    differ, and if one result is finite and the other is not; SizeError if this happens only at
    other sizes; ValueError if no output on the example is finite.

    >>> check(nn.ReLU(), nn.ReLU(), (torch.ones(2),))
    0.0
    >>> check(nn.ReLU(), nn.Tanh(), (torch.ones(2),))
    Traceback (most recent call last):
    pyrosparse.compaction.check.CompactionError: the compact network differs ...
    """
    tolerance = tolerance_of(reference)
    generator = torch.Generator().manual_seed(OTHERS)
    draws = [inputs, *(random_like(inputs, generator) for _ in range(2))]
    if _dtype(reference) != torch.float64:
        try:
            double = in_double(reference)
            with torch.no_grad():
                double(*inputs_in_double(inputs))
            reference, small = double, in_double(small)
            draws = [inputs_in_double(one) for one in draws]
        except (RuntimeError, ValueError, TypeError):
            pass  # it creates tensors of a fixed type: compare in that
    reference, small = reference.eval(), small.eval()
    worst = 0.0
    for number, one in enumerate(draws):
        with torch.no_grad():
            try:
                expected = reference(*_cloned(one))
            except Exception:
                if number == 0:
                    raise
                continue  # its integers have a meaning, such as offsets
            found = difference(expected, small(*_cloned(one)))
        if math.isnan(found) and number == 0:
            raise ValueError(
                "the masked network gives no finite number on the example, so the outputs cannot "
                "be compared: look for NaN and infinity in the example and in the network's "
                "buffers"
            )
        # Random inputs may be outside the domain of a network: then they say nothing.
        worst = worst if math.isnan(found) else max(worst, found)
    if not worst <= tolerance:
        raise CompactionError(
            f"the compact network differs from the masked one by {worst:.1e} of its outputs, more "
            f"than {tolerance:.0e}: this is a defect of pyrosparse, please report it"
        )
    return max(worst, _at_other_sizes(reference, small, draws[0], tolerance)) if resize else worst


def in_double(net: Network) -> Network:
    """A copy of a network in float64.

    >>> in_double(nn.Linear(1, 1)).weight.dtype
    torch.float64
    """
    double = copy.deepcopy(net).double()
    forget(double)
    return double


def tolerance_of(net: nn.Module) -> float:
    """The largest difference allowed between two networks, as a fraction of the largest output.

    >>> tolerance_of(nn.Linear(1, 1).double())
    1e-09
    """
    dtype = _dtype(net)
    known = {torch.float64: 1e-9, torch.float32: 1e-5}
    return known[dtype] if dtype in known else 10 * torch.finfo(dtype).eps


def _dtype(net: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in net.parameters() if p.is_floating_point())
    return next(floating, torch.float32)


def _at_other_sizes(
    reference: nn.Module, small: nn.Module, inputs: tuple[Any, ...], tolerance: float
) -> float:
    worst = 0.0
    with torch.no_grad():
        for other, expected in other_sizes(_silent(reference), inputs):
            shapes = [tuple(x.shape) for x in tree_leaves(other) if isinstance(x, Tensor)]
            what = f"on inputs of the sizes {', '.join(map(str, shapes))}"
            try:
                worst = max(worst, difference(expected, _silent(small)(*_cloned(other))))
            except Exception as error:  # the reference took these sizes
                raise SizeError(f"the compact network fails {what} ({error})") from error
            if not worst <= tolerance:
                raise SizeError(f"the compact network differs {what} by {worst:.1e} of its outputs")
    return worst


def _silent(net: nn.Module) -> Callable[..., Any]:
    # A GraphModule prints an error of its call, beside raising it.
    return net.forward if isinstance(net, fx.GraphModule) else net


def difference(expected: Any, actual: Any) -> float:
    """The largest difference of two results, divided by the largest number expected.

    Infinite if their shapes differ, or if values that are not finite differ; NaN if there are
    numbers, but none is finite.

    >>> difference(torch.tensor([1.0, -4.0]), torch.tensor([3.0, -4.0]))
    0.5
    >>> difference(torch.tensor([torch.nan]), torch.tensor([torch.nan]))
    nan
    """
    pairs = list(zip(tree_leaves(expected), tree_leaves(actual), strict=True))
    worst, numbers, compared = 0.0, 0, 0
    for first, second in pairs:
        if not isinstance(first, Tensor):
            worst = max(worst, 0.0 if first == second else float("inf"))
            continue
        if first.shape != second.shape:
            return float("inf")
        first, second = first.double(), second.double()
        finite = first.isfinite()
        if not torch.equal(first[~finite].nan_to_num(nan=0.0), second[~finite].nan_to_num(nan=0.0)):
            return float("inf")
        if not torch.equal(finite, second.isfinite()):
            return float("inf")
        numbers, compared = numbers + first.numel(), compared + int(finite.sum())
        if finite.any():
            scale = max(SMALLEST, float(first[finite].abs().max()))
            worst = max(worst, float((first - second)[finite].abs().max()) / scale)
    return float("nan") if numbers and not compared else worst


def random_like(inputs: tuple[Any, ...], generator: torch.Generator) -> tuple[Any, ...]:
    """Random inputs of the same shapes: normal numbers, or integers in the range of the given ones.

    >>> random_like((torch.ones(2, 3), 5), torch.Generator())[1]
    5
    """

    def draw(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if x.is_floating_point():
            return torch.randn(x.shape, generator=generator).to(x)
        if x.dtype == torch.bool or not x.numel():
            return x
        low, high = int(x.min()), int(x.max()) + 1
        return torch.randint(low, high, x.shape, generator=generator).to(x)

    drawn: tuple[Any, ...] = tree_map(draw, inputs)
    return drawn


def inputs_in_double(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs of a network with numbers in float64; whole numbers stay as they are."""
    return tree_map(  # type: ignore[no-any-return]
        lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs
    )


def _cloned(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, inputs)  # type: ignore[no-any-return]
