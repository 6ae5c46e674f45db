"""Lift a network into Pyro: its targets are sampled, the network itself stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.nn import PyroModule
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from pyrosparse.errors import refuse_jit, unknown_name
from pyrosparse.guide import Contents, Entry, Guide, check_target, locate
from pyrosparse.hooks import gate, noise
from pyrosparse.masks import Masks, largest
from pyrosparse.method import Method, Posterior
from pyrosparse.param_store import announce
from pyrosparse.target import Target

Draw = Callable[[Entry, Posterior, Tensor | None], Tensor]


def lift(
    net: nn.Module,
    method: Method | Sequence[tuple[Method, Sequence[Target]]],
    on: Sequence[Target] | None = None,
    *,
    name: str = "",
) -> Lifted:
    """Put a sparsity prior on a network: a Pyro model of its output, with a guide.

    net:    any ``torch.nn.Module``; its class, keys and pickle stay as they are, and its
            parameters are trained in place.
    method: one method, or several as pairs ``(method, targets)``.
    on:     the targets of a single method, from ``weights``, ``inputs`` or ``outputs``; by
            default the method's own choice.
    name:   put before all sites and parameters; needed where a Pyro program holds two
            lifted networks.

    Raises ValueError where a target is named twice, is of a kind that the method does not take,
    or is not of this network; TypeError where its module computes past hooks and replaced
    weights.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> import pyrosparse as ps
    >>> bnn = lift(net, ps.Gaussian(posterior="normal"))
    >>> bnn(torch.ones(5, 4)).shape
    torch.Size([5, 2])
    """
    if isinstance(method, Method):
        pairs = [(method, method.targets(net) if on is None else list(on))]
    elif on is not None:
        raise ValueError("with several methods give each its targets as a pair, not `on`")
    else:
        pairs = [(one, list(targets)) for one, targets in method]
    assigned = [(one, replace(target, prefix=name)) for one, targets in pairs for target in targets]
    # Gates after weights, so that a gate on a layer's output covers the noise of its weight.
    assigned.sort(key=lambda pair: pair[1].kind != "weight")
    if not assigned:
        raise ValueError("there is no target to lift: `on` is empty")
    return Lifted(net, assigned, name=name)


class Lifted(PyroModule):
    """A network whose targets are drawn by Pyro; made by ``lift``.

    Calling it runs the network with the weights and gates that the Pyro handlers in force give:
    the prior's, the guide's under replay, or conditioned ones. Its ``guide`` is the variational
    posterior, its ``state_dict`` is complete before the first step.

    A call draws one set of weights: several particles are run one after another
    (``vectorize_particles=False``, ``Predictive(parallel=False)``, Pyro's defaults).
    """

    net: nn.Module
    guide: Guide

    def __init__(
        self, net: nn.Module, assigned: Iterable[tuple[Method, Target]], *, name: str = ""
    ) -> None:
        super().__init__()
        self._site_prefix = f"{name}." if name else ""
        assigned = list(assigned)
        for number, (one, target) in enumerate(assigned):
            check_target(net, one, target, [taken for _, taken in assigned[:number]])
        parts = [(one, target, one.init(target)) for one, target in assigned]
        contents = Contents.of(net, parts)
        self.guide = Guide(self, contents, prefix=self._site_prefix)
        self.hold(contents)

    @property
    def contents(self) -> Contents:
        """The network and the posterior over its targets, as ``hold`` takes them."""
        net = self._modules["net"]
        assert net is not None
        return Contents(net, self.guide.posterior, self.guide.entries, self.guide.shared)

    def hold(self, contents: Contents) -> None:
        """Become the lifted form of another network: of a smaller one while ``fit`` cuts it."""
        self.net = contents.net
        self.guide.hold(contents)
        self._free = [
            (key, *locate(contents.net, key))
            for key, _ in contents.net.named_parameters()
            if key not in contents.shared
        ]

    @property
    def targets(self) -> list[Target]:
        """The targets, in order."""
        return [entry.target for entry in self.guide.entries]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        refuse_jit()
        net = self._modules["net"]
        assert net is not None
        if poutine.runtime.am_i_wrapped():
            _refuse_plates()
            for key, owner, leaf in self._free:
                announce(f"{self._site_prefix}net.{key}", owner._parameters[leaf])

        at_mean = any(isinstance(one, mean_gates) for one in poutine.runtime._PYRO_STACK)
        draw = _draw_at_mean if at_mean else _draw
        return self._run(net, draw, args, kwargs, at_activations=self.training)

    def mean_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network at its posterior mean: no draw, no handler, the same result each time.

        Takes and returns what the network does.
        """
        net = self._modules["net"]
        assert net is not None
        return self._run(
            net,
            lambda entry, q, x: entry.method.mean(entry.target, q, x),
            args,
            kwargs,
            at_activations=False,
        )

    def scores(self) -> dict[str, Tensor]:
        """One score per prunable element of each target, detached, the shape of the target.

        Raises ValueError where a score is NaN.
        """
        result = {}
        with torch.no_grad():
            for entry in self.guide.entries:
                score = entry.method.keep(entry.target, entry.posterior())
                if score.isnan().any():
                    raise ValueError(
                        f"{int(score.isnan().sum())} scores of {entry.target.key!r} are NaN: the "
                        "posterior has diverged, and nothing can be pruned by it"
                    )
                result[entry.target.key] = score.detach()
        return result

    def masks(
        self, threshold: float | Mapping[str, float] | None = None, at_least: int = 0
    ) -> Masks:
        """What stays: ``score >= threshold``, and not what is frozen at zero already.

        threshold: one number for all targets or numbers by name; by default each method's own.
        at_least:  keep at least this many elements of each target, those of the highest score.

        Raises ValueError on unknown names, and on NaN scores and thresholds.
        """
        scores = self.scores()
        if isinstance(threshold, Mapping):
            _check_names("target", threshold, scores)
        masks = Masks()
        with torch.no_grad():
            for entry in self.guide.entries:
                key = entry.target.key
                level = threshold.get(key) if isinstance(threshold, Mapping) else threshold
                level = entry.method.threshold if level is None else level
                if math.isnan(level):
                    raise ValueError(f"the threshold of {key!r} is NaN: give a number")
                keep = (scores[key] >= level) & entry.mask
                if int(keep.count_nonzero()) < at_least:
                    best = largest(scores[key].masked_fill(~entry.mask, -torch.inf), at_least)
                    keep = best & entry.mask
                if entry.target.kind == "weight":
                    masks[key] = keep
                else:
                    masks[key] = entry.method.mean(entry.target, entry.posterior(), None) * keep
        return masks

    def gates(self) -> dict[str, nn.Module]:
        """The gates whose gains depend on the input, by target name, as modules that ``compact``
        puts into the network; those of other methods are in ``masks`` alone."""
        found = {}
        with torch.no_grad():
            for entry in self.guide.entries:
                gate = entry.method.gate(entry.target, entry.posterior())
                if gate is not None:
                    found[entry.target.key] = gate
        return found

    def zero(self, masks: Mapping[str, Tensor]) -> None:
        """Set what the masks remove to zero in the network's own parameters, once: training goes
        on from there.

        masks: by target name, each of its target's shape; targets not named stay as they are.

        Raises ValueError on unknown names, wrong shapes and gates (which have no parameter to
        set), before anything is changed.
        """
        entries = self._entries_of(masks)
        for key, entry in entries.items():
            if entry.target.kind != "weight":
                raise ValueError(f"{key!r} is a gate: it has no weight to set to zero; use freeze")
        with torch.no_grad():
            for key, entry in entries.items():
                entry.parameter().masked_fill_((masks[key] == 0).to(entry.mask.device), 0.0)

    def freeze(self, masks: Mapping[str, Tensor]) -> None:
        """Hold what the masks remove at zero from now on, in draws, means and the network's own
        parameters. A mask of ones releases a target.

        They get no gradient any more. An optimizer with momentum may still move the parameters
        themselves for a while (not the draws and means): the pruners of ``fit`` clear its memory.

        masks: by target name, boolean or gains, each of its target's shape; targets not
               named stay as they are.

        Raises ValueError on unknown names and wrong shapes, before anything is changed.
        """
        entries = self._entries_of(masks)
        with torch.no_grad():
            for key, entry in entries.items():
                entry.mask.copy_(masks[key] != 0)
                entry.frozen = False  # to reach the tensors themselves
                if entry.owner is not None:
                    entry.parameter().masked_fill_(~entry.mask, 0.0)
                entry.method.forget(entry.target, entry.posterior(), ~entry.mask)
        self.guide.find_frozen()

    def _entries_of(self, masks: Mapping[str, Tensor]) -> dict[str, Entry]:
        entries = {entry.target.key: entry for entry in self.guide.entries}
        _check_names("target", masks, entries)
        for key, mask in masks.items():
            if tuple(mask.shape) != entries[key].target.shape:
                raise ValueError(
                    f"the mask of {key!r} has shape {tuple(mask.shape)}; the target has "
                    f"{entries[key].target.shape}"
                )
        return {key: entries[key] for key in masks}

    def _run(
        self,
        net: nn.Module,
        draw: Draw,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        at_activations: bool,
    ) -> Any:
        replaced: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for entry in self.guide.entries:
                q = entry.posterior()
                if entry.target.kind != "weight":
                    hooks.enter_context(_gate(net, entry, q, draw))
                    continue
                value = draw(entry, q, None)
                moments = None
                # Noise belongs at the activations only for what the guide drew: conditioned
                # weights and draws from the prior are to be used as they are.
                if at_activations and getattr(value, "_drawn_by_guide", False):
                    moments = entry.method.activation_moments(entry.target, q)
                if moments is not None:
                    value, scale = moments
                    variance = (scale * entry.mask if entry.frozen else scale).square()
                    layer, _ = locate(net, entry.target.name)
                    hooks.enter_context(noise(layer, variance))
                replaced[entry.target.name] = value * entry.mask if entry.frozen else value
            return functional_call(net, replaced, args, kwargs)


class mean_gates(Messenger):
    """A Pyro handler under which the gates of lifted networks have their mean gains, not draws.

    Their sites are sampled as ever; what is drawn given them is not.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(2, 1), ps.BetaBernoulli(), ps.inputs(nn.Linear(2, 1)))
    >>> with mean_gates():
    ...     torch.equal(bnn(torch.ones(1, 2)), bnn.mean_forward(torch.ones(1, 2)))
    True
    """


def _refuse_plates() -> None:
    for handler in poutine.runtime._PYRO_STACK:
        if isinstance(handler, IndepMessenger) and handler._vectorized:
            raise ValueError(
                f"a lifted network is called inside the plate {handler.name!r}, but takes one set "
                "of weights a call: call it before the plate of the data, and run particles one by "
                "one (vectorize_particles=False, Predictive(..., parallel=False))"
            )


def _draw(entry: Entry, q: Posterior, x: Tensor | None) -> Tensor:
    value = entry.method.prior(entry.target, q, x)
    shape = entry.target.shape
    if tuple(value.shape) != shape and (x is None or tuple(value.shape) != (len(x), *shape)):
        raise ValueError(
            f"site {entry.target.site!r} has a draw of shape {tuple(value.shape)} where {shape} is "
            "needed: a lifted network takes one set of weights a call"
        )
    return value


def _draw_at_mean(entry: Entry, q: Posterior, x: Tensor | None) -> Tensor:
    value = _draw(entry, q, x)
    return value if x is None else entry.method.mean(entry.target, q, x)


def _gate(net: nn.Module, entry: Entry, q: Posterior, draw: Draw) -> RemovableHandle:
    def gains(x: Tensor) -> Tensor:
        value = draw(entry, q, x)
        return value * entry.mask if entry.frozen else value

    return gate(net.get_submodule(entry.target.name), entry.target, gains)


def _check_names(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            raise unknown_name(kind, name, known)
