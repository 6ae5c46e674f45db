"""Units of a network: what can be removed of its layers together, and which of it is dead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyrosparse.compaction.in_place.layers import feature_dim, pads, weight_of
from pyrosparse.compaction.in_place.probe import Constants, Probe, leaves


@dataclass(frozen=True)
class Unit:
    """Layers that feed each other and nothing else, divided into blocks that do not meet.

    consumers:  the layers that read, by name; block b is the b-th of equally many of its inputs.
    producers:  the layers that are read: to which block each output belongs, (outputs,) int64,
                -1 where none is known.
    parameters: of operations between: (dimension, block of each index), by name.
    blocks:     how many there are: the neurons of a hidden layer, the heads of an attention.
    dead:       (blocks * parts,) bool: nothing that varies is read of it.
    parts:      how many parts each block has that share some producers: the query heads of a group.
                Where there are several, labels are of parts, but for
    shared:     the producers whose outputs belong to blocks: keys and values.
    """

    consumers: tuple[str, ...]
    producers: Mapping[str, Tensor]
    parameters: Mapping[str, tuple[int, Tensor]]
    blocks: int
    dead: Tensor
    parts: int = 1
    shared: frozenset[str] = frozenset()

    @property
    def members(self) -> tuple[str, ...]:
        """The layers of the unit."""
        return (*self.producers, *self.consumers)


@dataclass(frozen=True)
class Cluster:
    """Layers that read, those that they read, and parameters of what is computed between."""

    consumers: tuple[str, ...]
    producers: tuple[str, ...]
    parameters: Mapping[str, Tensor]
    returned: bool


def clusters(net: nn.Module, probe: Probe) -> Iterator[Cluster]:
    """The layers divided by who feeds whom, and whether they feed the network's result, too."""
    by_id = {id(leaf): name for name, leaf in probe.outputs.items()}
    parameters = {id(p): name for name, p in net.named_parameters()}
    feeds = {name: leaves([x]) for name, x in probe.inputs.items()}
    returned = {by_id[key] for key in leaves(probe.results) if key in by_id}
    group: dict[str, set[str]] = {}  # of each producer: those that are read with it
    for found in feeds.values():
        together = {by_id[key] for key in found if key in by_id}
        for name in list(together):
            together |= group.get(name, set())
        for name in together:
            group[name] = together
    for producers in {id(one): one for one in group.values()}.values():
        consumers = [
            name
            for name, found in feeds.items()
            if any(by_id.get(key) in producers for key in found)
        ]
        between = {
            parameters[key]: leaf
            for name in consumers
            for key, leaf in feeds[name].items()
            if key in parameters
        }
        order = tuple(name for name in probe.layers if name in producers)
        if consumers:
            yield Cluster(tuple(consumers), order, between, bool(producers & returned))


def dead_inputs(module: nn.Module, constants: Constants, producible: bool) -> Tensor:
    """The inputs of a layer that nothing reads, or whose constant its bias can take in.

    producible: whether a constant may be what the layers before make of zero weights.
    """
    unread = (weight_of(module) == 0).transpose(0, 1).flatten(1).all(1)
    foldable = constants.constant & ((constants.value == 0) | (module.bias is not None))
    if pads(module):
        foldable &= constants.value == 0
    return (unread | (foldable & producible)).cpu()


