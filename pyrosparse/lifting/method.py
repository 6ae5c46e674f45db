"""A method: a sparsity prior with its guide, as Pyro programs about one tensor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor, nn
from torch.distributions import Transform, biject_to, constraints

from pyrosparse.lifting.target import Kind, Target, gates, weights
from pyrosparse.util.globs import first_match


class Posterior(dict[str, Tensor]):
    """The tensors of one target's variational posterior, by name.

    training: whether the network is in training mode.

    >>> Posterior(loc=torch.zeros(2)).training
    False
    """

    training: bool = False


class Method(ABC):
    """A sparsity prior and its guide; subclass it as a frozen dataclass of hyper-parameters.

    A target's posterior ``q`` is the mapping that ``init`` returns. Entries are trained, except
    those whose name begins with an underscore, which are buffers. An entry that *is*
    ``target.value`` stays the network's own parameter, so that the network itself holds it.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("weight",)
    threshold: ClassVar[float] = 0.0
    """What ``score`` is compared with when a user names no threshold."""
    proper: ClassVar[bool] = True
    """Whether the prior is a distribution. Where it is not, it has no draws, and its constant is
    arbitrary, so that ELBOs under it and another prior must not be compared."""

    @abstractmethod
    def init(self, target: Target) -> dict[str, Tensor]:
        """Where the guide starts: tensors by name, of any shape."""

    @abstractmethod
    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        """Sample under the prior; returns the weight (``target.shape``) or the gate
        (``target.shape``, or ``(len(x), *target.shape)`` for one gate per example).

        x: the activation at the gate; None for a weight."""

    @abstractmethod
    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor | None:
        """Sample the prior's sites under the variational posterior; returns the draw of
        ``target.site``, or None where the method has no such site."""

    @abstractmethod
    def score(self, target: Target, q: Posterior) -> Tensor:
        """One score per prunable element; the mask is ``score >= threshold``."""

    @abstractmethod
    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        """The weight or gain used at test time, E_q of what ``prior`` returns.

        x: the activation at the gate; None for a weight, and where a gain for all inputs is
           wanted: then what is common to them."""

    def check(self, net: nn.Module, target: Target) -> None:  # noqa: B027
        """Raise ValueError, or warn, where a target of this network is none for the method;
        ``lift`` calls it first."""

    def gate(self, target: Target, q: Posterior) -> nn.Module | None:
        """The mean gain as a module that multiplies an activation by it, where it depends on the
        input; None where it does not."""
        return None

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:  # noqa: B027
        """Give removed elements the prior as their posterior, in place, beyond the location, which
        ``Lifted.freeze`` sets to zero: what is gone then costs no KL.

        removed: boolean, ``target.shape``."""

    def part(
        self, target: Target, q: Posterior, smaller: Target, positions: Tensor
    ) -> dict[str, Tensor]:
        """The posterior of some of a target's elements, with the law that they have in the whole;
        by default of every tensor of the target's shape these elements, and the others as they are.

        smaller:   the target of these elements; its ``shape`` is theirs.
        positions: where they lie in the target, counted in row-major order; int64, of that shape.

        Raises ValueError if their law depends on elements that are not among them."""
        return {
            key: tensor.detach().flatten()[positions.to(tensor.device)]
            if tensor.shape == target.shape
            else tensor.detach()
            for key, tensor in q.items()
        }

    def project(self, target: Target, q: Posterior) -> None:  # noqa: B027
        """Bring the posterior back into the set in which it must lie, in place: to the nearest
        point of it, such as ``q["loc"].clamp_(0, 1)``.

        ``fit`` calls it before the first step and after every step; where ``SVI`` or a torch
        optimizer takes the steps, ``Lifted.project`` does it. Doing it twice does no more."""

    def skip(self, target: Target, q: Posterior) -> None:
        """Sample the prior's sites of a gate whose layer does not run in this call, as ``prior``
        does; by default by ``prior`` itself, at an activation of one example of zeros."""
        assert target.axis is not None
        like = next(iter(q.values()))
        shape = (1, *target.shape) if target.axis == -1 else (1, *target.shape, 1)
        self.prior(target, q, torch.zeros(shape, dtype=like.dtype, device=like.device))

    def hidden_draws(self, q: Posterior) -> bool:
        """Whether ``prior`` draws something now that is no Pyro site: HMC and NUTS, whose density
        must not be random, are then refused."""
        return False

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        """Give the posterior the mean and the spread of draws, in place.

        draws: of the method's sites, by their names, (draws, ...) each."""
        raise NotImplementedError(
            f"{type(self).__name__} does not define match_moments, which makes a posterior from "
            "draws: write it, or compute scores and masks from the draws yourself"
        )

    def activation_moments(self, target: Target, q: Posterior) -> tuple[Tensor, Tensor] | None:
        """Location and standard deviation of an independent normal posterior over the weight
        whose noise is to be drawn at the activations, or None to draw it at the weight."""
        return None

    def normal_posterior(
        self, target: Target, q: Posterior
    ) -> tuple[Tensor, Tensor, Tensor | float] | None:
        """Location and standard deviation of an independent normal posterior over the weight, and
        the standard deviation of its independent normal prior, whose mean is 0; None where either
        is something else. Where it is not None, ``forget`` makes the posterior the prior."""
        return None

    def targets(self, net: nn.Module) -> list[Target]:
        """The targets used when the user names none."""
        return weights(net) if "weight" in self.kinds else gates(net)


