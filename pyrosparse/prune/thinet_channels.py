"""ThiNet: channels whose removal the next layer feels least, and gains that make up for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.layers import CONVOLUTIONS, is_plain
from pyrosparse.evidence.batches import batches, prepared
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.lifting.masks import Masks
from pyrosparse.lifting.target import Target, inputs
from pyrosparse.models.calls import Called, separated
from pyrosparse.prune.contributions import contributions

_NOISE = 1e-10
"""Of the largest eigenvalue of X^T X: what is smaller is float32's rounding of activations."""


def thinet(
    net: nn.Module,
    data: Any,
    sparsity: float,
    *,
    on: Sequence[Target] | None = None,
    places: int = 10,
    reconstruct: bool = True,
    at_least: int = 1,
    seed: int = 0,
    batch_size: int = 256,
) -> Masks:
    r"""Remove the input channels of layers that change what the layers compute least.

    .. math::
        y_i = \sum_j x_{ij}, \qquad
        T \leftarrow T \cup \{\arg\min_{j \notin T} \textstyle\sum_i (\sum_{t \in T} x_{it}
        + x_{ij})^2\}, \qquad
        g = \arg\min_g \textstyle\sum_i (y_i - \sum_{j \notin T} g_j x_{ij})^2

    A sample i is an example, a filter and a place of the layer's output, all three random;
    :math:`x_{ij}` is what input channel j adds to it, and :math:`y_i` the output without its
    bias. Channels go greedily, by :math:`X^T X` alone.

    net:         a network, or ``bnn.net``; it is run in evaluation mode and left as it is.
    data:        what goes into the network, and labels behind it, if any: ``Examples``, a tuple of
                 tensors or a loader. A few examples of each class are enough.
    sparsity:    the fraction of the channels of each layer that goes, in [0, 1).
    on:          the layers, from ``inputs(net, ...)``, dense or convolutions without groups; by
                 default all convolutions but the first and those of 1 x 1, or, where there are
                 none, all dense layers but the first. One after the other, in this order, each in
                 the network as it is with the channels before it gone. To train in between, ask for
                 one at a time.
    places:      samples of each example.
    reconstruct: gains g by least squares; otherwise they are 1.
    at_least:    each layer keeps so many channels in any case.
    seed:        of the samples.

    Returns masks on inputs, gains where a channel stays (any sign, any size) and 0 where it goes,
    which ``compact`` folds into the layers' own weights.

    Raises ValueError on options out of range, without data or layers, on other layers, on layers
    that do not run, on fewer samples than channels, and on activations that are not finite.

    Source: Luo et al. (2017), section 3.2 and Algorithm 1.

    >>> import pyrosparse as ps
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    >>> _ = nn.init.eye_(net[0].weight), nn.init.zeros_(net[0].bias)
    >>> _ = nn.init.ones_(net[1].weight)
    >>> x = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    >>> thinet(net, (x,), 0.5)["1.input"]  # the second input is twice the first: 1.5 of it is both
    tensor([0.0000, 1.5000])
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    for name, value in (("places", places), ("at_least", at_least)):
        if int(value) != value or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value}")
    generator = torch.Generator().manual_seed(seed)
    data = prepared(data, Called(net))
    masks = Masks()
    for target in _layers(net) if on is None else on:
        layer = _layer(net, target)
        seen = _Contributions(layer, places, generator)
        with torch.no_grad(), evaluation_mode(net), _gained(net, masks), seen.hooked():
            for x, *more in batches(data, batch_size, Called(net)):
                inputs, _ = separated(x, more, None)
                net(*inputs)
        if not seen.samples:
            raise ValueError(
                f"{target.name!r} did not run, so its inputs are not known: give data that are "
                "not empty, or leave this layer out with `on`"
            )
        if not seen.gram.isfinite().all():
            raise ValueError(
                f"the inputs of {target.name!r} are not finite: the network has "
                "diverged; train again with a lower learning rate"
            )
        count = len(seen.gram)
        if reconstruct and seen.samples < count:
            raise ValueError(
                f"{seen.samples} samples cannot tell the gains of the {count} inputs of "
                f"{target.name!r} apart: give more examples or places, or reconstruct=False"
            )
        gone = min(round(count * sparsity), max(count - at_least, 0))
        kept = ~greedy(seen.gram, gone)
        gains = least_squares(seen.gram, kept) if reconstruct else kept.double()
        masks[target.key] = gains.to(layer.weight)
    return masks


def greedy(gram: Tensor, count: int) -> Tensor:
    r"""Which channels go: one after the other, each time the one after which the squared sum of
    all that went is smallest.

    .. math:: \arg\min_j \; 2 \textstyle\sum_{t \in T} G_{tj} + G_{jj}

    gram: :math:`X^T X`, (channels, channels).

    Returns a boolean mask, (channels,), of what goes.

    >>> greedy(torch.diag(torch.tensor([3.0, 1.0, 2.0])), 2)
    tensor([False,  True,  True])
    """
    gone = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
    costs = gram.diagonal().clone()
    for _ in range(count):
        best = costs.masked_fill(gone, torch.inf).argmin()
        gone[best] = True
        costs += 2 * gram[best]
    return gone


def least_squares(gram: Tensor, kept: Tensor) -> Tensor:
    r"""The gains of the channels that stay with which they come nearest to the sum of all; 0 of the
    others.

    .. math:: g_K = 1 + G_{KK}^{+}\, G_{KT} 1

    What the samples do not determine stays at 1.

    gram: :math:`X^T X`, (channels, channels), float64; kept: boolean, (channels,).

    >>> gram = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    >>> least_squares(gram, torch.tensor([False, True]))
    tensor([0.0000, 1.5000], dtype=torch.float64)
    """
    gains = torch.zeros(len(gram), dtype=gram.dtype, device=gram.device)
    inner = gram[kept][:, kept]
    others = gram[kept][:, ~kept].sum(1)
    gains[kept] = 1 + torch.linalg.pinv(inner, rtol=_NOISE, hermitian=True) @ others
    return gains


@dataclass
class _Contributions:
    """X^T X of what the input channels of a layer add to sampled outputs."""

    layer: nn.Module
    places: int
    generator: torch.Generator
    samples: int = 0
    gram: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def hooked(self) -> _Hook:
        return _Hook([(self.layer, lambda layer, args: self.add(args[0]))])

    def add(self, x: Tensor) -> None:
        rows = contributions(self.layer, x, self.places, self.generator).double()
        gram = rows.T @ rows
        self.gram = self.gram + gram if self.samples else gram
        self.samples += len(rows)


class _Hook:
    """Forward pre-hooks for a block."""

    def __init__(self, hooks: Sequence[tuple[nn.Module, Any]]) -> None:
        self.hooks = hooks

    def __enter__(self) -> None:
        self.handles = [module.register_forward_pre_hook(hook) for module, hook in self.hooks]

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()


def _gained(net: nn.Module, masks: Masks) -> _Hook:
    """Multiply what enters layers by their gains."""

    def hook(gains: Tensor, layer: Any) -> Any:
        axes = [1] * (0 if isinstance(layer, nn.Linear) else layer.weight.dim() - 2)
        return lambda _, args: (args[0] * gains.view(-1, *axes), *args[1:])

    modules = {key: net.get_submodule(key.rpartition(".")[0]) for key in masks}
    return _Hook([(modules[key], hook(gains, modules[key])) for key, gains in masks.items()])


def _layers(net: nn.Module) -> list[Target]:
    """All convolutions but the first and those of 1 x 1; else all dense layers but the first."""
    targets = inputs(net)
    layers = [(one, net.get_submodule(one.name)) for one in targets]
    convolutions = [one for one, layer in layers if isinstance(layer, CONVOLUTIONS)][1:]
    wide = [
        one
        for one in convolutions
        if math.prod(net.get_submodule(one.name).kernel_size) > 1  # type: ignore[arg-type]
    ]
    found = wide or [one for one, layer in layers if isinstance(layer, nn.Linear)][1:]
    if not found:
        raise ValueError(
            "the network has no layer whose input channels can be pruned: select layers with "
            "on=ps.inputs(net, where)"
        )
    return found


def _layer(net: nn.Module, target: Target) -> Any:
    if target.kind != "input":
        raise ValueError(
            f"{target.key!r} is not an input of a layer: choose layers with ps.inputs(net, where)"
        )
    layer: Any = net.get_submodule(target.name)
    reason = why_not_thinned(layer)
    if reason:
        raise ValueError(f"{target.name!r} {reason}: leave it out, with `on`")
    return layer


def why_not_thinned(layer: nn.Module) -> str:
    """Why no channels can be taken from what enters a layer; empty where they can.

    >>> why_not_thinned(nn.Conv2d(4, 4, 3, groups=2))
    'is a convolution of 2 groups, of which a filter sees only some channels'
    """
    if not isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
        kind = type(layer).__name__
        return f"is a {kind}, and channels are taken from what enters dense layers and convolutions"
    if not is_plain(layer, (nn.Linear, *CONVOLUTIONS)):
        return (
            "is a subclass of a layer, is parametrized or has hooks, so that it is not known what "
            "its inputs add"
        )
    if isinstance(layer, CONVOLUTIONS) and layer.groups != 1:
        return (
            f"is a convolution of {layer.groups} groups, of which a filter sees only some channels"
        )
    return ""
