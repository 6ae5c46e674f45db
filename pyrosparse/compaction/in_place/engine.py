"""Cutting a network where it stands: it keeps its class, and only its layers get smaller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.account import Layer
from pyrosparse.compaction.check import in_double, inputs_in_double
from pyrosparse.compaction.in_place.attention import (
    MultiheadAttention,
    can_replace,
    without_nested_tensors,
)
from pyrosparse.compaction.in_place.called import Called
from pyrosparse.compaction.in_place.counts import Sizes
from pyrosparse.compaction.in_place.layers import is_mixing, used, weight_of
from pyrosparse.compaction.in_place.probe import Constants, observe, other_parameters, probe
from pyrosparse.compaction.in_place.trials import Judge, Trials
from pyrosparse.compaction.in_place.units import Unit, clusters, dead_inputs, divide, has_dead
from pyrosparse.compaction.layers import parameter_count
from pyrosparse.compaction.rules.regular import level, round_up


@dataclass(frozen=True)
class InPlace:
    """A network that was cut where it stands.

    net:      it; layers: its dense layers and convolutions before and after.
    barriers: of what could not be cut why, by the names of the layers that read it.
    cuts:     how the sizes of units changed.
    """

    net: nn.Module
    layers: list[Layer]
    barriers: dict[str, str]
    cuts: list[Sizes]


def cut_in_place(
    net: nn.Module,
    reference: nn.Module,
    inputs: tuple[Any, ...],
    at_least: int | None = None,
    round_to: int = 1,
) -> InPlace:
    """Cut units out of a network, which is changed, as far as it computes the same without them.

    Which layers feed which is found by running it. Every cut is compared with the reference on
    other inputs and sizes, and taken back where it differs.

    net:       the masked network, in evaluation mode.
    reference: what it must compute.
    inputs:    what both are called with; one mapping for keyword arguments.
    at_least, round_to: as ``compact`` takes them; heads are not rounded, as their width stays.

    Raises ValueError if ``at_least`` is None and nothing is left of a layer.
    """
    types = _types(net)
    ours = _with_layers(net)
    called, expected, inputs = _in_double(Called(net), Called(reference), inputs)
    judge = Judge(expected, inputs)
    units, barriers, found, constants = _units(net, called, judge)
    if at_least is None:
        _refuse_empty(units)

    def choose(unit: Unit) -> Tensor:
        single = unit.blocks == weight_of(net.get_submodule(unit.consumers[0])).shape[1]
        return _kept(unit, at_least or 0, round_to if single else 1)

    units = [unit for unit in units if not choose(unit).all()]
    before = {name: _sizes(module) for name, module in found.items()}
    trials = Trials(net, called, judge, constants, choose)
    barriers |= trials.run(units)
    barriers |= _of_other_kinds(net)
    whole = _put_back(net, ours)
    without_nested_tensors(net)
    layers = [
        _layer(name, module, before[name], constants[name])
        for name, module in found.items()
        if not name.startswith(whole)
    ]
    _cast(net, types)
    return InPlace(net, layers, barriers, trials.cuts)


def _units(
    net: nn.Module, called: nn.Module, judge: Judge
) -> tuple[list[Unit], dict[str, str], dict[str, nn.Module], dict[str, Constants]]:
    """The units of which something is dead, and why other layers that read nothing have none."""
    found, constants = observe(net, lambda: called(*judge.largest))
    for case, _ in judge.cases[:2]:
        again = observe(net, lambda case=case: called(*case))[1]  # type: ignore[misc]
        constants = {k: one.also(again.get(k, one)) for k, one in constants.items()}
    units: list[Unit] = []
    barriers: dict[str, str] = {}
    with other_parameters(net, found):
        recorded = probe(net, found, lambda: called(*judge.largest))
        for cluster in clusters(net, recorded):
            if has_dead(net, cluster, constants):
                unit = None if cluster.returned else divide(net, recorded, cluster, constants)
                if cluster.returned:
                    why = "its inputs are also an output of the network"
                    barriers |= dict.fromkeys(cluster.consumers, why)
                elif unit is None:
                    why = "its inputs are mixed with features that stay"
                    barriers |= dict.fromkeys(cluster.consumers, why)
                elif unit.dead.any():
                    units.append(unit)
    return units, barriers, found, constants


def _of_other_kinds(net: nn.Module) -> dict[str, str]:
    """Modules with weights that nothing reads or that give zeros, but of no kind that is cut."""
    found = {}
    for name, module in net.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.dim() < 2 or is_mixing(module):
            continue
        paths = used(weight.detach())
        rows = isinstance(module, nn.Embedding | nn.EmbeddingBag) or bool(paths.any(1).all())
        if not (rows and paths.any(0).all()):
            found[name] = f"{type(module).__name__} is of no kind that is cut where it stands"
    return found


def _kept(unit: Unit, at_least: int, round_to: int) -> Tensor:
    """Which blocks stay; of those that have parts, equally many parts stay in each."""
    parts = ~unit.dead.view(unit.blocks, unit.parts)
    kept = parts.any(1)
    count = round_up(max(at_least, 1, int(kept.sum())), round_to, unit.blocks)
    missing = max(0, count - int(kept.sum()))
    kept[(~kept).nonzero().flatten()[:missing]] = True
    most = max(1, int(parts[kept].sum(1).max()))
    return (level(parts.int(), most) & kept[:, None]).flatten()


def _refuse_empty(units: list[Unit]) -> None:
    empty = [name for unit in units if unit.dead.all() for name in unit.consumers]
    if empty:
        raise ValueError(
            f"no inputs are left for {', '.join(map(repr, empty))}: prune less, or pass "
            "at_least=1 to keep one unit in every layer"
        )


def _sizes(module: nn.Module) -> tuple[int, int, int]:
    outputs, inputs = weight_of(module).shape[:2]
    return inputs, outputs, parameter_count(module)


def _layer(
    name: str, module: nn.Module, before: tuple[int, int, int], constants: Constants
) -> Layer:
    inputs, outputs, parameters = zip(before, _sizes(module), strict=True)
    dead = 0
    if inputs[0] == inputs[1]:
        dead = int(dead_inputs(module, constants, False).sum())
    else:
        unread = (weight_of(module) == 0).transpose(0, 1).flatten(1).all(1)
        dead = int(unread.sum())
    note = f"{dead} inputs stay that nothing reads" if dead else ""
    return Layer(name, type(module).__name__, inputs, outputs, parameters, note)


def _with_layers(net: nn.Module) -> dict[str, tuple[nn.MultiheadAttention, int]]:
    """Put attention with layers that can be cut in the places of torch's; what was there."""
    found = {}
    for name, module in list(net.named_modules()):
        if name and can_replace(module):
            assert isinstance(module, nn.MultiheadAttention)
            found[name] = (module, parameter_count(module))
            net.set_submodule(name, MultiheadAttention.of(module))
    return found


