"""Where a call of a lifted network takes the values of its targets from, and who drew them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyro.poutine as poutine
import torch
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor

from pyrosparse.lifting.guide import Entry
from pyrosparse.lifting.method import Posterior
from pyrosparse.lifting.origin import Origin, sources


class Draws(Protocol):
    """Where a call takes the values of its targets from."""

    def value(self, entry: Entry, q: Posterior, x: Tensor | None) -> Tensor:
        """The weight, or the gate of the activation ``x``."""

    def by_guide(self, entry: Entry) -> bool:
        """Whether the value of a weight was drawn by the network's own guide."""

    def skip(self, entry: Entry, q: Posterior) -> None:
        """What is to be done for a gate whose layer does not run in this call."""


class Means:
    """The values at the posterior mean."""

    def value(self, entry: Entry, q: Posterior, x: Tensor | None) -> Tensor:
        return entry.method.mean(entry.target, q, x)

    def by_guide(self, entry: Entry) -> bool:
        return False

    def skip(self, entry: Entry, q: Posterior) -> None:
        pass


class Trained:
    """Which targets of a lifted network were trained by other means than by its own guide.

    untrained: the keys of those that an AutoGuide, a sampler or a guide of the user's own trained.
    """

    def __init__(self) -> None:
        self.untrained: set[str] = set()
        self._warned_of_free = False

    def warn(self) -> None:
        """Warn that what follows from the network's own guide is not what was trained."""
        if self.untrained:
            warnings.warn(
                f"{', '.join(sorted(self.untrained))} were last drawn by another guide or a "
                "sampler (an AutoGuide, NUTS), but scores, masks and means are those of the "
                "lifted network's own guide, which that did not train: call "
                "bnn.match_moments(draws) with draws of the weights first",
                stacklevel=3,
            )

    def note(self, entry: Entry, source: sources, own: Origin) -> None:
        """Note who drew a target's value.

        Raises ValueError if it was the guide of another lifted network."""
        key, site = entry.target.key, entry.target.site
        origin = source.origin(site)
        if origin is own:
            self.untrained.discard(key)
        elif origin is not None:
            raise ValueError(
                f"{site!r} was drawn by the guide of another lifted network, so training would "
                "mix the parameters of the two: give the guide of the network that the model "
                "calls, bnn.guide. To run a network with the weights of another, use "
                "poutine.condition"
            )
        # What a guide or a sampler is trained with carries gradients; a fixed value does not.
        elif source.given(site) and torch.is_grad_enabled() and source.value(site).requires_grad:
            self.untrained.add(key)

    def refuse_random(self, entry: Entry, q: Posterior, source: sources) -> None:
        """Refuse to be a density of given weights, as HMC needs it, where it would be random."""
        if entry.method.hidden_draws(q) and _differentiated(entry, source):
            raise ValueError(
                f"{type(entry.method).__name__} draws {entry.target.key!r} again in every call "
                "and outside Pyro, so the density of given weights is random, but HMC and NUTS "
                "need a fixed density. Train its guide by SVI, or lift with another method"
            )

    def warn_of_free(self, entry: Entry, names: Sequence[str], source: sources) -> None:
        """Warn, once, of the parameters that HMC does not draw."""
        if names and not self._warned_of_free and _differentiated(entry, source) and not _in_svi():
            self._warned_of_free = True
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            warnings.warn(
                f"{len(names)} parameters of the network are no targets ({shown}): HMC and NUTS "
                "leave them as they are, at random where the network is new. Lift them too, by "
                "ps.weights(net, '*'), or train them first; requires_grad_(False) says that they "
                "are meant to stay",
                stacklevel=4,
            )


def _differentiated(entry: Entry, source: sources) -> bool:
    """Whether the density is asked for at given weights, with its gradient."""
    site = entry.target.site
    return source.observed(site) and torch.is_grad_enabled() and source.value(site).requires_grad


def _in_svi() -> bool:
    """Whether a step of SVI runs, which trains the parameters. Weights are given and differentiated
    there too, where ``poutine.reparam`` computes them from other sites."""
    return any(
        isinstance(handler, TraceMessenger) and handler.param_only
        for handler in poutine.runtime._PYRO_STACK
    )


@dataclass(frozen=True)
class Sampled:
    """The values that the Pyro handlers in force give.

    own:     the origin of the network's own guide.
    free:    the names of the parameters that are no targets.
    at_mean: where sites are sampled, but what is drawn given them has its mean.
    """

    trained: Trained
    own: Origin
    free: Sequence[str]
    source: sources
    at_mean: bool

    def value(self, entry: Entry, q: Posterior, x: Tensor | None) -> Tensor:
        value = entry.method.prior(entry.target, q, x)
        shape = entry.target.shape
        if tuple(value.shape) != shape and (x is None or tuple(value.shape) != (len(x), *shape)):
            raise ValueError(
                f"site {entry.target.site!r} has a draw of shape {tuple(value.shape)} where "
                f"{shape} is needed: a lifted network takes one set of weights in each call"
            )
        self._note(entry, q)
        drawn = x is not None or (entry.method.hidden_draws(q) and self.by_guide(entry))
        if self.at_mean and drawn:
            return entry.method.mean(entry.target, q, x)
        return value

    def by_guide(self, entry: Entry) -> bool:
        return self.source.origin(entry.target.site) is self.own

    def skip(self, entry: Entry, q: Posterior) -> None:
        entry.method.skip(entry.target, q)
        self._note(entry, q)

    def _note(self, entry: Entry, q: Posterior) -> None:
        site = entry.target.site
        if site not in self.source:
            return
        self.trained.note(entry, self.source, self.own)
        if self.source.observed(site):
            self.trained.refuse_random(entry, q, self.source)
            self.trained.warn_of_free(entry, self.free, self.source)
