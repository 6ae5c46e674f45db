"""The guide of a lifted network: one variational posterior for each target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyro.poutine as poutine
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyrosparse.lifting.activation_noise import check_noise
from pyrosparse.lifting.layers import features
from pyrosparse.lifting.liftable import refused_at, refused_parameter
from pyrosparse.lifting.method import Method, Posterior
from pyrosparse.lifting.origin import Origin, signed, sources
from pyrosparse.lifting.param_store import announce
from pyrosparse.lifting.particles import check_laws, current_particles
from pyrosparse.lifting.target import Target, locate
from pyrosparse.util.errors import UsageError, unknown_name
from pyrosparse.util.sharding import refuse_sharded

if TYPE_CHECKING:
    from pyrosparse.lifting.lift import Lifted

_WHOLE = (
    "a method of weights draws them outside their layer, and needs them whole",
    "Use a method of gates, which leaves the weights to their layers, or leave fully_shard out",
)


class Guide(PyroModule):
    """The variational posterior over all targets of a lifted network.

    Takes the model's arguments and ignores them. Entries of a posterior that are the
    network's own parameters are not held here a second time.
    """

    def __init__(self, lifted: Lifted, contents: Contents, prefix: str) -> None:
        super().__init__()
        self._lifted = (lifted,)  # in a tuple: it is the parent, not a submodule
        self._site_prefix = prefix
        self.origin = Origin()
        self.hold(contents)
        self.register_load_state_dict_post_hook(_after_loading)

    def hold(self, contents: Contents) -> None:
        """Become the variational posterior over these targets."""
        self.posterior = contents.posterior
        self.entries = contents.entries
        self.shared = contents.shared
        self._checked: set[int] = set()

    @property
    def lifted(self) -> Lifted:
        """The lifted network whose posterior this is."""
        return self._lifted[0]

    def forward(self, *args: Any, **kwargs: Any) -> None:
        wrapped = poutine.runtime.am_i_wrapped()
        particles = current_particles() if wrapped else None
        if wrapped:
            for entry in self.entries:
                for name, owner, leaf in entry.parameters:
                    announce(f"{self._site_prefix}{name}", owner._parameters[leaf])
        new = particles is not None and len(particles.batch) not in self._checked
        source = sources()
        with signed(self.origin) if wrapped else nullcontext(), source if new else nullcontext():
            for entry in self.entries:
                entry.draw()
        if particles is not None and new:
            check_laws(source.sites, particles, [entry.draw for entry in self.entries])
            self._checked.add(len(particles.batch))

    def find_frozen(self) -> None:
        """Note which targets have something frozen at zero, so that others pay nothing."""
        for entry in self.entries:
            entry.frozen = not bool(entry.mask.all())


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

    def tensors(self) -> Posterior:
        """The tensors of the posterior by name, themselves: what is written to them stays."""
        if self.owner is not None and self.target.value is not self.parameter():
            # load_state_dict(assign=True) and some conversions replace parameters.
            refuse_sharded([(self.target.key, self.parameter())], *_WHOLE)
            self.target = replace(self.target, value=self.parameter())
        q = Posterior()
        q.training = self.module.training
        for key, (module, leaf) in self.located.items():
            own = module._parameters if leaf in module._parameters else module._buffers
            q[key] = own[leaf]  # type: ignore[assignment]
        return q

    def posterior(self) -> Posterior:
        """The tensors of the posterior by name, as they are now, to compute with."""
        q = self.tensors()
        if self.frozen:
            for key, tensor in q.items():
                if tensor.requires_grad and tensor.shape == self.target.shape:
                    # No gradient reaches what is frozen, from whatever estimator of the ELBO.
                    # Buffers have none, and are themselves here: methods write to them.
                    q[key] = torch.where(self.mask, tensor, tensor.detach())
        return q

    def draw(self) -> None:
        """Sample the target's sites under the posterior."""
        self.method.guide(self.target, self.posterior(), None)

    @property
    def projects(self) -> bool:
        """Whether the method writes a projection."""
        return type(self.method).project is not Method.project

    def project(self) -> None:
        """Project the posterior as its method says, in place; what is frozen stays as it is."""
        q = self.tensors()
        frozen = {
            k: t.clone() for k, t in q.items() if self.frozen and t.shape == self.target.shape
        }
        self.method.project(self.target, q)
        for key, before in frozen.items():
            q[key].copy_(torch.where(self.mask, q[key], before))
        if self.frozen and self.owner is not None:
            self.parameter().masked_fill_(~self.mask, 0.0)

    def projected(self) -> bool:
        """Whether a projection would leave the posterior where it is, up to rounding."""
        q = self.tensors()
        moved = Posterior((key, tensor.clone()) for key, tensor in q.items())
        self.method.project(self.target, moved)
        for key, tensor in q.items():
            same = torch.isclose(tensor, moved[key], equal_nan=True)
            if self.frozen and same.shape == self.target.shape:
                same = same | ~self.mask
            if not same.all():
                return False
        return True


