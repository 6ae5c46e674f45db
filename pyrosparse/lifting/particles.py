"""Particles: many draws of a lifted network in one call, as ``vectorize_particles=True`` and
``Predictive(parallel=True)`` want them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from pyrosparse.lifting.origin import sources
from pyrosparse.lifting.together import close
from pyrosparse.util.modes import evaluating

if TYPE_CHECKING:
    from pyrosparse.lifting.guide import Entry

_PLATES = ("num_particles_vectorized", "_num_predictive_samples")
"""The plates of Pyro's ELBOs and of ``Predictive``."""
_ONE_BY_ONE = (
    "run particles one by one (vectorize_particles=False, Predictive(..., parallel=False))"
)


@dataclass(frozen=True)
class Particles:
    """The particles of a call.

    count: their number.
    batch: the batch shape of a site, (count,) or (count, 1) where the model has a plate of data.
    """

    count: int
    batch: tuple[int, ...]

    def each(self, site: Mapping[str, Any]) -> Tensor:
        """The values of a site, one a particle, (count, *event shape).

        Raises ValueError if the site has not one value a particle, or one for all."""
        value, event = site["value"], len(site["fn"].event_shape)
        batch = tuple(value.shape[: value.dim() - event])
        if tuple(site["fn"].batch_shape) == self.batch:
            shape = tuple(value.shape[value.dim() - event :])
            # Predictive leaves out the dimensions of size 1 where an event has more.
            if batch in (self.batch, (self.count,)):
                return value.reshape(self.count, *shape)
            if batch in ((), (1,) * len(self.batch)):
                return value.reshape(shape).expand(self.count, *shape)
        raise ValueError(
            f"the site {site['name']!r} has the batch shape {tuple(site['fn'].batch_shape)} and a "
            f"value of batch shape {batch} in a plate of {self.count} particles, but "
            f"{self.batch} is needed: declare its dimensions with .to_event(), or {_ONE_BY_ONE}"
        )


def current_particles() -> Particles | None:
    """The particles of the plate in which the program runs; None outside of such plates.

    Raises ValueError within any other plate, and if the model has more plates than that of the
    data."""
    plates = [
        handler
        for handler in poutine.runtime._PYRO_STACK
        if isinstance(handler, IndepMessenger) and handler._vectorized
    ]
    for plate in plates:
        if plate.name not in _PLATES:
            raise ValueError(
                f"a lifted network is called inside the plate {plate.name!r}, but takes one set "
                "of weights in each call: call it before the plate of the data (on "
                "x[plate.indices], where the plate chooses some of them)"
            )
    if not plates:
        return None
    dim = plates[0].dim
    assert dim is not None
    if len(plates) > 1 or dim < -2:
        raise ValueError(
            "particles of a lifted network run together where the model has one plate, that of the "
            f"data, at dimension -1; here it has more: {_ONE_BY_ONE}"
        )
    return Particles(plates[0].size, (plates[0].size, *[1] * (-dim - 1)))


