"""Who drew a value: a guide says so in its trace, and what replays the trace passes it on."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

_GUIDE = "_lifted_guide"


class Origin:
    """What a guide signs its draws with: itself, and no other."""


class signed(Messenger):
    """A Pyro handler that signs what is sampled within."""

    def __init__(self, origin: Origin) -> None:
        super().__init__()
        self.origin = origin

    def _pyro_sample(self, msg: Any) -> None:
        msg["infer"][_GUIDE] = self.origin


class sources(Messenger):
    """A Pyro handler that notes where the values of the sites within come from.

    >>> import pyro, pyro.distributions as dist, torch
    >>> from pyro import poutine
    >>> def model():
    ...     with sources() as source:
    ...         pyro.sample("w", dist.Normal(0.0, 1.0))
    ...     return source.given("w")
    >>> model(), poutine.condition(model, {"w": torch.zeros(())})()
    (False, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self._messages: dict[str, tuple[Any, Any]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        self._messages[msg["name"]] = msg, msg["infer"]

    def __contains__(self, site: str) -> bool:
        return site in self._messages

    @property
    def sites(self) -> dict[str, Any]:
        """The messages of the sites by name."""
        return {name: message for name, (message, _) in self._messages.items()}

    def value(self, site: str) -> Tensor:
        """The value of a site."""
        return self._messages[site][0]["value"]

    def origin(self, site: str) -> Origin | None:
        """The signature of the guide that drew the value; None where none of ours did."""
        found = self._messages.get(site)
        return found[0]["infer"].get(_GUIDE) if found else None

    def observed(self, site: str) -> bool:
        """Whether the value was set, as by ``condition``."""
        found = self._messages.get(site)
        return bool(found and found[0]["is_observed"])

    def given(self, site: str) -> bool:
        """Whether the value was set or replayed, and not drawn from the site's distribution."""
        found = self._messages.get(site)
        # A replayed site has the settings of the one that it is replayed from.
        return bool(found and (found[0]["is_observed"] or found[0]["infer"] is not found[1]))