@dataclass(frozen=True)
class Contents:
    """What a lifted network holds: the network, and the posterior over its targets.

    posterior: a module with the tensors that are not the network's own.
    shared:    the names of the network's parameters that are part of a posterior.
    """

    net: nn.Module
    posterior: nn.Module
    entries: list[Entry]
    shared: set[str]

    @classmethod
    def of(
        cls, net: nn.Module, parts: Iterable[tuple[Method, Target, Mapping[str, Tensor]]]
    ) -> Contents:
        """The contents for a network, with the tensors of every target as of ``Method.init``."""
        contents = cls(net, nn.Module(), [], set())
        for method, target, tensors in parts:
            contents._add(method, target, tensors)
        return contents

    def _add(self, method: Method, target: Target, tensors: Mapping[str, Tensor]) -> None:
        module = self.posterior
        for part in target.key.split("."):
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]  # type: ignore[assignment]
        value = target.value
        like = value if value is not None else _first(self.net)
        module.register_buffer(
            "mask", torch.ones(target.shape, dtype=torch.bool, device=like.device)
        )
        located: dict[str, tuple[nn.Module, str]] = {}
        parameters: list[tuple[str, nn.Module, str]] = []
        for key, start in tensors.items():
            tensor = start
            if value is None and start.is_floating_point():
                tensor = start.to(like)  # a gate's method sees no tensor of the network
            if value is not None and tensor is value:
                self.shared.add(target.name)
                located[key] = locate(self.net, target.name)
                parameters.append((f"net.{target.name}", *located[key]))
            elif key.startswith("_"):
                module.register_buffer(key, tensor.detach().clone())
                located[key] = (module, key)
            else:
                module.register_parameter(key, nn.Parameter(tensor.detach().clone()))
                located[key] = (module, key)
                parameters.append((f"guide.posterior.{target.key}.{key}", module, key))
        owner = locate(self.net, target.name) if value is not None else None
        self.entries.append(Entry(method, target, module, located, parameters, owner))


def _after_loading(guide: Guide, _: object) -> None:
    guide.find_frozen()


def _first(net: nn.Module) -> Tensor:
    return next((p.detach() for p in net.parameters() if p.is_floating_point()), torch.zeros(()))


def check_target(net: nn.Module, method: Method, target: Target, taken: list[Target]) -> None:
    """Refuse a target that a method cannot take in this network.

    taken: the targets that other methods, or this one, have already."""
    if target.kind not in method.kinds:
        raise ValueError(
            f"{type(method).__name__} takes targets of kind {' or '.join(method.kinds)}, but "
            f"{target.key!r} is of kind {target.kind}"
        )
    if target.value is not None:
        refuse_sharded([(target.key, target.value)], *_WHOLE)
        if target.value.is_complex():
            raise TypeError(
                f"{target.key!r} is complex, and priors are on real weights: leave it out of the "
                "targets, or make its real and imaginary parts two parameters"
            )
    if any(other.key == target.key for other in taken):
        raise ValueError(f"{target.key!r} is given to two methods, or twice to one")
    owner_name = target.name.rpartition(".")[0] if target.kind == "weight" else target.name
    if target.kind == "weight":
        own = dict(net.named_parameters())
        if target.name not in own:
            raise unknown_name("parameter", target.name, own)
        if own[target.name] is not target.value:
            raise ValueError(
                f"{target.name!r} was selected on another network; select it on this one"
            )
    else:
        own_modules = dict(net.named_modules())
        if target.name not in own_modules:
            raise unknown_name("module", target.name, own_modules)
        gates = target.shape[0] * target.block
        if target.block > 1 and gates != features(own_modules[target.name], target.kind):
            raise ValueError(
                f"{target.key!r} has {target.shape[0]} heads of {target.block} features, which do "
                f"not match {target.name!r}: select the heads on this network, with ps.heads"
            )
    refused = refused_at(net, owner_name)
    if refused is not None:
        name, module, reason = refused
        raise UsageError(
            f"{target.key!r} lies in {name or 'the network itself'} ({type(module).__name__}), "
            f"which cannot be lifted: {reason}. Leave it out of the targets, or write the layer "
            "with nn.Linear"
        )
    if target.kind == "weight" and (why := refused_parameter(net, target.name)) is not None:
        raise ValueError(
            f"{target.name!r} {why}. Make the weight an ordinary parameter first, with "
            "torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm or "
            "remove_spectral_norm"
        )
    if target.kind == "weight" and method.activation_moments(
        target, Posterior(method.init(target))
    ):
        check_noise(net, target)
    method.check(net, target)
