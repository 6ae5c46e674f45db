"""Priors that are not distributions, and errors for quantities that have no meaning under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyro.poutine as poutine

from pyrosparse.distributions import Improper
from pyrosparse.evidence.sites import sample_sites
from pyrosparse.evidence.traces import used_modules
from pyrosparse.lifting.lift import Lifted


def improper_methods(*callables: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the methods with an improper prior, in the lifted networks that models and
    guides use.

    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.VariationalDropout())
    >>> improper_methods(ps.classifier(bnn, 10))
    ('VariationalDropout',)
    """
    found = {
        type(entry.method).__name__
        for module in used_modules(*callables)
        for part in module.modules()
        if isinstance(part, Lifted)
        for entry in part.guide.entries
        if not entry.method.proper
    }
    return tuple(sorted(found))


def improper_priors(trace: poutine.Trace, *callables: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the improper priors in the trace of a model: methods, or if there are none, the
    distributions of the latent sites.

    trace:     a trace of the model.
    callables: the model and its guide.
    """
    names = improper_methods(*callables)
    if names:
        return names
    sites = sample_sites(trace, observed=False)
    laws = [(site["name"], _base(site["fn"])) for site in sites]
    return tuple(
        f"{type(law).__name__} on {name!r}" for name, law in laws if isinstance(law, Improper)
    )


def refuse_improper(what: str, names: Iterable[str]) -> None:
    """Raise ValueError if there are improper priors; the message says what to do.

    what:  the quantity that has no meaning under them.
    names: the names of the improper priors.

    >>> refuse_improper("a Bayes factor", [])
    """
    names = list(dict.fromkeys(names))
    if names:
        raise ValueError(
            f"{what} is not defined for the improper prior of {', '.join(names)}: it has no draws "
            "and an arbitrary constant. Compare models by held-out data "
            "(ps.compare_models), or use a proper prior, such as ps.Gaussian or "
            "ps.VariationalDropout(empirical_bayes=True)"
        )


def _base(law: Any) -> Any:
    while hasattr(law, "base_dist"):
        law = law.base_dist
    return law