def from_pyro(
    fn: Callable[[Target], Tensor],
    *,
    score: Callable[[Target, Posterior], Tensor] | None = None,
    threshold: float = 1.0,
    initial_scale: float = 0.01,
) -> Method:
    """Make a method from one function: a Pyro program that draws a weight from its prior.

    fn:   ``fn(target)`` samples with ``pyro.sample`` and returns the weight, ``target.shape``.
          Its sites are named ``target.site`` (the weight) or ``target.part(name)``.
    score: ``score(target, q)`` returns one per element; by default the signal-to-noise
          ratio |loc| / scale of the site named ``target.site``. ``q`` holds
          ``loc`` and ``log_scale`` for that site, ``<name>_loc`` and ``<name>_log_scale`` for
          the others, in the unconstrained space of each site.
    threshold: what the score is compared with when none is named.
    initial_scale: standard deviation of the guide at the start, unconstrained space.

    The guide is a mean-field normal in the unconstrained space of every site; the weight's
    location is the network's own parameter.

    Raises ValueError when ``fn`` names sites otherwise, has discrete sites, or does not
    return a tensor of the target's shape.

    >>> import torch
    >>> from torch import nn
    >>> import pyro, pyro.distributions as dist
    >>> def laplace(target):
    ...     prior = dist.Laplace(torch.zeros(target.shape), 0.1).to_event(len(target.shape))
    ...     return pyro.sample(target.site, prior)
    >>> method = from_pyro(laplace)
    >>> sorted(method.init(weights(nn.Linear(3, 2))[0]))
    ['loc', 'log_scale']
    """
    return _PyroPrior(fn, score, threshold, initial_scale)


