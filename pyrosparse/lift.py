"""Lift a network into Pyro: its targets are sampled, the network itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.func import functional_call

from pyrosparse.errors import unknown_name
from pyrosparse.masks import Masks, largest
from pyrosparse.method import Method, Posterior
from pyrosparse.target import Target

_REFUSED = {
    nn.MultiheadAttention: "its fast path reads the weights past hooks and replacements",
    nn.RNNBase: "it computes from a flat copy of its weights",
    torch.jit.ScriptModule: "its compiled forward cannot see replaced weights",
}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
        self.net = net
        self.guide = Guide(self, net, assigned, prefix=self._site_prefix)
        self._free = [
            (key, *_locate(net, key))
            for key, _ in net.named_parameters()
            if key not in self.guide.shared
        ]

    @property
    def targets(self) -> list[Target]:
        """The targets, in order."""
        return [entry.target for entry in self.guide.entries]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        net = self._modules["net"]
        assert net is not None
        if poutine.runtime.am_i_wrapped():
            for key, owner, leaf in self._free:
                _announce(f"{self._site_prefix}net.{key}", owner._parameters[leaf])

        def draw(entry: Entry, q: Posterior, x: Tensor | None) -> Tensor:
            value = entry.method.prior(entry.target, q, x)
            allowed = [entry.target.shape]
            if x is not None:
                allowed.append((len(x), *entry.target.shape))
            if tuple(value.shape) not in allowed:
                raise ValueError(
                    f"site {entry.target.site!r} has a draw of shape {tuple(value.shape)} where "
                    f"{entry.target.shape} is needed: a lifted network takes one set of weights a "
                    "call, so run particles one by one (vectorize_particles=False, "
                    "Predictive(..., parallel=False))"
                )
            return value

        return self._run(net, draw, args, kwargs, at_activations=self.training)

    def claim_parameters(self) -> None:
        """Drop what Pyro's param store holds under this network's names of earlier networks."""
        _claim((f"{self._site_prefix}net.{key}", owner, leaf) for key, owner, leaf in self._free)

    def mean_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network at its posterior mean: no draw, no handler, the same result each time.

        Takes and returns what the network does.
        """
        net = self._modules["net"]
        assert net is not None
        return self._run(
            net,
            lambda entry, q, x: entry.method.mean(entry.target, q),
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

    def masks(self, threshold: float | Mapping[str, float] | None = None, at_least: int = 0) -> Masks:
        """What stays: ``score >= threshold``, and not what is frozen at zero already.

        threshold: one number for all targets or numbers by name; by default each method's own.
        at_least:  keep at least this many elements of each target, those of the highest score.

        Raises ValueError on unknown names and on NaN scores.
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
                keep = (scores[key] >= level) & entry.mask
                if int(keep.count_nonzero()) < at_least:
                    keep = largest(scores[key].masked_fill(~entry.mask, -torch.inf), at_least)
                if entry.target.kind == "weight":
                    masks[key] = keep
                else:
                    masks[key] = entry.method.mean(entry.target, entry.posterior()) * keep
        return masks

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
                entry.parameter().mul_(masks[key] != 0)

    def freeze(self, masks: Mapping[str, Tensor]) -> None:
        """Hold what the masks remove at zero from now on, in draws, means and the network's own
        parameters. A mask of ones releases a target.

        masks: by target name, boolean or gains, each of its target's shape; targets not
               named stay as they are.

        Raises ValueError on unknown names and wrong shapes, before anything is changed.
        """
        entries = self._entries_of(masks)
        with torch.no_grad():
            for key, entry in entries.items():
                entry.mask.copy_(masks[key] != 0)
                if entry.owner is not None:
                    entry.parameter().mul_(entry.mask)
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
        draw: Callable[[Entry, Posterior, Tensor | None], Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        at_activations: bool,
    ) -> Any:
        replaced: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for entry in self.guide.entries:
                q = entry.posterior()
                if entry.target.kind != "weight":
                    hooks.enter_context(_gate_hook(net, entry, q, draw))
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
                    module = net.get_submodule(entry.target.name.rpartition(".")[0])
                    hooks.enter_context(module.register_forward_hook(_noise_hook(variance)))
                replaced[entry.target.name] = value * entry.mask if entry.frozen else value
            return functional_call(net, replaced, args, kwargs)


class Guide(PyroModule):
    """The variational posterior over all targets of a lifted network.

    Takes the model's arguments and ignores them. Entries of a posterior that are the
    network's own parameters are not held here a second time.
    """

    def __init__(
        self,
        lifted: Lifted,
        net: nn.Module,
        assigned: Iterable[tuple[Method, Target]],
        prefix: str,
    ) -> None:
        super().__init__()
        self._lifted = (lifted,)  # in a tuple: it is the parent, not a submodule
        self.posterior = nn.Module()
        self.entries: list[Entry] = []
        self.shared: set[str] = set()
        self._site_prefix = prefix
        for method, target in assigned:
            _check_target(net, method, target, self.entries)
            self.entries.append(self._add(net, method, target))
        self.register_load_state_dict_post_hook(_after_loading)

    @property
    def lifted(self) -> Lifted:
        """The lifted network whose posterior this is."""
        return self._lifted[0]

    def forward(self, *args: Any, **kwargs: Any) -> None:
        wrapped = poutine.runtime.am_i_wrapped()
        for entry in self.entries:
            if wrapped:
                for name, owner, leaf in entry.parameters:
                    _announce(f"{self._site_prefix}{name}", owner._parameters[leaf])
            draw = entry.method.guide(entry.target, entry.posterior(), None)
            if draw is not None:
                draw._drawn_by_guide = True  # type: ignore[attr-defined]

    def claim_parameters(self) -> None:
        """Drop what Pyro's param store holds under this guide's names of earlier networks."""
        _claim(
            (f"{self._site_prefix}{name}", owner, leaf)
            for entry in self.entries
            for name, owner, leaf in entry.parameters
        )

    def find_frozen(self) -> None:
        """Note which targets have something frozen at zero, so that others pay nothing."""
        for entry in self.entries:
            entry.frozen = not bool(entry.mask.all())

    def _add(self, net: nn.Module, method: Method, target: Target) -> Entry:
        module = self._modules["posterior"]
        assert module is not None
        for part in target.key.split("."):
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
            assert module is not None
        value = target.value
        device = value.device if value is not None else _device(net)
        module.register_buffer("mask", torch.ones(target.shape, dtype=torch.bool, device=device))
        located: dict[str, tuple[nn.Module, str]] = {}
        parameters: list[tuple[str, nn.Module, str]] = []
        for key, tensor in method.init(target).items():
            if value is not None and tensor is value:
                self.shared.add(target.name)
                located[key] = _locate(net, target.name)
                parameters.append((f"net.{target.name}", *located[key]))
            elif key.startswith("_"):
                module.register_buffer(key, tensor)
                located[key] = (module, key)
            else:
                module.register_parameter(key, nn.Parameter(tensor.detach().clone()))
                located[key] = (module, key)
                parameters.append((f"guide.posterior.{target.key}.{key}", module, key))
        owner = _locate(net, target.name) if value is not None else None
        return Entry(method, target, module, located, parameters, owner)


@dataclass
class Entry:
    """One target of a lifted network with its method and the places of its tensors."""

    method: Method
    target: Target
    module: nn.Module
    located: dict[str, tuple[nn.Module, str]]
    parameters: list[tuple[str, nn.Module, str]]
    owner: tuple[nn.Module, str] | None
    frozen: bool = False

    @property
    def mask(self) -> Tensor:
        """What is not frozen at zero: boolean, the target's shape."""
        return self.module._buffers["mask"]  # type: ignore[return-value]

    def parameter(self) -> Tensor:
        """The network's own parameter, for a weight."""
        assert self.owner is not None
        module, leaf = self.owner
        return module._parameters[leaf]  # type: ignore[return-value]

    def posterior(self) -> Posterior:
        """The tensors of the posterior by name, as they are now."""
        if self.owner is not None and self.target.value is not self.parameter():
            # load_state_dict(assign=True) and some conversions replace parameters.
            self.target = replace(self.target, value=self.parameter())
        return {
            key: module._parameters[leaf] if leaf in module._parameters else module._buffers[leaf]
            for key, (module, leaf) in self.located.items()
        }  # type: ignore[misc]


def _check_target(net: nn.Module, method: Method, target: Target, taken: list[Entry]) -> None:
    if target.kind not in method.kinds:
        raise ValueError(
            f"{type(method).__name__} takes targets of kind {' or '.join(method.kinds)}, but "
            f"{target.key!r} is of kind {target.kind}"
        )
    if any(entry.target.key == target.key for entry in taken):
        raise ValueError(f"{target.key!r} is given to two methods, or twice to one")
    owner_name = target.name.rpartition(".")[0] if target.kind == "weight" else target.name
    if target.kind == "weight":
        own = dict(net.named_parameters())
        if target.name not in own:
            raise unknown_name("parameter", target.name, own)
        if own[target.name] is not target.value:
            raise ValueError(f"{target.name!r} was selected on another network; select it on this one")
    else:
        own_modules = dict(net.named_modules())
        if target.name not in own_modules:
            raise unknown_name("module", target.name, own_modules)
    path = owner_name.split(".") if owner_name else []
    for depth in range(len(path) + 1):
        name = ".".join(path[:depth])
        module = net.get_submodule(name)
        for refused, reason in _REFUSED.items():
            if isinstance(module, refused):
                where = name or "the network itself"
                raise TypeError(
                    f"{target.key!r} lies in {where} ({type(module).__name__}), which cannot be "
                    f"lifted: {reason}. Leave it out of the targets, or write the layer with "
                    "nn.Linear"
                )
    if target.kind == "weight":
        owner = net.get_submodule(owner_name)
        probe = method.activation_moments(target, method.init(target))
        if probe is not None and not (
            target.name.rpartition(".")[2] == "weight"
            and isinstance(owner, (nn.Linear, *_CONVOLUTIONS))
        ):
            raise ValueError(
                f"noise can be drawn at the activations of Linear and convolutional layers, not of "
                f"{target.key!r} ({type(owner).__name__}); use estimator='weights' for it"
            )


def _after_loading(guide: Guide, _: object) -> None:
    guide.find_frozen()


def _check_names(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            raise unknown_name(kind, name, known)


def _locate(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return net.get_submodule(owner), leaf


def _device(net: nn.Module) -> torch.device:
    return next((p.device for p in net.parameters()), torch.device("cpu"))


def _announce(name: str, parameter: Tensor | None) -> None:
    """Tell Pyro of a parameter, so that SVI finds it; the parameter stays the module's own."""
    if parameter is None or not parameter.requires_grad:
        return
    if pyro.settings.get("module_local_params"):
        poutine.runtime.effectful(type="param")(lambda *_, **__: parameter)(
            name, parameter, name=name
        )
        return
    store = pyro.get_param_store()
    held = store._params.get(name)
    if held is None:
        store._constraints[name] = torch.distributions.constraints.real
        store._params[name] = parameter
        store._param_to_name[parameter] = name
    elif held is not parameter:
        raise RuntimeError(
            f"Pyro's param store already holds another {name!r}: of an earlier lifted network (call "
            "pyro.clear_param_store() before training this one), of a second one in the same "
            "program (give each a name: lift(..., name=...)), or loaded from a file (use "
            "bnn.load_state_dict instead)"
        )
    pyro.param(name)


def _claim(parameters: Iterable[tuple[str, nn.Module, str]]) -> None:
    store = pyro.get_param_store()
    for name, owner, leaf in parameters:
        if name in store and store._params[name] is not owner._parameters[leaf]:
            del store[name]


def _gate_hook(
    net: nn.Module,
    entry: Entry,
    q: Posterior,
    draw: Callable[[Entry, Posterior, Tensor | None], Tensor],
) -> Any:
    module = net.get_submodule(entry.target.name)
    drawn: list[Tensor] = []

    def gated(x: Tensor) -> Tensor:
        axis = entry.target.axis
        assert axis is not None
        if not drawn:  # a module that is called twice has one gate
            gate = draw(entry, q, x)
            drawn.append(gate * entry.mask if entry.frozen else gate)
        gate = drawn[0]
        shape = [1] * x.dim()
        shape[axis] = gate.shape[-1]
        if gate.dim() == 2:
            shape[0] = gate.shape[0]
        return x * gate.view(shape)

    if entry.target.kind == "input":
        return module.register_forward_pre_hook(lambda _, args: (gated(args[0]), *args[1:]))
    return module.register_forward_hook(lambda _, args, output: gated(output))


def _noise_hook(variance: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def add_noise(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        squared = args[0].square()
        if isinstance(module, nn.Linear):
            spread = F.linear(squared, variance)
        else:
            spread = module._conv_forward(squared, variance, None)  # type: ignore[operator]
        # A unit that sees only zeros has no noise; the square root's gradient there is infinite.
        return output + spread.clamp_min(torch.finfo(spread.dtype).tiny).sqrt() * torch.randn_like(
            output
        )

    return add_noise
