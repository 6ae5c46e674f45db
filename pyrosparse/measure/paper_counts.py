"""The FLOPs and the memory that the beta-Bernoulli paper's tables are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyrosparse.compaction.compact import compact
from pyrosparse.compaction.layers import BATCH_NORMS, CONVOLUTIONS
from pyrosparse.compaction.parts import Gain, Scatter, Select
from pyrosparse.lifting.input_gate import InputGate
from pyrosparse.util.modes import evaluating

_COUNTED = (nn.Linear, *CONVOLUTIONS)
_FREE = (Gain, Select, Scatter, InputGate)
_PRODUCTS = ("scaled_dot_product_attention", "matmul", "__matmul__", "bmm", "einsum")
_POOLS = {f"{kind}_pool{rank}d" for kind in ("max", "avg") for rank in (1, 2, 3)}


@dataclass(frozen=True)
class PaperCounts:
    """A network's cost as the beta-Bernoulli paper counts it.

    flops:  multiplications, additions, biases, activations and pools, for one datum.
    memory: how many numbers the weights take, and the unfolded inputs of convolutions.

    >>> PaperCounts(flops=1_090_800, memory=545_810).memory
    545810
    """

    flops: int
    memory: int


def beta_bernoulli_counts(net: nn.Module, *inputs: Any) -> PaperCounts:
    r"""FLOPs and memory as in the tables on beta-Bernoulli dropout, counted by running the network.

    For a layer of :math:`O` outputs (units, or channels times :math:`P` positions), each of which
    takes :math:`n` weights,

    .. math:: \mathrm{FLOPs} = (2 n - 1) O + O + O, \qquad
              \mathrm{memory}_\text{dense} = n O + O, \qquad
              \mathrm{memory}_\text{conv} = n C_\text{out} + k^2 C_\text{in} P :

    products and their sums, a bias, an activation; :math:`k^2 C_\text{in} P` is the input unfolded
    for a matrix product. The last layer has no activation. A pool takes an operation for each
    element of each window, a batch normalisation nothing but the memory of two numbers a channel.
    A bias counts whether a layer has one or not, and that of a convolution takes no memory.
    What the paper leaves open is as in its authors' public code, except that its VGG has an
    activation after the last layer too: ten FLOPs.

    This is for comparison with those tables; ``macs``, ``file_bytes`` and ``latency`` say what a
    network costs.

    inputs: what the network is called with; the first of them has one datum a row.

    Raises ValueError if the network has parameters of other layers than dense ones,
    convolutions and batch normalisations, or attention: for them the paper has no count.

    Source: Lee et al. (2018), "Adaptive network sparsification with dependent variational
    beta-Bernoulli dropout", section 5 and Table 1.

    >>> net = nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 300), nn.ReLU())
    >>> beta_bernoulli_counts(net.append(nn.Linear(300, 10)), torch.zeros(1, 784))
    PaperCounts(flops=1090800, memory=545810)
    """
    layers, pools = _counted(net, inputs)
    return _total(net, list(layers.values()), pools)


def dependent_counts(
    net: nn.Module, kept: Mapping[str, Tensor], active: Mapping[str, Tensor], *inputs: Any
) -> PaperCounts:
    """FLOPs and memory of a network whose gates depend on the input, in the same way.

    Whether a unit passes is known once it is computed: so a layer computes all units that are kept,
    each from those of its inputs that pass.

    net:    the network that was lifted.
    kept:   masks of what passes for some input, as for ``compact``.
    active: masks of as many features as pass for one.
    inputs: what the network is called with.

    Raises ValueError as ``beta_bernoulli_counts``, and what ``compact`` raises.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> half = {"0.input": torch.tensor([1, 1, 0, 0])}
    >>> dependent_counts(net, {}, half, torch.zeros(1, 4)).memory  # 3 units of 2, 2 units of 3
    17
    """
    whole, few = (
        compact(net, {key: mask.float() for key, mask in masks.items()}, inputs, at_least=1)
        for masks in (kept, active)
    )
    layers, pools = _counted(whole, inputs)
    reading, _ = _counted(few, inputs)
    layers = {
        name: replace(layer, taken=reading[name].taken, unfolded=reading[name].unfolded)
        for name, layer in layers.items()
    }
    return _total(whole, list(layers.values()), pools)


@dataclass(frozen=True)
class _Layer:
    """A layer's counts.

    taken:    weights of one output.
    units:    units or channels; outputs: units times positions.
    unfolded: numbers of the unfolded input at one position; 0 for a dense layer.
    shared:   whether its weights are those of a layer before.
    """

    taken: int
    units: int
    outputs: int
    unfolded: int
    shared: bool

    @property
    def flops(self) -> int:
        return (2 * self.taken + 1) * self.outputs

    @property
    def memory(self) -> int:
        if self.unfolded:
            weights = self.taken * self.units
            return weights * (not self.shared) + self.unfolded * (self.outputs // self.units)
        return (self.taken + 1) * self.units * (not self.shared)


def _total(net: nn.Module, layers: list[_Layer], pools: int) -> PaperCounts:
    flops = sum(layer.flops for layer in layers) - (layers[-1].outputs if layers else 0)
    norms = sum(2 * m.num_features for m in net.modules() if isinstance(m, BATCH_NORMS))
    return PaperCounts(flops + pools, sum(layer.memory for layer in layers) + norms)


def _counted(net: nn.Module, inputs: tuple[Any, ...]) -> tuple[dict[str, _Layer], int]:
    """The counts of every call of a layer, by its name, and the operations of all pools."""
    _refuse_others(net)
    batch = len(inputs[0])
    layers: dict[str, _Layer] = {}
    seen: set[int] = set()

    def count(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            dense = isinstance(module, nn.Linear)
            label = name
            while label in layers:  # it is called once more
                label += "'"
            layers[label] = _Layer(
                weight[0].numel(),
                len(weight),
                output.numel() // batch,
                0 if dense else args[0].shape[1] * weight[0, 0].numel(),
                id(weight) in seen,
            )
            seen.add(id(weight))

        return note

    handles = [
        module.register_forward_hook(count(name))
        for name, module in net.named_modules()
        if isinstance(module, _COUNTED)
    ]
    pools = _Pools()
    try:
        with torch.no_grad(), evaluating(net), pools:
            net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return layers, pools.operations // batch


class _Pools(TorchFunctionMode):
    """Counts the elements of all windows of all pools, of modules and of functions."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").removesuffix("_with_indices")
        if name in _PRODUCTS:
            raise ValueError(f"the beta-Bernoulli paper has no count for {name}")
        pooled = result[0] if isinstance(result, tuple) else result
        if name in _POOLS:
            size = (kwargs or {}).get("kernel_size", args[1] if len(args) > 1 else None)
            sides = size if isinstance(size, (tuple, list)) else [size] * int(name[-2])
            self.operations += pooled.numel() * torch.Size(sides).numel()
        elif name.startswith("adaptive_") and "_pool" in name:
            x = args[0] if args else (kwargs or {})["input"]
            self.operations += x.numel()
        return result


def _refuse_others(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if isinstance(module, (*_COUNTED, *BATCH_NORMS, *_FREE)):
            continue
        if next(module.parameters(recurse=False), None) is not None:
            kind = type(module).__name__
            raise ValueError(
                f"the beta-Bernoulli paper has no count for {name or 'the network'!r}, {kind}: it "
                "counts dense layers, convolutions and batch normalisations"
            )