class _PyroPrior(Method):
    def __init__(
        self,
        fn: Callable[[Target], Tensor],
        score: Callable[[Target, Posterior], Tensor] | None,
        threshold: float,
        initial_scale: float,
    ) -> None:
        if not initial_scale > 0:
            raise ValueError(f"initial_scale must be positive, got {initial_scale}")
        self.fn = fn
        self.own_score = score
        self.threshold = threshold  # type: ignore[misc]
        self.initial_scale = initial_scale
        self._sites: dict[tuple[str, tuple[int, ...]], dict[str, _Site]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sites": {}}

    def _sites_of(self, target: Target) -> dict[str, _Site]:
        # Traced once a target: its sites do not change from step to step.
        key = (target.site, target.shape)
        if key not in self._sites:
            self._sites[key] = _trace_sites(self.fn, target)
        return self._sites[key]

    def __repr__(self) -> str:
        return f"from_pyro({getattr(self.fn, '__name__', self.fn)!s})"

    def init(self, target: Target) -> dict[str, Tensor]:
        assert target.value is not None
        q: dict[str, Tensor] = {}
        for key, site in self._sites_of(target).items():
            if key == "":
                loc = target.value
            else:
                median = site.median if site.transform is None else site.transform.inv(site.median)
                loc = median.to(target.value)
            q[_entry(key, "loc")] = loc
            q[_entry(key, "log_scale")] = torch.full_like(loc, self.initial_scale).log().detach()
        return q

    def part(
        self, target: Target, q: Posterior, smaller: Target, positions: Tensor
    ) -> dict[str, Tensor]:
        found = super().part(target, q, smaller, positions)
        for key, site in self._sites_of(smaller).items():
            if found[_entry(key, "loc")].shape != site.median.shape:
                raise ValueError(
                    f"the posterior of {target.key!r} cannot be cut: the prior {self!r} has a site "
                    f"{key!r} whose shape follows from the weight's and is not the same, "
                    f"{tuple(q[_entry(key, 'loc')].shape)}, so it is not known which of its "
                    "elements belong to which weights. Write a Method with its own `part`"
                )
        return found

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return self.fn(target)

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor | None:
        draw = None
        for key, site in self._sites_of(target).items():
            base = dist.Normal(q[_entry(key, "loc")], q[_entry(key, "log_scale")].exp())
            posterior = base
            if site.transform is not None:
                posterior = dist.TransformedDistribution(base, [site.transform])
            name = target.part(key) if key else target.site
            value = pyro.sample(name, posterior.to_event(site.event_dim - posterior.event_dim))
            draw = draw if key else value
        return draw

    def score(self, target: Target, q: Posterior) -> Tensor:
        if self.own_score is not None:
            return self.own_score(target, q)
        return signal_to_noise(q)

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        for key, site in self._sites_of(target).items():
            name = target.part(key) if key else target.site
            values = draws_of(draws, name, tuple(site.median.shape))
            if site.transform is not None:
                values = site.transform.inv(values)
            normal_moments(values, q[_entry(key, "loc")], q[_entry(key, "log_scale")])

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        if "loc" not in q:
            raise ValueError(
                f"{self!r} has no site named {target.site!r}, so the mean weight is not known"
            )
        return q["loc"]


def signal_to_noise(q: Posterior) -> Tensor:
    """|loc| / scale of a normal posterior, elementwise, the shape of ``loc``."""
    return q["loc"].abs() * (-q["log_scale"]).exp()


def check_kl_scale(kl_scale: float | Mapping[str, float], name: str = "kl_scale") -> None:
    """Refuse weights of a KL divergence that are not positive and finite numbers.

    name: of the option in messages.

    Raises ValueError."""
    for value in kl_scale.values() if isinstance(kl_scale, Mapping) else [kl_scale]:
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def kl_scale_of(
    kl_scale: float | Mapping[str, float], target: Target, name: str = "kl_scale"
) -> float:
    """The weight of a target's KL divergence: one number for all, or the first whose glob matches
    the name of the target.

    name: of the option in messages.

    Raises ValueError if no glob matches.

    >>> conv1, dense = gates(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)))
    >>> kl_scale_of({"0.*": 20.0, "*": 1.0}, conv1), kl_scale_of({"0.*": 20.0, "*": 1.0}, dense)
    (20.0, 1.0)
    """
    if not isinstance(kl_scale, Mapping):
        return kl_scale
    glob = first_match(kl_scale, target.key)
    if glob is not None:
        return kl_scale[glob]
    raise ValueError(
        f'{name} has no number for {target.key!r}: it has {", ".join(kl_scale)}; add one for "*"'
    )


def draws_of(draws: Mapping[str, Tensor], site: str, shape: tuple[int, ...]) -> Tensor:
    """The draws of a site one after another, (draws, *shape).

    Raises ValueError if they are missing, of another shape, fewer than two, or not finite.

    >>> draws_of({"w": torch.zeros(4, 25, 3, 2)}, "w", (3, 2)).shape  # four chains
    torch.Size([100, 3, 2])
    """
    if site not in draws:
        raise ValueError(f"there are no draws of {site!r}; there are {', '.join(draws) or 'none'}")
    values = draws[site].detach()
    end = values.dim() - len(shape)
    if end < 1 or tuple(values.shape[end:]) != shape:
        raise ValueError(
            f"the draws of {site!r} have shape {tuple(values.shape)}; expected one draw a row, "
            f"(draws, {', '.join(map(str, shape))})"
        )
    values = values.reshape(-1, *shape)
    if len(values) < 2 or not values.isfinite().all():
        raise ValueError(f"the draws of {site!r} must be finite, and at least two")
    return values


def normal_moments(draws: Tensor, loc: Tensor, log_scale: Tensor | None = None) -> None:
    """Set the location and the logarithm of the scale of a normal to those of draws, in place.

    draws: (draws, ...), the shape of ``loc`` behind.

    >>> loc, log_scale = torch.zeros(1), torch.zeros(1)
    >>> normal_moments(torch.tensor([[1.0], [2.0], [3.0]]), loc, log_scale)
    >>> loc, log_scale
    (tensor([2.]), tensor([0.]))
    """
    double = draws.double()
    loc.copy_(double.mean(0))
    if log_scale is not None:
        # Draws that are all equal would have the scale 0, whose logarithm is not finite.
        tiny = torch.finfo(log_scale.dtype).tiny
        log_scale.copy_(double.std(0).clamp_min(tiny).log())


def _entry(key: str, name: str) -> str:
    return f"{key}_{name}" if key else name


@dataclass(frozen=True)
class _Site:
    """A latent site of a prior: how the unconstrained space maps to it, and where to start."""

    transform: Transform | None
    event_dim: int
    median: Tensor


def _trace_sites(fn: Callable[[Target], Tensor], target: Target) -> dict[str, _Site]:
    """The latent sites of a prior by local name; the weight's own is ``""``."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), poutine.block():
        torch.manual_seed(0)
        trace = poutine.trace(fn).get_trace(target)
        result = trace.nodes["_RETURN"]["value"]
        if not isinstance(result, Tensor) or tuple(result.shape) != target.shape:
            raise ValueError(
                f"the prior {getattr(fn, '__name__', fn)!s} must return the weight of "
                f"{target.name!r}, a tensor of shape {target.shape}, but returned "
                f"{tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__}"
            )
        return {
            name[len(target.part("")) :]: _site(name, node["fn"], target)
            for name, node in trace.nodes.items()
            if node["type"] == "sample" and not node["is_observed"]
        }


def _site(name: str, prior: Any, target: Target) -> _Site:
    part = name.removeprefix(target.part(""))
    if name != target.site and (part == name or "." in part):
        raise ValueError(
            f"the prior's site {name!r} must be named {target.site!r} or "
            "target.part('<name>'), so that it is different in every layer, and must have no "
            "further dot"
        )
    if prior.batch_shape:
        raise ValueError(
            f"the prior's site {name!r} has batch shape {tuple(prior.batch_shape)}: declare its "
            "dimensions with .to_event()"
        )
    support = prior.support
    if support.is_discrete:
        raise ValueError(
            f"the prior's site {name!r} is discrete: from_pyro makes normal guides, which need "
            "continuous sites; write a Method for it"
        )
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    real = support is constraints.real
    if name == target.site and not real:
        raise ValueError(
            f"the weight's site {name!r} has the support {support}, but a weight that can be "
            "pruned to zero needs the real numbers as support"
        )
    draws = torch.stack([prior.sample() for _ in range(31)])
    transform = None if real else biject_to(support)
    return _Site(transform, len(prior.event_shape), draws.median(dim=0).values)