class leading_dimension(Messenger):
    """A Pyro handler within which a lifted network's outputs may have the particles in front.

    It is for models that know it: elsewhere the network warns.

    count: after the call, the number of dimensions in front of those that the network gives, 0 or
           1.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(nn.Linear(4, 3), ps.Gaussian())
    >>> with pyro.plate("num_particles_vectorized", 7, dim=-1), leading_dimension() as leading:
    ...     print(bnn(torch.ones(2, 4)).shape)
    torch.Size([7, 2, 3])
    >>> leading.count
    1
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0


class ParticleRuns:
    """Runs a lifted network for all particles: by ``torch.func.vmap``, and one after another where
    the network writes to buffers, or asks for the values of tensors.

    The prior is a program about one set of weights, and Pyro wants the laws of its sites for all
    particles together. So it runs twice: within the plate, for the laws, and once a particle, for
    weights and gates. The first call sees to it that the two agree.
    """

    def __init__(self) -> None:
        self._checked: set[tuple[bool, bool, int]] = set()
        self._one_by_one: set[bool] = set()
        self._warned = False

    def outputs(
        self,
        lifted: nn.Module,
        entries: list[Entry],
        particles: Particles,
        source: sources,
        run: Callable[[bool], Any],
    ) -> Any:
        """What the network gives, with the particles in the first dimension of each tensor.

        source: notes the sites of the call.
        run:    runs the network by the values of the handlers in force; with gates at their means,
                in evaluation mode and without noise at activations, where its argument is true.

        Raises ValueError if the prior of a method does not give each particle its own law.
        """
        with source:
            failed = _sample_together(entries)
        sites = source.sites
        values = {name: particles.each(site) for name, site in sites.items()}
        self._announce()

        def one(values: Mapping[str, Tensor], at_mean: bool = False) -> Any:
            with poutine.block(), given(sites, values, failed):
                return run(at_mean)

        kind = (lifted.training, torch.is_grad_enabled(), len(particles.batch))
        if kind not in self._checked:
            programs = [partial(_sample, entry) for entry in entries]
            check_laws(sites, particles, programs, failed)
            if not self._agree(lifted, one, values, particles):
                self._one_by_one |= {False, True}
            # One by one, so that gates and noise are seen to act.
            found = _in_turn(one, values, particles.count)
            self._checked.add(kind)
            return found
        if lifted.training not in self._one_by_one:
            before = [(tensor, tensor.clone()) for tensor in lifted.buffers()]
            try:
                return _by_vmap(one, values, "different")
            except Exception:  # of whatever kind; one by one an error of the user's comes again
                self._one_by_one.add(lifted.training)
                for tensor, held in before:
                    tensor.copy_(held)
        return _in_turn(one, values, particles.count)

    def _agree(
        self,
        lifted: nn.Module,
        one: Callable[..., Any],
        values: dict[str, Tensor],
        particles: Particles,
    ) -> bool:
        """Whether the particles give the same together as each alone, but for rounding."""
        with torch.no_grad(), evaluating(lifted):
            try:
                together = _by_vmap(lambda values: one(values, True), values, "error")
            except Exception:
                return False
            return all(
                close(
                    pytree.tree_map(lambda leaf, number=number: leaf[number], together),
                    one({name: value[number] for name, value in values.items()}, True),
                )
                for number in {0, particles.count - 1}
            )

    def _announce(self) -> None:
        """Tell the model that the output has the particles in front, or warn."""
        for handler in reversed(poutine.runtime._PYRO_STACK):
            if isinstance(handler, leading_dimension):
                handler.count = 1
                return
        if not self._warned:
            self._warned = True
            warnings.warn(
                "the output of the lifted network has the particles in its first dimension: the "
                "model must count the others from the end, such as f[..., 0] and not f[:, 0]. "
                f"Otherwise {_ONE_BY_ONE}",
                stacklevel=4,
            )


class given(Messenger):
    """A Pyro handler that gives sites their values, and all else from their messages.

    sites:  the messages by name.
    failed: what kept the program from other sites, if anything did.

    Raises ValueError at a site that is not among them."""

    def __init__(
        self,
        sites: Mapping[str, Any],
        values: Mapping[str, Tensor],
        failed: Exception | None = None,
    ) -> None:
        super().__init__()
        self._failed = failed
        self._sites = sites
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        site = self._sites.get(msg["name"])
        if site is None:
            raise ValueError(
                f"the site {msg['name']!r} was not reached in a plate of particles: {_ONE_BY_ONE}, "
                "or write its prior for draws with further dimensions in front (and Method.skip, "
                "which samples the sites of gates)"
            ) from self._failed
        msg["value"] = self._values[msg["name"]]
        msg["infer"] = site["infer"]
        msg["is_observed"] = site["is_observed"]
        msg["done"] = True


def check_laws(
    sites: Mapping[str, Any],
    particles: Particles,
    programs: Iterable[Callable[[], Any]],
    failed: Exception | None = None,
) -> None:
    """Refuse programs whose sites have not the same laws in a plate of particles as for each
    particle alone.

    sites:  of all programs, within the plate.
    failed: what kept a program there from its other sites, if anything did.

    Raises ValueError."""
    values = {name: particles.each(site) for name, site in sites.items()}
    with torch.no_grad():
        for program in programs:
            for number in {0, particles.count - 1}:
                own = {name: value[number] for name, value in values.items()}
                with poutine.block(), given(sites, own, failed):
                    alone = poutine.trace(program).get_trace()
                for name, site in alone.nodes.items():
                    if site["type"] == "sample":
                        _check_law(sites[name], site, particles, values[name], number)


def _check_law(
    together: Any, alone: Any, particles: Particles, values: Tensor, number: int
) -> None:
    found = together["fn"].log_prob(values.reshape(*particles.batch, *values.shape[1:]))
    expected = alone["fn"].log_prob(alone["value"])
    reach = 1e3 * torch.finfo(expected.dtype).eps
    if (
        expected.dim()
        or tuple(found.shape) != particles.batch
        or not torch.isclose(found.flatten()[number], expected, reach, reach, equal_nan=True)
    ):
        raise ValueError(
            f"the site {together['name']!r} has other probabilities in a plate of particles than "
            "alone: its program computes with draws as if there were one set of them. Count the "
            "dimensions of draws from the end and declare those of an event with .to_event(), or "
            f"{_ONE_BY_ONE}"
        )


def _sample(entry: Entry) -> None:
    """Sample the sites of a prior; what it makes of them is left out."""
    if entry.target.kind == "weight":
        entry.method.prior(entry.target, entry.posterior(), None)
    else:
        entry.method.skip(entry.target, entry.posterior())


def _sample_together(entries: list[Entry]) -> Exception | None:
    """Sample the sites of all priors within the plate of particles; returns an error, if any.

    What a prior does after its last site, such as to order weights by size, it does with one
    particle at a time; here it may fail. A site that was not reached is missed later."""
    failed = None
    for entry in entries:
        try:
            _sample(entry)
        except Exception as error:
            failed = error
    return failed


def _by_vmap(one: Callable[..., Any], values: dict[str, Tensor], randomness: str) -> Any:
    # Validation asks for values. A missing batching rule is a loop, which warns that it is slow.
    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        return vmap(one, randomness=randomness)(values)


def _in_turn(one: Callable[..., Any], values: dict[str, Tensor], count: int) -> Any:
    outputs = [
        one({name: value[number] for name, value in values.items()}) for number in range(count)
    ]
    return pytree.tree_map(_stacked, *outputs)


def _stacked(*leaves: Any) -> Any:
    """The same part of the outputs of all particles: tensors one above the other, what is the same
    in all as it is, and other things, such as caches of language models, as a tuple."""
    if isinstance(leaves[0], Tensor):
        return torch.stack(leaves)
    plain = isinstance(leaves[0], NoneType | bool | int | float | str)
    return leaves[0] if plain and all(one == leaves[0] for one in leaves) else leaves
