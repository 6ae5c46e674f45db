"""One call of a lifted network: its targets are drawn, put in place, and seen to act."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyrosparse.lifting.activation_noise import check_plain
from pyrosparse.lifting.attention import attention_of, length_first, no_fast_path, projecting
from pyrosparse.lifting.draws import Draws
from pyrosparse.lifting.guide import Entry
from pyrosparse.lifting.hooks import Gate, Noise
from pyrosparse.lifting.method import Posterior
from pyrosparse.lifting.target import locate
from pyrosparse.lifting.watch import Watch, read_past


class Inspection:
    """Sees to it that gates and noise act, at a cost in the first call of a kind alone.

    A layer may rest in a call, as an auxiliary head does in evaluation mode. But where its
    parameters are read and the layer is not called, its gate or noise would do nothing.
    """

    def __init__(self) -> None:
        self._watched: set[bool] = set()
        self._at_rest: set[tuple[bool, bool, str]] = set()

    def watch(self, net: nn.Module, tensors: Iterable[Tensor]) -> Watch | None:
        """What watches this call, where it is the first with gradients in the network's mode."""
        if not torch.is_grad_enabled() or net.training in self._watched:
            return None
        return Watch(tensors)

    def check(
        self,
        net: nn.Module,
        hooks: list[Gate | Noise],
        replaced: dict[str, Tensor],
        watch: Watch | None,
        run: Callable[[dict[str, Tensor]], Any],
    ) -> None:
        """Raise ValueError where a gate or noise did nothing, or not all that it should."""
        if watch is not None:
            self._watched.add(net.training)
            for hook in hooks:
                weight = replaced.get(hook.target.name)
                if hook.fired and weight is not None and watch.uses(weight) > hook.fired:
                    _refuse(net, [hook])
        mode = (net.training, torch.is_grad_enabled())
        resting = [
            hook
            for hook in hooks
            if not hook.fired and (*mode, hook.target.key) not in self._at_rest
        ]
        if not resting:
            return
        seen = {id(net.get_parameter(name)): value for name, value in replaced.items()}
        tensors = {
            _layer(hook): [
                *(seen.get(id(one), one) for one in net.get_submodule(_layer(hook)).parameters()),
                *net.get_submodule(_layer(hook)).buffers(),
            ]
            for hook in resting
        }
        past = read_past(run, net, tensors)
        silent = [hook for hook in resting if _layer(hook) in past]
        if silent:
            _refuse(net, silent)
        self._at_rest.update((*mode, hook.target.key) for hook in resting)


def run(
    net: nn.Module,
    entries: list[Entry],
    draws: Draws,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    inspection: Inspection,
    *,
    at_activations: bool,
) -> Any:
    """Run a network with the values that ``draws`` gives for its targets.

    at_activations: draw the noise of weights at the activations, where the method can."""
    replaced: dict[str, Tensor] = {}
    hooks: list[Gate | Noise] = []
    gates: list[tuple[Gate, Entry, Posterior]] = []
    with ExitStack() as stack:
        for entry in entries:
            q = entry.posterior()
            if entry.target.kind != "weight":
                gate = _gate(net, entry, q, draws)
                stack.enter_context(gate.on(net.get_submodule(entry.target.name)))
                hooks.append(gate)
                gates.append((gate, entry, q))
                continue
            value = draws.value(entry, q, None)
            moments = None
            # Noise belongs at the activations only for what the guide drew: conditioned
            # weights and draws from the prior are to be used as they are.
            if at_activations and draws.by_guide(entry):
                moments = entry.method.activation_moments(entry.target, q)
            if moments is not None:
                value, scale = moments
                layer, _ = locate(net, entry.target.name)
                check_plain(layer, entry.target)
                noise = Noise(entry.target, scale * entry.mask if entry.frozen else scale)
                stack.enter_context(noise.on(layer))
                hooks.append(noise)
            replaced[entry.target.name] = value * entry.mask if entry.frozen else value
        if hooks:
            stack.enter_context(no_fast_path())
            stack.enter_context(projecting(_attentions(net, hooks)))
        watch = inspection.watch(net, replaced.values())
        with watch or nullcontext():
            result = functional_call(net, replaced, args, kwargs)

    def again(buffers: dict[str, Tensor]) -> Any:
        with poutine.block():
            return functional_call(net, replaced | buffers, args, kwargs)

    if watch is not None or not all(hook.fired for hook in hooks):
        inspection.check(net, hooks, replaced, watch, again)
    for gate, entry, q in gates:
        if not gate.fired:
            draws.skip(entry, q)
    return result


def _gate(net: nn.Module, entry: Entry, q: Posterior, draws: Draws) -> Gate:
    def gains(x: Tensor) -> Tensor:
        value = draws.value(entry, q, x)
        return value * entry.mask if entry.frozen else value

    return Gate(entry.target, gains, length_first=length_first(net, entry.target.name))


def _attentions(net: nn.Module, hooks: list[Gate | Noise]) -> list[nn.MultiheadAttention]:
    """The attentions of whose output projections there are gates or noise."""
    found = [attention_of(net, layer) for layer in dict.fromkeys(map(_layer, hooks)) if layer]
    return [one for one in found if one is not None]


def _layer(hook: Gate | Noise) -> str:
    target = hook.target
    return target.name.rpartition(".")[0] if target.kind == "weight" else target.name


def _refuse(net: nn.Module, hooks: list[Gate | Noise]) -> None:
    keys = ", ".join(repr(hook.target.key) for hook in hooks)
    noise = any(isinstance(hook, Noise) for hook in hooks)
    what = "activation noise" if noise else "gates"
    names = [hook.target.name for hook in hooks]
    raise ValueError(
        f"the {what} of {keys} had no effect: the network reads the parameters of "
        f"{', '.join(repr(_layer(hook) or 'the network itself') for hook in hooks)} without "
        "calling the layer, as F.linear(x, layer.weight) or layer.forward(x) do. Call the layer "
        f"in the network's forward, or leave it out of the targets ({', '.join(map(repr, names))})"
        + (", or draw the noise at the weight, such as by estimator='weights'" if noise else "")
    )
