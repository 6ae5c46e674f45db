"""Lift a network into Pyro: its targets are sampled, and the network itself does not change."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.nn import PyroModule
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyrosparse.lifting.call import Inspection, run
from pyrosparse.lifting.draws import Means, Sampled, Trained
from pyrosparse.lifting.guide import Contents, Entry, Guide, check_target
from pyrosparse.lifting.masks import Masks, largest
from pyrosparse.lifting.method import Method
from pyrosparse.lifting.origin import sources
from pyrosparse.lifting.param_store import announce
from pyrosparse.lifting.particles import ParticleRuns, current_particles
from pyrosparse.lifting.target import Target, locate
from pyrosparse.lifting.together import answered
from pyrosparse.util.arguments import arguments
from pyrosparse.util.errors import UsageError, expect_network, refuse_jit, unknown_name


def lift(
    net: nn.Module,
    method: Method | Sequence[tuple[Method, Sequence[Target]]],
    on: Sequence[Target] | None = None,
    *,
    name: str = "",
) -> Lifted:
    """Put a prior on weights or gates of a network: returns a Pyro module with a guide.

    net:    any ``torch.nn.Module``; its class, keys and pickle do not change, and its parameters
            are trained in place.
    method: one method, or several as pairs ``(method, targets)``.
    on:     the targets of a single method, from ``weights``, ``inputs`` or ``outputs``; by
            default the method's own choice.
    name:   a prefix for the names of all sites and parameters; needed if a Pyro program has two
            lifted networks.

    Raises ValueError if a target is given twice, has a kind that the method does not support or
    belongs to another network, or if the network is already lifted. Raises TypeError if the module
    of a target ignores hooks and replaced weights, or is compiled or scripted.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> import pyrosparse as ps
    >>> bnn = lift(net, ps.Gaussian(posterior="normal"))
    >>> bnn(torch.ones(5, 4)).shape
    torch.Size([5, 2])
    """
    expect_network(net)
    if isinstance(net, torch.jit.ScriptModule):
        raise UsageError(
            "the network is a torch.jit program, which ignores gates and drawn weights: lift the "
            "module that it was made from"
        )
    if any(isinstance(module, Lifted) for module in net.modules()):
        raise ValueError(
            "the network is lifted already, or a part of it is: lift the network itself, bnn.net, "
            "with all methods at once, lift(net, [(method, targets), ...])"
        )
    pairs = _pairs(net, method, on)
    assigned = [(one, replace(target, prefix=name)) for one, targets in pairs for target in targets]
    # Gates after weights, so that a gate on a layer's output covers the noise of its weight; and in
    # the order of their modules, in which the network mostly draws them, as Pyro likes it.
    places = {name: place for place, (name, _) in enumerate(net.named_modules(), start=1)}
    assigned.sort(
        key=lambda pair: 0 if pair[1].kind == "weight" else places.get(pair[1].name, len(places))
    )
    if not assigned:
        raise ValueError(
            "there is no target to lift, because `on` or the list of targets is empty: leave `on` "
            "out for the default targets, or select some with ps.weights, ps.gates, ps.heads or "
            "ps.ffn"
        )
    for number, (one, target) in enumerate(assigned):
        check_target(net, one, target, [taken for _, taken in assigned[:number]])
    parts = [(one, target, one.init(target)) for one, target in assigned]
    return Lifted(Contents.of(net, parts), name=name)


def _pairs(net: nn.Module, method: Any, on: Any) -> list[tuple[Method, list[Target]]]:
    """Methods with their targets, from the arguments of ``lift``.

    Raises UsageError if there is anything but methods and targets, ValueError if several methods
    come with ``on``."""
    if isinstance(method, type | str) or not isinstance(method, Method | Iterable):
        named = f"the class {method.__name__}" if isinstance(method, type) else repr(method)
        raise UsageError(
            "a method is an object such as ps.BetaBernoulli(), or a list of pairs (method, "
            f"targets); got {named}"
        )
    if not isinstance(method, Method) and on is not None:
        raise ValueError(
            "several methods need their targets as pairs, [(method, targets), ...], not as `on`"
        )
    given: Any = method
    if isinstance(method, Method):
        given = [(method, method.targets(net) if on is None else on)]
    pairs = []
    for pair in given:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], Method):
            raise UsageError(f"several methods are given as pairs (method, targets); got {pair!r}")
        one, targets = pair[0], list(pair[1])
        strange = [target for target in targets if not isinstance(target, Target)]
        if strange:
            raise UsageError(
                "targets come from ps.weights(net, '*'), ps.gates(net), ps.heads(net) or "
                f"ps.ffn(net); got {strange[0]!r}"
            )
        pairs.append((one, targets))
    return pairs


class Lifted(PyroModule):
    """A network whose targets are drawn by Pyro; made by ``lift``.

    A call runs the network with weights and gates from the active Pyro handlers: drawn from the
    prior, replayed from the guide, or conditioned. ``guide`` is the variational posterior.
    ``state_dict`` is complete before the first step.

    A call draws one set of weights. In the plate of an ELBO's ``vectorize_particles=True`` or of
    ``Predictive(parallel=True)`` it draws one for each particle, and every tensor of the output has
    the particles in its first dimension. The particles run by ``torch.func.vmap``; where the
    network cannot (batch normalisation in training mode), one after another.
    """

    net: nn.Module
    guide: Guide

    def __init__(self, contents: Contents, *, name: str = "") -> None:
        super().__init__()
        self._site_prefix = f"{name}." if name else ""
        self.guide = Guide(self, contents, prefix=self._site_prefix)
        self._trained = Trained()
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
        self._inspection = Inspection()
        self._particle_runs = ParticleRuns()
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
        source, free = sources(), []
        wrapped = poutine.runtime.am_i_wrapped()
        for handler in poutine.runtime._PYRO_STACK:
            if isinstance(handler, answered) and handler.answers(self, args, kwargs):
                return handler.output
        particles = current_particles() if wrapped else None
        if wrapped:
            _refuse_second_call(self.targets)
            for key, owner, leaf in self._free:
                parameter = owner._parameters[leaf]
                announce(f"{self._site_prefix}net.{key}", parameter)
                if parameter is not None and parameter.requires_grad:
                    free.append(key)
        at_mean = any(isinstance(one, mean_gates) for one in poutine.runtime._PYRO_STACK)
        draws = Sampled(self._trained, self.guide.origin, free, source, at_mean)
        if particles is not None:

            def run_at(mean: bool) -> Any:
                drawn = replace(draws, at_mean=True) if mean else draws
                return self._run(drawn, args, kwargs, at_activations=self.training)

            return self._particle_runs.outputs(self, self.guide.entries, particles, source, run_at)
        with source if wrapped else nullcontext():
            return self._run(draws, args, kwargs, at_activations=self.training)

    def mean_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network at its posterior mean: deterministic, without Pyro handlers."""
        self._trained.warn()
        return self._run(Means(), args, kwargs, at_activations=False)

    def from_names(self, named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The network's positional arguments from arguments by name, for data that are dicts.

        Raises TypeError if the network has no argument of a name.
        """
        return arguments(named, self._modules["net"])

    def scores(self) -> dict[str, Tensor]:
        """One score per prunable element of each target, detached, the shape of the target.

        Warns where the posterior was not projected; see ``project``.

        Raises ValueError if a score is NaN.
        """
        self._trained.warn()
        result = {}
        with torch.no_grad():
            self._warn_of_projection()
            for entry in self.guide.entries:
                score = entry.method.score(entry.target, entry.posterior())
                if score.isnan().any():
                    raise ValueError(
                        f"{int(score.isnan().sum())} scores of {entry.target.key!r} are NaN: the "
                        "posterior has diverged, so there are no masks; train again with a lower "
                        "learning rate"
                    )
                result[entry.target.key] = score.detach()
        return result

    def masks(
        self, threshold: float | Mapping[str, float] | None = None, at_least: int = 0
    ) -> Masks:
        """The masks of the remaining elements: ``score >= threshold`` and not frozen at zero.

        threshold: one number for all targets or numbers by name; by default each method's own.
        at_least:  keep at least this number of elements of each target, those with the highest
                   scores.

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

    def match_moments(self, draws: Mapping[str, Tensor]) -> None:
        """Set the guide, and so the network's own parameters, to the mean and standard deviation of
        draws from NUTS or another guide. Scores, masks, means and ``compact`` then use these.

        A weight's score is then |mean| / sd over the draws, or what its method defines.
        ``BetaBernoulli`` uses only the mean of pi.

        draws: (draws, ...) by site, as ``MCMC.get_samples()`` and
               ``Predictive(model, guide=guide, num_samples=...)`` give them; other sites are
               ignored. Parameters that are not targets do not change.

        Raises ValueError, before any change, if the draws of a target are missing, have another
        shape or are not finite; NotImplementedError if a method does not define ``match_moments``.

        >>> import pyrosparse as ps
        >>> bnn = lift(nn.Linear(1, 1), ps.Gaussian(posterior="normal"))
        >>> bnn.match_moments({"weight": torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)})
        >>> bnn.net.weight.item(), bnn.scores()["weight"].item()
        (2.0, 2.0)
        """
        before = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        try:
            with torch.no_grad():
                for entry in self.guide.entries:
                    q = entry.tensors()
                    entry.method.match_moments(entry.target, q, draws)
                    if entry.projects:
                        entry.project()
                    if entry.frozen:
                        if entry.owner is not None:
                            entry.parameter().masked_fill_(~entry.mask, 0.0)
                        entry.method.forget(entry.target, q, ~entry.mask)
        except Exception:
            self.load_state_dict(before)
            raise
        self._trained.untrained.clear()

    @property
    def projects(self) -> bool:
        """Whether a method of a target writes ``Method.project``."""
        return any(entry.projects for entry in self.guide.entries)

    def project(self) -> None:
        """Project the posterior onto its allowed set, in place, as each method's ``project``
        defines it: for example scales onto [0, 1].

        ``fit`` does this after every step. If you use ``SVI``, ``CapturedSVI`` or a torch
        optimizer, call it after each step; without it the objective may have no maximum. For
        methods without such a set it does nothing.

        >>> import pyro, pyrosparse as ps
        >>> from pyro.infer import SVI, TraceMeanField_ELBO
        >>> bnn = lift(nn.Linear(4, 3), ps.Gaussian())
        >>> adam = pyro.optim.Adam({"lr": 0.01})
        >>> svi = SVI(ps.classifier(bnn, 20), bnn.guide, adam, TraceMeanField_ELBO())
        >>> for _ in range(2):
        ...     loss = svi.step(torch.ones(20, 4), torch.zeros(20, dtype=torch.int64))
        ...     bnn.project()
        """
        with torch.no_grad():
            for entry in self.guide.entries:
                if entry.projects:
                    entry.project()

    def _warn_of_projection(self) -> None:
        outside = [e for e in self.guide.entries if e.projects and not e.projected()]
        if outside:
            warnings.warn(
                f"the posterior of {', '.join(entry.target.key for entry in outside)} lies outside "
                f"the set that {type(outside[0].method).__name__} allows, so that scores and masks "
                "do not mean what its prior says: call bnn.project() after every step of the "
                "optimizer, as fit does",
                stacklevel=3,
            )

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
        """Set masked weights to zero in the network's own parameters, once; training may change
        them again.

        masks: by target name, each with the shape of its target; other targets do not change.

        Raises ValueError, before any change, for unknown names, wrong shapes and gates, which have
        no parameter to set.
        """
        entries = self._entries_of(masks)
        for key, entry in entries.items():
            if entry.target.kind != "weight":
                raise ValueError(f"{key!r} is a gate: it has no weight to set to zero; use freeze")
        with torch.no_grad():
            for key, entry in entries.items():
                entry.parameter().masked_fill_((masks[key] == 0).to(entry.mask.device), 0.0)

    def freeze(self, masks: Mapping[str, Tensor]) -> None:
        """Hold masked elements at zero from now on, in draws, means and the network's own
        parameters. A mask of ones releases a target.

        Frozen elements get no gradient. An optimizer with momentum may still change the parameters
        themselves for a while, but not the draws and means; the pruners of ``fit`` clear the
        momentum.

        masks: by target name, boolean or gains, each with the shape of its target; other targets
               do not change.

        Raises ValueError, before any change, for unknown names and wrong shapes.
        """
        entries = self._entries_of(masks)
        with torch.no_grad():
            for key, entry in entries.items():
                entry.mask.copy_(masks[key] != 0)
                if entry.owner is not None:
                    entry.parameter().masked_fill_(~entry.mask, 0.0)
                entry.method.forget(entry.target, entry.tensors(), ~entry.mask)
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
        draws: Means | Sampled,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        at_activations: bool,
    ) -> Any:
        net = self._modules["net"]
        assert net is not None
        return run(
            net,
            self.guide.entries,
            draws,
            args,
            kwargs,
            self._inspection,
            at_activations=at_activations,
        )


class mean_gates(Messenger):
    """A Pyro handler that replaces the gates of lifted networks by their mean gains.

    Sites are sampled as usual, but draws given these sites are replaced by their means. A weight
    that a method draws in this way, as dropout does, is replaced by its mean too.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(2, 1), ps.BetaBernoulli(), ps.inputs(nn.Linear(2, 1)))
    >>> with mean_gates():
    ...     torch.equal(bnn(torch.ones(1, 2)), bnn.mean_forward(torch.ones(1, 2)))
    True
    """


def _refuse_second_call(targets: Sequence[Target]) -> None:
    for handler in reversed(poutine.runtime._PYRO_STACK):
        if isinstance(handler, BlockMessenger):
            return
        if not isinstance(handler, TraceMessenger):
            continue
        for target in targets:
            if target.site in handler.trace.nodes:
                raise ValueError(
                    f"the program has a site {target.site!r} already. A lifted network is called "
                    "once in a model, as its weights are drawn once: call it on "
                    "torch.cat([x1, x2]) and split the result. If a model has two lifted "
                    "networks, give each a name, lift(..., name=...)"
                )


def _check_names(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            raise unknown_name(kind, name, known)
