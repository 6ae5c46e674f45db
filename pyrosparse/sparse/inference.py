"""``sparse_inference``: each layer with zeros uses the kernel that is fastest on this machine."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.check import difference
from pyrosparse.sparse.choices import Choice, Choices
from pyrosparse.sparse.layers import candidates
from pyrosparse.util.hooks import hooks_of
from pyrosparse.util.timing import best_latency

FASTER = 1.2  # how many times faster than the dense layer another kernel must be

_LAYERS = (nn.Linear, nn.Conv2d)


def sparse_inference(
    net: nn.Module, example: Tensor | Sequence[Any], *, repeats: int = 30
) -> tuple[nn.Module, Choices]:
    """A copy of the network in which each dense layer and two-dimensional convolution with zeros in
    its weight uses the fastest kernel on this machine, for inputs like the example.

    The kernels are the dense one; torch's compressed rows (CSR) and square blocks (BSR); panels of
    32 rows, each with the columns that it needs; the rows and columns with a non-zero; up to 16
    rectangles; and for convolutions all of these on the patches of the input, and the smallest
    kernel that contains the layer's kernels. A layer stays dense unless another kernel takes less
    than 1 / 1.2 of its time in two comparisons: among all kernels, and again between these two. All
    are timed in turns on the first activation that reaches the layer, with torch's current number
    of threads. Layers of other classes, and layers with hooks, do not change.

    For finite inputs the outputs equal the network's up to the order of sums. Zeros are left out of
    the products, so an infinity or a NaN times zero is left out too.

    net:     a network in evaluation mode, such as a result of ``compact``; it does not change.
    example: an input of the network, a tensor or a sequence of arguments, at the batch size that
             matters.
    repeats: the number of timings of the dense and the best kernel in each of three rounds, of
             which the smallest median is reported; a third of it for the others.

    Returns the copy, of the same class, and the kernels of the layers with the times of all
    kernels; print these.

    Raises ValueError if the network is in training mode, repeats is not positive, or the network
    reads the weight of a replaced layer outside that layer.
    >>> net = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10)).eval()
    >>> net[0].weight.data[2:] = 0
    >>> fast, kernels = sparse_inference(net, torch.ones(1, 300), repeats=3)
    >>> [layer.name for layer in kernels.layers]
    ['0']
    >>> bool((fast(torch.ones(5, 300)) - net(torch.ones(5, 300))).abs().max() < 1e-5)
    True
    """
    if any(module.training for module in net.modules()):
        raise ValueError(
            "sparse inference needs a network in evaluation mode, but this one, or a part of it, "
            "is in training mode: call net.eval() first"
        )
    if repeats < 1:
        raise ValueError(f"repeats must be 1 or more, got {repeats}")
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    activations = _activations(net, inputs)
    working = copy.deepcopy(net)
    copies = dict(working.named_modules())
    choices, chosen = [], {}
    for name, activation in activations.items():
        layer = copies[name]
        choice, chosen[layer] = _choose(name, layer, activation, repeats)
        choices.append(choice)
    fast = _replaced(working, chosen)
    _check_that_it_runs(fast, inputs)
    return fast, Choices(choices)


def _activations(net: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """The first input of each layer that may be replaced, in the order of the calls."""
    activations: dict[str, Tensor] = {}
    handles = []
    for name, module in net.named_modules():
        if type(module) not in _LAYERS or hooks_of(module):
            continue
        assert isinstance(module, _LAYERS)
        if bool((module.weight == 0).any()):

            def keep(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                if name not in activations and args:
                    activations[name] = args[0].detach().clone()

            handles.append(module.register_forward_pre_hook(keep))
    try:
        with torch.no_grad():
            net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return activations


def _choose(
    name: str, layer: nn.Module, activation: Tensor, repeats: int
) -> tuple[Choice, nn.Module]:
    assert isinstance(layer, _LAYERS)
    kernels: dict[str, nn.Module] = {"dense": layer}
    with torch.no_grad():
        expected = layer(activation)
        for kernel, candidate in candidates(layer):
            try:
                found = candidate.eval()(activation)
            except (RuntimeError, NotImplementedError):
                continue  # this build of torch has no such product for this dtype or device
            if difference(expected, found) <= _tolerance(expected):
                kernels[kernel] = candidate
    times = _times(kernels, activation, -(-repeats // 3))
    best = min(times, key=lambda kernel: times[kernel])
    if times["dense"] >= FASTER * times[best]:
        # The smallest of many times is biased: the two are measured again.
        pair = {kernel: kernels[kernel] for kernel in ("dense", best)}
        times |= _times(pair, activation, repeats)
    kernel = best if times["dense"] >= FASTER * times[best] else "dense"
    density = int(layer.weight.count_nonzero()) / layer.weight.numel()
    choice = Choice(name, density, tuple(activation.shape), kernel, times)
    return choice, kernels[kernel]


def _times(kernels: dict[str, nn.Module], activation: Tensor, repeats: int) -> dict[str, float]:
    medians = best_latency([*kernels.values()], activation, repeats=repeats)
    return dict(zip(kernels, medians, strict=True))


def _replaced(net: nn.Module, chosen: dict[nn.Module, nn.Module]) -> nn.Module:
    """The network with some modules replaced, wherever they occur."""
    if net in chosen:
        return chosen[net]
    for module in list(net.modules()):
        for name, child in module._modules.items():
            if child in chosen:
                module._modules[name] = chosen[child]
    return net


def _check_that_it_runs(fast: nn.Module, inputs: tuple[Any, ...]) -> None:
    try:
        with torch.no_grad():
            fast(*inputs)
    except AttributeError as error:
        raise ValueError(
            f"a part of the network reads the parameters of a layer directly ({error}), so the "
            "layer cannot be replaced: call the layer instead"
        ) from error


def _tolerance(expected: Tensor) -> float:
    known = {torch.float64: 1e-12, torch.float32: 1e-5}
    return known.get(expected.dtype, 10 * torch.finfo(expected.dtype).eps)
