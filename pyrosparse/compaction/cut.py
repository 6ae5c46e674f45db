"""Cutting a network that is still trained: the remaining elements of each tensor."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyrosparse.compaction.compact_net import CompactNet
from pyrosparse.compaction.copies import put_masks
from pyrosparse.compaction.graph import account_of, learn, refuse_empty, rewrite, want
from pyrosparse.compaction.layers import MIXING, NORMS, is_plain
from pyrosparse.compaction.masked import fold, gains_of
from pyrosparse.compaction.rules import find
from pyrosparse.compaction.rules.mixing import Mixing
from pyrosparse.compaction.rules.rule import Flow, Rule
from pyrosparse.compaction.trace import refuse_other_programs, trace
from pyrosparse.compaction.written_out import written_out
from pyrosparse.util.modes import copy_modes


@dataclass(frozen=True)
class Cut:
    """A smaller network whose tensors are parts of another's.

    net:       the smaller network, each module in the mode of the whole network's.
    positions: by the name of a parameter or floating-point buffer, the positions of its elements in
               the other network's tensor of that name, counted in row-major order; int64, of its
               shape.
    features:  by the name of a module, the remaining input and output features, two boolean
               tensors; modules not named keep all of theirs.
    """

    net: CompactNet
    positions: dict[str, Tensor]
    features: dict[str, tuple[Tensor, Tensor]]

    def __repr__(self) -> str:
        left = sum(parameter.numel() for parameter in self.net.parameters())
        return f"Cut: a network of {left:,} parameters; {len(self.features)} modules are smaller"


def cut(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    at_least: int | None = 1,
) -> Cut:
    """Cut out of a network what masks switch off permanently, so that the rest can be trained.

    As ``compact``, but nothing is folded: a feature is cut if it is exactly zero for all values of
    the parameters, in training mode too, or if nothing reads it. The remaining tensors consist of
    elements of the original ones.

    net:    any module that torch.fx can trace; it does not change.
    masks:  masks of weights by parameter name, of gates by ``<module>.input`` or
            ``<module>.output``; 0 is off, permanently. Gates that enter a normalisation are
            ignored.
    inputs: the inputs of the network.
    at_least: the smallest number of inputs and outputs of each layer, as for ``compact``.

    Raises ValueError if the network cannot be traced, if it computes different things in training
    and in evaluation mode other than in its modules, and if a layer has no units left.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> small = cut(net, {"2.input": torch.tensor([1, 0, 1])}, (torch.ones(1, 4),))
    >>> small.positions["2.weight"]
    tensor([[0, 2],
            [3, 5]])
    """
    working = generic(net).eval()
    others = put_masks(working, {k: m != 0 for k, m in masks.items() if _can_cut(net, k)})
    working = fold(working, gains_of(working, others))
    _refuse_modes(working, len(inputs))
    refuse_other_programs(net, exact_inputs(inputs))
    graph = trace(working, len(inputs))
    with torch.no_grad():
        found = written_out(working, graph, exact_inputs(inputs))
        flow = Flow(working, found, at_least or 0, trained=True)
    rules, barriers = find(graph, working)
    learn(graph, rules, barriers, flow)
    live = want(graph, rules, flow)
    barriers = {node: why for node, why in barriers.items() if node in live}
    if at_least is None:
        refuse_empty(rules, flow)
    # From here on tensors hold positions; slicing moves them to their final places.
    for tensor in _tensors(working).values():
        tensor.copy_(torch.arange(tensor.numel(), dtype=tensor.dtype).view(tensor.shape))
    small = rewrite(graph, rules, live, flow)
    whole = _tensors(net)
    positions = {
        name: tensor.detach().long().clone()
        for name, tensor in _tensors(small).items()
        if name in whole
    }
    _fill(small, whole, positions)
    account = account_of(net, small, rules, barriers, flow, math.nan)
    made = CompactNet(small, flow.graph, account)
    copy_modes(net, made)
    return Cut(made, positions, _features(rules, live, flow))


def _can_cut(net: nn.Module, key: str) -> bool:
    """Whether a mask switches something off that is then zero in training mode too."""
    name, _, kind = key.rpartition(".")
    modules = dict(net.named_modules())
    if kind in ("input", "output") and name in modules:
        module = modules[name]
        return is_plain(module, MIXING) or (kind == "output" and is_plain(module, NORMS))
    return True


def generic(net: nn.Module) -> nn.Module:
    """A copy on the CPU, in float64, in which no number is zero by chance."""
    working = copy.deepcopy(net).cpu().double()
    generator = torch.Generator().manual_seed(0)
    for tensor in _tensors(working).values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
    return working


def _refuse_modes(net: nn.Module, arguments: int) -> None:
    codes = [str(trace(copy.deepcopy(net).train(mode), arguments)) for mode in (True, False)]
    if codes[0] != codes[1]:
        raise ValueError(
            f"the forward of {type(net).__name__} depends on self.training: write this part as a "
            "module (nn.Dropout in place of F.dropout), or train without compact_every"
        )


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """The floating-point parameters and buffers by name, detached."""
    named = [*net.named_parameters(), *net.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}


def _fill(small: nn.Module, whole: Mapping[str, Tensor], positions: Mapping[str, Tensor]) -> None:
    """Write the elements of the whole network's tensors to their places in the smaller one."""
    like = next((t for t in whole.values()), torch.zeros(()))
    small.to(like.device, like.dtype)
    for name, where in positions.items():
        source = whole[name]
        owner, _, leaf = name.rpartition(".")
        module = small.get_submodule(owner)
        values = take(source, where)
        if leaf in module._parameters:
            old = module._parameters[leaf]
            assert old is not None
            module._parameters[leaf] = nn.Parameter(values, old.requires_grad)
        else:
            module._buffers[leaf] = values


def take(whole: Tensor, positions: Tensor) -> Tensor:
    """The elements at positions, in the memory layout of the tensor from which they come.

    >>> take(torch.tensor([5.0, 6.0, 7.0]), torch.tensor([2, 0]))
    tensor([7., 5.])
    """
    values = whole.detach().flatten()[positions.to(whole.device)]
    if whole.dim() == 4 and not whole.is_contiguous():
        values = values.contiguous(memory_format=torch.channels_last)
    return values


def put(whole: Tensor, positions: Tensor, values: Tensor) -> None:
    """Write values to the elements at positions, in place.

    >>> whole = torch.zeros(3)
    >>> put(whole, torch.tensor([2, 0]), torch.tensor([7.0, 5.0]))
    >>> whole
    tensor([5., 0., 7.])
    """
    flat = whole.detach().flatten().clone()
    flat[positions.to(flat.device).flatten()] = values.detach().flatten().to(flat.device)
    whole.detach().copy_(flat.view(whole.shape))


def _features(
    rules: Mapping[fx.Node, Rule], live: set[fx.Node], flow: Flow
) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    for node, rule in rules.items():
        if node not in live or node.op != "call_module" or node not in flow.features:
            continue
        wanted = flow.wanted[node]
        entering = rule.columns.flatten() if isinstance(rule, Mixing) else wanted
        found[str(node.target)] = (entering, wanted)
    return found


def exact_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs on the CPU, numbers in float64; indices and masks keep their dtype."""
    return tuple(
        x.detach().cpu().double() if isinstance(x, Tensor) and x.is_floating_point() else x
        for x in inputs
    )
