"""Which layers feed which, found by running the network once with numbers that tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.in_place.layers import feature_dim, is_mixing
from pyrosparse.compaction.layers import has_hooks
from pyrosparse.util.modes import forget


class ProbeError(ValueError):
    """A network cannot be run with other numbers than its own."""


@dataclass(frozen=True)
class Probe:
    """A recorded run in which every layer's output is a leaf of random numbers.

    So what enters a layer depends, for autograd, on the layers that feed it directly alone.

    layers:  the dense layers and convolutions that were called once, in the order of the calls.
    inputs:  what entered each; outputs: the leaves that each gave.
    results: what the network returned.
    """

    layers: dict[str, nn.Module]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    results: list[Tensor]


@dataclass(frozen=True)
class Constants:
    """Of what enters a layer: which features are one number, everywhere, and which number."""

    constant: Tensor
    value: Tensor

    def also(self, other: Constants) -> Constants:
        """What is constant in another run, too, and the same number."""
        constant = self.constant & other.constant & (self.value == other.value)
        return Constants(constant, torch.where(constant, self.value, 0.0))


def observe(
    net: nn.Module, run: Callable[[], Any]
) -> tuple[dict[str, nn.Module], dict[str, Constants]]:
    """The layers that are called once in a run, in their order, and what is constant before them.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> _ = net[0].weight.data[0].zero_(), net[0].bias.data.fill_(0.5)
    >>> layers, constants = observe(net, lambda: net(torch.randn(3, 2)))
    >>> list(layers), constants["1"].constant, constants["1"].value
    (['0', '1'], tensor([ True, False]), tensor([0.5000, 0.0000]))
    """
    calls: Counter[str] = Counter()
    found: dict[str, Constants] = {}

    def note(name: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        calls[name] += 1
        rows = x.movedim(feature_dim(module, x), 0).flatten(1)
        low, high = rows.amin(1), rows.amax(1)
        found[name] = Constants(low == high, torch.where(low == high, low, 0.0))

    forget(net)
    with torch.no_grad():
        _hooked(_candidates(net), note, run)
    once = {name: net.get_submodule(name) for name, count in calls.items() if count == 1}
    return once, found


def probe(net: nn.Module, layers: Mapping[str, nn.Module], run: Callable[[], Any]) -> Probe:
    """Run a network with every layer's output replaced by random numbers, and record it.

    Along the positions of a feature the numbers change their signs and are of two sizes, so that
    no activation hides it from all of them.

    layers: by name, as ``observe`` gives them.
    run:    calls the network and returns its tensors.

    Raises ProbeError if the network does not run on these numbers.
    """
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def replace(name: str, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        inputs[name] = x.clone()  # what enters may be written over later
        dim = feature_dim(module, output)
        size = output.movedim(dim, -1).shape
        draws = torch.randn(size, generator=generator, dtype=torch.float64).abs() + 0.1
        scales = torch.tensor([1.0, -1.0, 8.0, -8.0]).double()
        scales = scales[torch.arange(size[:-1].numel()) % 4]
        draws = (draws.view(-1, size[-1]) * scales[:, None]).view(size).movedim(-1, dim)
        outputs[name] = draws.to(output).detach().requires_grad_()
        return outputs[name].clone()  # a leaf cannot be written over

    with torch.enable_grad():
        try:
            results = _hooked(layers, replace, run)
        except Exception as error:  # whatever a forward raises on numbers that are not its own
            raise ProbeError(f"it fails on random features ({error})") from error
    return Probe(dict(layers), inputs, outputs, results)


@contextmanager
def other_parameters(net: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """For a block, parameters need gradients, and those of other modules than layers are random.

    So nothing is hidden behind a scale that is zero.
    """
    generator = torch.Generator().manual_seed(0)
    own = {id(p) for module in layers.values() for p in module.parameters()}
    before = [(p, p.data, p.requires_grad) for p in net.parameters() if p.is_floating_point()]
    try:
        for parameter, data, _ in before:
            parameter.requires_grad_()
            if id(parameter) not in own:
                draws = torch.rand(data.shape, generator=generator) + 0.5
                if data.dim() > 1:  # the weights of a filter have both signs; scales are positive
                    draws *= torch.randint(0, 2, data.shape, generator=generator) * 2 - 1
                parameter.data = draws.to(data)
        forget(net)
        yield
    finally:
        for parameter, data, trained in before:
            parameter.data = data
            parameter.requires_grad_(trained)


def leaves(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """The leaves that tensors were computed from, by ``id``.

    >>> x = torch.ones(2, requires_grad=True)
    >>> [leaf is x for leaf in leaves([2 * x]).values()]
    [True]
    """
    found: dict[int, Tensor] = {}
    stack: list[Any] = []
    for tensor in tensors:
        if tensor.grad_fn is not None:
            stack.append(tensor.grad_fn)
        elif tensor.requires_grad:
            found[id(tensor)] = tensor
    seen = set(stack)
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                stack.append(before)
    return found


def _candidates(net: nn.Module) -> dict[str, nn.Module]:
    """The layers that are in no module with hooks, of which nothing is cut."""
    hooked = tuple(f"{name}." for name, m in net.named_modules() if name and has_hooks(m))
    return {
        name: module
        for name, module in net.named_modules()
        if is_mixing(module) and not name.startswith(hooked)
    }


def _hooked(layers: Mapping[str, nn.Module], hook: Any, run: Callable[[], Any]) -> Any:
    def at(name: str) -> Any:
        def call(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Any:
            x = args[0] if args else next(iter(kwargs.values()))
            return hook(name, module, x, output)

        return call

    handles = [
        module.register_forward_hook(at(name), with_kwargs=True) for name, module in layers.items()
    ]
    try:
        return run()
    finally:
        for handle in handles:
            handle.remove()
