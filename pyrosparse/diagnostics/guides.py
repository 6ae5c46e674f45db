"""The guides from which diagnostics draw: the caller's, or the lifted network's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.poutine as poutine

from pyrosparse.diagnostics.nuts import chosen_draws
from pyrosparse.evidence.given import At
from pyrosparse.util.errors import unknown_name

Guide = Callable[..., Any]


def guides_by_name(guide: Any, named: Any) -> Mapping[str, Guide]:
    """Guides by the names of models or networks, for all, some or none of them.

    Raises TypeError if ``guide`` or ``named`` is not a mapping, ValueError if ``guide`` has an
    unknown name.

    >>> guides_by_name(None, {"one": None})
    {}
    """
    if not isinstance(named, Mapping):
        raise TypeError(
            "networks and models are given by name, {'mine': network}; got "
            f"{type(named).__name__}"
        )
    if guide is None:
        return {}
    if not isinstance(guide, Mapping):
        raise TypeError(
            f"guide must be guides by name, {{{next(iter(named), 'name')!r}: guide}}; got "
            f"{type(guide).__name__}"
        )
    known = list(named)
    for name in guide:
        if name not in known:
            raise unknown_name("name of a guide", name, known)
    return guide


class FromPrior:
    """A guide that draws the latent variables of a model from its prior.

    >>> import pyro, torch, pyrosparse as ps
    >>> model = ps.regressor(torch.nn.Linear(2, 1), 5)
    >>> guide = FromPrior(model)
    >>> sorted(pyro.poutine.trace(guide).get_trace(torch.ones(5, 2), torch.ones(5, 1)).nodes)
    ['_INPUT', '_RETURN', 'noise']
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model

    def __call__(self, *args: Any) -> None:
        def hidden(site: Any) -> bool:
            return (
                site["type"] != "sample"
                or site["is_observed"]
                or type(site["fn"]).__name__ == "_Subsample"
            )

        with poutine.block(hide_fn=hidden):
            self.model(*args)


def mcmc_guides(mcmc: Any, draws: int) -> list[list[Guide]]:
    """The draws of an MCMC run as guides, by chain: at most ``draws`` of each, evenly spaced.

    Raises ValueError if the run has no draws.
    """
    samples = mcmc.get_samples(group_by_chain=True)
    if not samples:
        raise ValueError("the MCMC run has no draws: call its run(...) first")
    chains, length = next(iter(samples.values())).shape[:2]
    return [
        [
            At({name: value[chain, at] for name, value in samples.items()})
            for at in chosen_draws(length, draws)
        ]
        for chain in range(chains)
    ]
