"""Latent variables of a likelihood beside the network, each with a prior and a guide."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Distribution, biject_to

from pyrosparse.lifting.lift import Lifted
from pyrosparse.lifting.param_store import announce

INITIAL_SCALE = 0.1
"""Standard deviation of a guide at the start, in unconstrained space."""


class Latent(nn.Module):
    r"""A latent variable of a likelihood: its prior, and a normal guide in unconstrained space.

    .. math:: \theta \sim p, \qquad q: \; \theta = T(u), \; u_i \sim \mathcal N(m_i, s_i^2)

    with T the map from the real numbers to the prior's support, such as exp. The guide starts at
    the median of u under the prior, from 1001 draws, with s = 0.1.

    name:  the name of the site.
    prior: a continuous distribution without batch dimensions (``.to_event`` declares them).

    Raises TypeError if the prior is not a distribution, ValueError if it has batch dimensions or is
    discrete.

    >>> noise = Latent("noise", dist.LogNormal(0.0, 1.0))
    >>> sorted(name for name, _ in noise.named_parameters()), abs(noise.loc.item()) < 0.1
    (['loc', 'log_scale'], True)
    """

    def __init__(self, name: str, prior: Any) -> None:
        super().__init__()
        if not isinstance(prior, Distribution):
            raise TypeError(f"the prior of {name} must be a distribution, got {prior!r}")
        if prior.batch_shape:
            raise ValueError(
                f"the prior of {name} has the batch shape {tuple(prior.batch_shape)}: make its "
                "dimensions an event, prior.to_event()"
            )
        support: Any = prior.support
        if support.is_discrete:
            raise ValueError(f"the prior of {name} must be continuous, got {prior}")
        self.name = name
        self.prior: Any = copy.deepcopy(prior)  # the copy moves with this module
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            draws = _transform(prior).inv(prior.sample(torch.Size([1001])))
        self.loc = nn.Parameter(draws.median(0).values.detach().clone())
        self.log_scale = nn.Parameter(torch.full_like(self.loc, INITIAL_SCALE).log())

    def sample(self) -> Tensor:
        """Draw from the prior, or return the value that the active Pyro handlers set.

        In a plate of particles the value is (particles, 1, ...); the 1 is for the data.
        """
        value = pyro.sample(self.name, self.prior)
        # Pyro's Predictive leaves the 1 out where an event has as many dimensions.
        return value.unsqueeze(1) if value.dim() == self.loc.dim() + 1 else value

    def guide(self) -> Tensor:
        """Draw from the guide."""
        for name in ("loc", "log_scale"):
            announce(f"guide.{self.name}.{name}", self._parameters[name])
        transform = _transform(self.prior)
        together = transform.domain.event_dim
        normal = dist.Normal(self.loc, self.log_scale.exp()).to_event(together)
        law = dist.TransformedDistribution(normal, [transform])
        return pyro.sample(self.name, law.to_event(self.loc.dim() - together))

    def match_moments(self, draws: Tensor) -> None:
        """Give the guide the mean and the spread of draws, (draws, ...), in unconstrained space.

        Raises ValueError if the draws are not finite there, or all equal.
        """
        found = _transform(self.prior).inv(draws)
        if not found.isfinite().all() or not (found.std(0) > 0).all():
            raise ValueError(
                f"the draws of {self.name} are constant or not finite: the sampler did not move, "
                "or diverged. Use a smaller step size or more warmup steps"
            )
        with torch.no_grad():
            self.loc.copy_(found.mean(0))
            self.log_scale.copy_(found.std(0).log())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        _move(self.prior, fn)
        return super()._apply(fn, recurse)


class ModelGuide(nn.Module):
    """The guide of a model: the network's own, and the guides of the model's other latent
    variables.

    network: a lifted network, or another one, without sites.
    latents: the latent variables beside the network.

    It takes the model's arguments and ignores them.
    """

    def __init__(self, network: Any, latents: list[Latent]) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple: it is a part of the model, not of this guide
        self.latents = nn.ModuleList(latents)

    @property
    def lifted(self) -> Lifted | None:
        """The lifted network whose guide this calls; None if the network is not lifted."""
        network = self._network[0]
        return network if isinstance(network, Lifted) else None

    def match_moments(self, draws: Mapping[str, Tensor]) -> None:
        """Give the guides of the latent variables beside the network the moments of draws by site,
        as ``Lifted.match_moments`` does for the network."""
        for latent in self.latents:
            latent.match_moments(draws[latent.name])  # type: ignore

    def forward(self, *args: Any, **kwargs: Any) -> None:
        if self.lifted is not None:
            self.lifted.guide(*args, **kwargs)
        for latent in self.latents:
            latent.guide()  # type: ignore[operator]


def guide_of(model: Any, network: Any, guide: Any = None) -> Any:
    """The guide with which a model is trained: the one that is given, or else the model's own
    ``guide`` if it has latent variables beside the network, or else that of the lifted network.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 1), ps.Gaussian())
    >>> guide_of(ps.regressor(bnn, 10, noise=0.1), bnn) is bnn.guide
    True
    """
    if guide is not None:
        return guide
    own = getattr(model, "guide", None)
    return own if isinstance(own, ModelGuide) else network.guide


def around(model: Any, network: Any) -> Any:
    """The same model around another network, such as a compact one, with all that it learned beside
    its network.

    Raises TypeError if the model is not a torch module with a ``network``.

    >>> import pyrosparse as ps
    >>> model = ps.regressor(nn.Linear(4, 1), 10)
    >>> small = around(model, nn.Linear(4, 1))
    >>> small.noise is model.noise, small.network is model.network
    (True, False)
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "network"):
        raise TypeError(
            f"{type(model).__name__} is not a model of pyrosparse.models, so its "
            "network cannot be replaced: give one of these, such as "
            "ps.classifier(...)"
        )
    other = copy.copy(model)
    other.__dict__ = dict(model.__dict__, _modules=dict(model._modules))
    other.network = network
    if isinstance(getattr(model, "guide", None), ModelGuide):
        other.guide = ModelGuide(network, list(model.guide.latents))  # type: ignore
    return other


def _transform(prior: Any) -> Any:
    """The map from real numbers to the support of a prior: the prior's own if it is a transformed
    normal, so that torch knows the KL divergence from a guide of that kind."""
    while isinstance(prior, torch.distributions.Independent):
        prior = prior.base_dist
    base = getattr(prior, "base_dist", None)
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if isinstance(base, torch.distributions.Normal):
        own = prior.transforms
        return own[0] if len(own) == 1 else ComposeTransform(own)
    return biject_to(prior.support)


def _move(law: Any, fn: Callable[[Tensor], Tensor]) -> None:
    """Apply a module's ``_apply`` to the tensors of a distribution."""
    for name, value in vars(law).items():
        if isinstance(value, Tensor):
            setattr(law, name, fn(value))
        elif isinstance(value, Distribution):
            _move(value, fn)