def _put_back(
    net: nn.Module, ours: Mapping[str, tuple[nn.MultiheadAttention, int]]
) -> tuple[str, ...]:
    """Put torch's attention back where nothing was cut of it; the names' beginnings of these."""
    whole = []
    for name, (module, parameters) in ours.items():
        if parameter_count(net.get_submodule(name)) == parameters:
            net.set_submodule(name, module)
            whole.append(f"{name}.")
    return tuple(whole)


def _in_double(
    net: Called, reference: Called, inputs: tuple[Any, ...]
) -> tuple[Called, Called, tuple[Any, ...]]:
    """Both networks in float64, where they compute in it, so that rounding is not compared."""
    double, wider = in_double(reference), inputs_in_double(inputs)
    try:
        with torch.no_grad():
            double(*wider)
    except (RuntimeError, ValueError, TypeError):
        return net, reference, inputs  # it makes tensors of a type of its own
    return net.double(), double, wider


def _types(net: nn.Module) -> dict[str, torch.dtype]:
    named = [*net.named_parameters(), *net.named_buffers()]
    return {name: tensor.dtype for name, tensor in named if tensor.is_floating_point()}


def _cast(net: nn.Module, types: Mapping[str, torch.dtype]) -> None:
    """Give tensors the types that they had; those that are new, the most common one."""
    if not types:
        return
    usual = Counter(types.values()).most_common(1)[0][0]
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(types.get(name, usual))
