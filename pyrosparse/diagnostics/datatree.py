"""Draws of a lifted network's posterior as an ArviZ tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrosparse.diagnostics.draws import Draw, check_same_data, draw, draw_seed
from pyrosparse.diagnostics.guides import mcmc_guides
from pyrosparse.diagnostics.known import KnownData
from pyrosparse.diagnostics.variables import (
    as_array,
    dims,
    guide_tensors,
    layer_numbers,
    selected,
    used_weights,
)
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.evidence.traces import calls_of, evaluation_mode
from pyrosparse.lifting.lift import Lifted

Program = Callable[..., Any]
Groups = dict[str, dict[str, np.ndarray]]
Arrays = dict[str, dict[str, np.ndarray]]


def to_datatree(
    bnn: Lifted | Sequence[Lifted],
    model: Program | Sequence[Program],
    data: Any,
    *,
    guide: Program | Sequence[Program] | None = None,
    draws: int = 100,
    var_names: str | Sequence[str] = (),
    mcmc: Any = None,
    seed: int = 0,
    batch_size: int = 1000,
    limit: int = 2**30,
) -> Any:
    """Draws of a lifted network's posterior on some data, as a DataTree for ArviZ.

    The groups, with the dimensions beside ``chain`` and ``draw``:

    - ``posterior``: ``norm`` and ``active`` (layer), the norm of each layer's weights as they are
      used and the fraction of them that is not zero; all sites of at most one dimension, such as
      gates (the log odds, as they are sampled), biases, and latent variables of the model beside
      the network; weights on request.
    - ``posterior_predictive``, ``log_likelihood`` (datum): new data, and log p(y_i | w) in nats.
    - ``observed_data``, ``constant_data`` (datum): the data, and the inputs ``x``; no draws.
      Data that are masked are in none of these groups, and the coordinate ``datum`` has the places
      of the others. Where sites mask different data, each has a dimension of its own,
      ``y_datum``. Elements that are masked within a datum are NaN.
    - ``sample_stats``: ``log_prior``, ``log_likelihood`` (summed), their sum ``lp``, and ``log_q``,
      in nats; the last is not there for MCMC.
    - ``guide``: loc, scale and whatever else the guide holds, whole, and the parameters that are
      not random; of another guide its parameters, by Pyro's names. No draws. Not there for MCMC.

    Half precision becomes float32.

    bnn, model: a lifted network and the model it is in; or lists of them, of several runs, which
                become chains.
    data:       ``Examples``, a tuple of tensors (x, y), or an iterable of such batches, such as a
                loader, which may shuffle: all draws are scored on the same data. ``model(*batch)``
                must observe the data.
    guide:      the guide that the model was trained with; by default the lifted network's own. A
                list for a list of runs.
    draws:      of each chain; of an MCMC run at most so many, evenly spaced.
    var_names:  globs on sites whose draws are wanted whole, such as ``"fc1.weight"`` or ``"*"``.
    mcmc:       a ``pyro.infer.MCMC`` that has run on the same model, whose draws are taken then.
    seed:       for all random numbers; the caller's generators are left alone.
    batch_size: data taken at a time, where data are tensors.
    limit:      bytes that the tree may take.

    Raises ValueError where a glob matches no site, where the tree would be larger than the limit
    (before it is allocated), where the lists differ in length or are of different networks, where
    the guide does not draw all latent sites of the model, where the data are others when they are
    gone through again, and as ``elbo`` does.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> tree = to_datatree(bnn, ps.classifier(bnn, 10), data, draws=5, var_names="weight")
    >>> dict(tree["posterior"]["weight"].sizes)
    {'chain': 1, 'draw': 5, 'weight_unit': 3, 'weight_input': 4}
    >>> sorted(tree.children)  # doctest: +NORMALIZE_WHITESPACE
    ['constant_data', 'guide', 'log_likelihood', 'observed_data', 'posterior',
     'posterior_predictive', 'sample_stats']
    """
    # Late: arviz and xarray take as long to import as half of pyrosparse.
    from arviz_base import from_dict
    from xarray import DataTree

    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    runs, models, guides = _runs(bnn, model, guide)
    drawn_from: list[list[Program]] = []
    if mcmc is not None:
        if len(runs) > 1 or guide is not None:
            raise ValueError("an MCMC run is of one lifted network, and has its own draws")
        drawn_from = mcmc_guides(mcmc, draws)
        draws = len(drawn_from[0])
        runs, models = runs * len(drawn_from), models * len(drawn_from)
    patterns = [var_names] if isinstance(var_names, str) else list(var_names)
    data = Repeated.of(data)

    arrays: Arrays = {}
    tensors: list[dict[str, Tensor]] = []
    first: Draw | None = None
    for chain, (run, program) in enumerate(zip(runs, models, strict=True)):
        for number in range(draws):
            at = draw_seed(seed, chain * draws + number)
            with used_weights(run) as used, calls_of(run.guide) as own, evaluation_mode(run):
                one = draw(
                    program,
                    drawn_from[chain][number] if drawn_from else guides[chain],
                    data,
                    seed=at,
                    batch_size=batch_size,
                    replicate=True,
                )
            if first is None:
                first, known = one, KnownData(one)
            check_same_data(first, one)
            if mcmc is None and number == 0:
                tensors.append(guide_tensors(run, one.parameters, own=bool(own)))
            values = _values(one, known, used, patterns)
            if mcmc is not None:
                del values["sample_stats"]["log_q"]
            if not arrays:
                x = torch.cat([batch[0].cpu() for batch in data.minibatches(batch_size, program)])
                held = [*tensors[0].values()] * len(runs) if tensors else []
                _refuse_large(values, len(runs) * draws, [x, *one.observed.values(), *held], limit)
                arrays = _room(values, len(runs), draws)
            for group, part in values.items():
                for name, value in part.items():
                    arrays[group][name][chain, number] = value
    observed = {name: known.values(name, value) for name, value in one.observed.items()}
    inputs = as_array(x[known.places["datum"]])
    arrays |= {"observed_data": observed, "constant_data": {"x": inputs}}
    named = {name: dims(name, value.shape) for name, value in one.sites.items()}
    named |= {name: [known.dim(name)] for name in one.known}
    for name, value in [*observed.items(), ("x", inputs)]:
        first_side = "datum" if name == "x" else known.dim(name)
        named[name] = [first_side, *(f"{name}_{side}" for side in range(1, value.ndim))]
    tree = from_dict(
        arrays,
        dims=named | {"norm": ["layer"], "active": ["layer"]},
        coords={"layer": list(used), **known.places},
        attrs={"/": {"inference": "mcmc" if mcmc is not None else "svi", "seed": seed}},
    )
    if tensors:
        tree["guide"] = DataTree(_guide_dataset(tensors))
    return tree


def _runs(
    bnn: Lifted | Sequence[Lifted],
    model: Program | Sequence[Program],
    guide: Program | Sequence[Program] | None,
) -> tuple[list[Lifted], list[Program], list[Program]]:
    runs = [bnn] if isinstance(bnn, Lifted) else list(bnn)
    models = list(model) if isinstance(model, Sequence) else [model]
    if len(runs) != len(models) or not runs:
        raise ValueError(f"one model a lifted network: got {len(models)} for {len(runs)}")
    guides: list[Program] = [run.guide for run in runs]
    if guide is not None:
        guides = list(guide) if isinstance(guide, Sequence) else [guide]
    if len(runs) != len(guides):
        raise ValueError(f"one guide a lifted network: got {len(guides)} for {len(runs)}")
    for run in runs[1:]:
        if run.targets != runs[0].targets:
            raise ValueError(
                "chains must be runs of one network: their targets differ in name, kind or shape"
            )
    return runs, models, guides


def _guide_dataset(tensors: list[dict[str, Tensor]]) -> Any:
    """The tensors of guides, stacked along ``chain``."""
    from xarray import Dataset

    for held in tensors[1:]:
        if held.keys() != tensors[0].keys():
            differ = ", ".join(sorted(held.keys() ^ tensors[0].keys()))
            raise ValueError(f"chains must have guides of one kind: they differ in {differ}")
    variables = {}
    for name in tensors[0]:
        value = as_array(torch.stack([held[name].cpu() for held in tensors]))
        variables[name] = (["chain", *dims(name, value.shape[1:])], value)
    return Dataset(variables, coords={"chain": range(len(tensors))})


def _values(
    one: Draw, known: KnownData, used: dict[str, Tensor], patterns: Sequence[str]
) -> Groups:
    """What one draw puts into a tree, by group and variable."""
    likelihood = sum(float(part.double().sum()) for part in one.log_likelihood.values())
    stats = {
        "lp": one.log_prior + likelihood,
        "log_prior": one.log_prior,
        "log_likelihood": likelihood,
        "log_q": one.log_q,
    }
    whole = {name: one.sites[name] for name in selected(one.sites, patterns)}
    return {
        "posterior": {
            name: as_array(value) for name, value in (layer_numbers(used) | whole).items()
        },
        "posterior_predictive": {
            name: known.values(name, value) for name, value in one.replicated.items()
        },
        "log_likelihood": {
            name: known.scores(name, value) for name, value in one.log_likelihood.items()
        },
        "sample_stats": {name: np.array(value, np.float64) for name, value in stats.items()},
    }


def _room(values: Groups, chains: int, draws: int) -> Arrays:
    return {
        group: {
            name: np.empty((chains, draws, *value.shape), value.dtype)
            for name, value in part.items()
        }
        for group, part in values.items()
    }


def _refuse_large(values: Groups, times: int, whole: Sequence[Tensor], limit: int) -> None:
    """Refuse a tree of more bytes than the limit, naming what takes most."""
    sizes = {
        f"{group}/{name}": times * value.nbytes
        for group, part in values.items()
        for name, value in part.items()
    }
    sizes["the data and the guide"] = sum(tensor.nbytes for tensor in whole)
    total, largest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name])
    if total > limit:
        raise ValueError(
            f"the tree would take {total / 2**20:,.1f} MiB ({largest} alone "
            f"{sizes[largest] / 2**20:,.1f} MiB), more than the limit of {limit / 2**20:,.1f} MiB: "
            "ask for fewer draws or data, name fewer weights in var_names, or raise `limit`"
        )