def divide(
    net: nn.Module, probe: Probe, cluster: Cluster, constants: Mapping[str, Constants]
) -> Unit | None:
    """Divide a cluster into the most blocks that do not meet; None where it has but one.

    Blocks are numbered in binary. For each digit, what depends on the blocks that have it is found
    by one backward pass, and what depends on those that have it not by another: nothing may depend
    on both.
    """
    widths = [_width(probe, name) for name in cluster.consumers]
    common = math.gcd(*widths)
    targets = [probe.outputs[name] for name in cluster.producers]
    tensors = list(cluster.parameters.values())
    for blocks in (common // n for n in range(1, common + 1) if common % n == 0):
        codes = {
            name: torch.arange(width) // (width // blocks)
            for name, width in zip(cluster.consumers, widths, strict=True)
        }
        labels = _labels(probe, cluster, codes, blocks, [*targets, *tensors], alone=True)
        if labels is None:
            continue
        producers, rest = labels[: len(targets)], labels[len(targets) :]
        chosen = {
            name: (leaf_dim(probe, name), found[leaf_dim(probe, name)])
            for name, found in zip(cluster.producers, producers, strict=True)
        }
        dead = _dead(net, cluster, blocks, constants, {k: v for k, (_, v) in chosen.items()})
        between = {}
        for name, found in zip(cluster.parameters, rest, strict=True):
            for dim, label in found.items():
                if len(label.unique()) > 1 and (label >= 0).all():
                    between[name] = (dim, label)
        coarse = {k: v for k, (_, v) in chosen.items()}
        unit = Unit(cluster.consumers, coarse, between, blocks, dead)
        finer = _in_parts(net, probe, cluster, unit, constants)
        return finer or (unit if blocks > 1 else None)
    return None


def _in_parts(
    net: nn.Module,
    probe: Probe,
    cluster: Cluster,
    unit: Unit,
    constants: Mapping[str, Constants],
) -> Unit | None:
    """The unit with its blocks divided into parts that share some of the producers.

    As many parts are tried as a producer has outputs for one of another.
    """
    counts = {len(label) for label in unit.producers.values()}
    ratios = {a // b for a in counts for b in counts if a > b and a % b == 0}
    widths = {name: _width(probe, name) // unit.blocks for name in cluster.consumers}
    targets = [probe.outputs[name] for name in cluster.producers]
    for parts in sorted(ratios, reverse=True):
        if any(width % parts for width in widths.values()):
            continue
        codes = {
            name: torch.arange(unit.blocks * width) % width // (width // parts)
            for name, width in widths.items()
        }
        tensors = [*targets, *cluster.parameters.values()]
        labels = _labels(probe, cluster, codes, parts, tensors, alone=False)
        assert labels is not None
        within = {
            name: found[leaf_dim(probe, name)]
            for name, found in zip(cluster.producers, labels, strict=False)
        }
        shared = frozenset(name for name, label in within.items() if (label < 0).all())
        if not shared or any((within[n] < 0).any() for n in within.keys() - shared):
            continue
        producers = {
            name: label if name in shared else label * parts + within[name]
            for name, label in unit.producers.items()
        }
        between = {}
        for name, found in zip(cluster.parameters, labels[len(targets) :], strict=True):
            if name in unit.parameters:
                dim, label = unit.parameters[name]
                if (found[dim] < 0).any():
                    return None  # it belongs to blocks, and blocks may keep fewer parts
                between[name] = (dim, label * parts + found[dim])
        dead = unit.dead.repeat_interleave(parts)
        for name in cluster.consumers:
            unread = dead_inputs(net.get_submodule(name), constants[name], False)
            dead = dead | unread.view(unit.blocks * parts, -1).all(1)
        return Unit(unit.consumers, producers, between, unit.blocks, dead, parts, shared)
    return None


def leaf_dim(probe: Probe, name: str) -> int:
    """The dimension of a layer's output that holds its features."""
    return feature_dim(probe.layers[name], probe.outputs[name])


def has_dead(net: nn.Module, cluster: Cluster, constants: Mapping[str, Constants]) -> bool:
    """Whether anything enters the layers of a cluster that nothing reads, or that is constant."""
    return all(
        bool(dead_inputs(net.get_submodule(name), constants[name], True).any())
        for name in cluster.consumers
    )


def _dead(
    net: nn.Module,
    cluster: Cluster,
    blocks: int,
    constants: Mapping[str, Constants],
    labels: Mapping[str, Tensor],
) -> Tensor:
    silent = torch.zeros(blocks, dtype=torch.bool)  # some layer's weights into it are zero
    reached = torch.zeros(blocks, dtype=torch.bool)
    for name, label in labels.items():
        zero = (weight_of(net.get_submodule(name)) == 0).flatten(1).all(1).cpu()
        varies = torch.zeros(blocks, dtype=torch.bool)
        varies[label[(label >= 0) & ~zero]] = True
        here = torch.zeros(blocks, dtype=torch.bool)
        here[label[label >= 0]] = True
        silent |= here & ~varies
        reached |= here
    dead = reached
    for name in cluster.consumers:
        module = net.get_submodule(name)
        unread = dead_inputs(module, constants[name], False).view(blocks, -1).all(1)
        either = dead_inputs(module, constants[name], True).view(blocks, -1).all(1)
        dead = dead & (unread | (either & silent))
    return dead


def _labels(
    probe: Probe,
    cluster: Cluster,
    codes: Mapping[str, Tensor],
    blocks: int,
    targets: list[Tensor],
    alone: bool,
) -> list[dict[int, Tensor]] | None:
    """The block of every index of every dimension, -1 where it is in several or none is known.

    codes: the blocks of what enters each consumer. alone: whether the result is None where an
    output of a layer is in several.
    """
    generator = torch.Generator().manual_seed(0)
    count = len(cluster.producers)
    found = [
        {dim: torch.zeros(size, dtype=torch.int64) for dim, size in enumerate(t.shape)}
        for t in targets
    ]
    numbers = torch.arange(blocks)
    for digit in range(max(1, (blocks - 1).bit_length())):
        has = (numbers >> digit) & 1 == 1
        ones, zeros = (_reached(probe, codes, chosen, targets, generator) for chosen in (has, ~has))
        for k, labels in enumerate(found):
            for dim, label in labels.items():
                both, neither = ones[k][dim] & zeros[k][dim], ~(ones[k][dim] | zeros[k][dim])
                layer = k < count and dim == leaf_dim(probe, cluster.producers[k])
                if alone and layer and both.any():
                    return None
                label += ones[k][dim].long() << digit
                label[both | neither | (label < 0)] = -(1 << 40)
    return [{dim: label.clamp_min(-1) for dim, label in labels.items()} for labels in found]


def _reached(
    probe: Probe,
    codes: Mapping[str, Tensor],
    chosen: Tensor,
    targets: list[Tensor],
    generator: torch.Generator,
) -> list[dict[int, Tensor]]:
    """Of each target and dimension, the indices on which the chosen blocks depend."""
    inputs, directions = [], []
    for name, code in codes.items():
        x = probe.inputs[name]
        dim = feature_dim(probe.layers[name], x)
        draws = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        draws = draws.movedim(dim, -1) * chosen[code]
        inputs.append(x)
        directions.append(draws.movedim(-1, dim).to(x))
    gradients = torch.autograd.grad(
        inputs, targets, directions, retain_graph=True, allow_unused=True
    )
    found = []
    for target, gradient in zip(targets, gradients, strict=True):
        used = torch.zeros(target.shape, dtype=torch.bool) if gradient is None else gradient != 0
        found.append(
            {
                dim: used.movedim(dim, 0).flatten(1).any(1).cpu() if used.dim() > 1 else used.cpu()
                for dim in range(used.dim())
            }
        )
    return found


def _width(probe: Probe, name: str) -> int:
    module = probe.layers[name]
    return weight_of(module).shape[1]
