"""Draws of a lifted network's posterior as an ArviZ tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyrosparse.diagnostics.draws import Draw, check_same_data, draw, draw_seed
from pyrosparse.diagnostics.guides import FromPrior, mcmc_guides
from pyrosparse.diagnostics.known import KnownData
from pyrosparse.diagnostics.nuts import nuts_statistics
from pyrosparse.diagnostics.variables import (
    as_array,
    dims,
    guide_tensors,
    layer_numbers,
    selected,
    used_weights,
)
from pyrosparse.evidence.improper import improper_methods, refuse_improper
from pyrosparse.evidence.repeated import Repeated
from pyrosparse.evidence.traces import calls_of, evaluation_mode
from pyrosparse.lifting.lift import Lifted
from pyrosparse.models.latents import guide_of

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
    prior_draws: int = 0,
    sample_dims: str | Sequence[str] = ("chain", "draw"),
    limit: int = 2**30,
) -> Any:
    """Draws of a lifted network's posterior on given data, as a DataTree for ArviZ.

    The groups, with their dimensions beside ``chain`` and ``draw``:

    - ``posterior``: ``norm`` and ``active`` (layer), the norm of each layer's weights as the
      network uses them and the share of them that is not zero (``active`` is in ``constant_data``
      if it is the same in all draws); all sites of at most one dimension, such as gates (log odds,
      as they are sampled), biases, and latent variables of the model beside the network; weights on
      request.
    - ``posterior_predictive``, ``log_likelihood`` (datum): new data, and log p(y_i | w) in nats.
      Data of shape (n, 1) have only the dimension (datum).
    - ``prior``, ``prior_predictive``: on request, the same for draws from the prior of the lifted
      network and the model.
    - ``log_prior``: by site, log p of the draw in nats, for ``arviz_stats.psense``.
    - ``observed_data``, ``constant_data`` (datum): the data, and the inputs ``x``; no draws.
      None of these groups contains masked data; the coordinate ``datum`` has the places of the
      known data. If sites mask different data, each has a dimension of its own, ``y_datum``. Masked
      elements within a datum are NaN.
    - ``sample_stats``: ``log_prior``, ``log_likelihood`` (summed), their sum ``lp``, and ``log_q``,
      in nats; no ``log_q`` for MCMC. For NUTS also ``diverging``, and for ``RecordingNUTS``
      ``energy`` in nats and ``tree_depth``.
    - ``guide``: all tensors of the guide, such as loc and scale, and the parameters that are not
      random; for another guide its parameters, by Pyro's names. No draws. Absent for MCMC.

    Half precision becomes float32.

    bnn, model: a lifted network and the model that contains it; or lists of them from several runs,
                which become chains.
    data:       ``Examples``, a tuple of tensors (x, y), or an iterable of such batches, such as a
                loader, which may shuffle: all draws are scored on the same data. ``model(*batch)``
                must observe the data.
    guide:      the guide with which the model was trained; by default the model's own if it learns
                more than the network, otherwise the lifted network's. A list for a list of runs.
    draws:      the number of draws in each chain; for an MCMC run the largest number, evenly
                spaced.
    var_names:  globs on the sites whose draws the tree contains whole, such as ``"fc1.weight"`` or
                ``"*"``.
    mcmc:       a ``pyro.infer.MCMC`` that has run on the same model; its draws replace the guide's.
    seed:       seed for all random numbers; the caller's generators do not change.
    batch_size: the batch size, if data are not already batches.
    prior_draws: the number of draws from the first run's prior; 0 for no such groups.
    sample_dims: ``("chain", "draw")``, or ``"sample"``, as ArviZ's own converters of SVI use: all
                draws in one dimension, as draws of a guide are independent. ArviZ then needs
                ``sample_dims="sample"``, or ``rcParams["data.sample_dims"] = ["sample"]``.
    limit:      the largest size of the tree, in bytes.

    Raises ValueError if a glob matches no site, if the tree would be larger than the limit (before
    it is allocated), if the lists differ in length or belong to different networks, if the guide
    does not draw all latent sites of the model, if the data change when they are read again, if the
    prior is improper and ``prior_draws`` is not 0, if ``draws``, ``prior_draws`` or ``sample_dims``
    is out of range, and as ``elbo`` does.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> tree = to_datatree(bnn, ps.classifier(bnn, 10), data, draws=5, var_names="weight")
    >>> dict(tree["posterior"]["weight"].sizes)
    {'chain': 1, 'draw': 5, 'weight_unit': 3, 'weight_input': 4}
    >>> sorted(tree.children)  # doctest: +NORMALIZE_WHITESPACE
    ['constant_data', 'guide', 'log_likelihood', 'log_prior', 'observed_data', 'posterior',
     'posterior_predictive', 'sample_stats']
    """
    # Here, not at the top: arviz and xarray take half as long to import as pyrosparse.
    from arviz_base import dict_to_dataset, from_dict
    from xarray import DataTree

    library = {"inference_library": "pyro", "inference_library_version": pyro.__version__}

    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    if prior_draws < 0:
        raise ValueError(f"prior_draws must be 0 or more, got {prior_draws}")
    across = [sample_dims] if isinstance(sample_dims, str) else list(sample_dims)
    if across not in (["chain", "draw"], ["sample"]):
        raise ValueError(f"sample_dims must be ('chain', 'draw') or 'sample', got {sample_dims!r}")
    wanted = draws
    runs, models, guides = _runs(bnn, model, guide)
    drawn_from: list[list[Program]] = []
    if mcmc is not None:
        if len(runs) > 1 or guide is not None:
            raise ValueError(
                "an MCMC run belongs to one lifted network and has its own draws: "
                "give one network and no guide"
            )
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
    if mcmc is not None:
        arrays["sample_stats"] |= nuts_statistics(mcmc, wanted)
    log_prior = arrays.pop("log_prior")
    if prior_draws:
        arrays |= _prior(runs[0], models[0], data, known, patterns, prior_draws, seed, batch_size)
    if across == ["sample"]:
        arrays = {group: _in_one(part) for group, part in arrays.items()}
        log_prior = _in_one(log_prior)
    observed = {name: known.values(name, value) for name, value in one.observed.items()}
    inputs = as_array(x[known.places["datum"]])
    constant = {"x": inputs} | _constant(arrays, across)
    arrays |= {"observed_data": observed, "constant_data": constant}
    named = {name: dims(name, value.shape) for name, value in one.sites.items()}
    named |= {name: [known.dim(name)] for name in one.known}
    for name, value in [*observed.items(), ("x", inputs)]:
        first_side = "datum" if name == "x" else known.dim(name)
        named[name] = [first_side, *(f"{name}_{side}" for side in range(1, value.ndim))]
    tree = from_dict(
        arrays,
        dims=named | {"norm": ["layer"], "active": ["layer"]},
        coords={"layer": list(used), **known.places},
        sample_dims=across,
        attrs={"/": {"inference": "mcmc" if mcmc is not None else "svi", "seed": seed} | library}
        | dict.fromkeys(arrays, library),
    )
    # Separate, because a site's log prior is one number, and the site has dimensions.
    tree["log_prior"] = DataTree(dict_to_dataset(log_prior, sample_dims=across, attrs=library))
    if tensors:
        tree["guide"] = DataTree(_guide_dataset(tensors))
    return tree


def _runs(
    bnn: Lifted | Sequence[Lifted],
    model: Program | Sequence[Program],
    guide: Program | Sequence[Program] | None,
) -> tuple[list[Lifted], list[Program], list[Program]]:
    runs = [bnn] if isinstance(bnn, Lifted) else list(bnn) if isinstance(bnn, Sequence) else []
    if not runs or not all(isinstance(run, Lifted) for run in runs):
        raise TypeError(
            "to_datatree takes (bnn, model, data) with a lifted network, or a list of them; got "
            f"{type(bnn).__name__} first"
        )
    models = list(model) if isinstance(model, Sequence) else [model]
    if len(runs) != len(models) or not runs:
        raise ValueError(
            f"give one model for each lifted network: got {len(models)} models for "
            f"{len(runs)} networks"
        )
    guides: list[Program] = [guide_of(one, run) for one, run in zip(models, runs, strict=True)]
    if guide is not None:
        guides = list(guide) if isinstance(guide, Sequence) else [guide]
    if len(runs) != len(guides):
        raise ValueError(
            f"give one guide for each lifted network: got {len(guides)} guides for "
            f"{len(runs)} networks"
        )
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


def _prior(
    run: Lifted,
    model: Program,
    data: Repeated,
    known: KnownData,
    patterns: Sequence[str],
    draws: int,
    seed: int,
    batch_size: int,
) -> Arrays:
    """The groups of draws from the prior, with other random numbers than the posterior's draws."""
    refuse_improper("a draw from the prior", improper_methods(model, run.guide))
    arrays: Arrays = {}
    for number in range(draws):
        at = draw_seed(seed + 1, number) + 500_000
        with used_weights(run) as used, evaluation_mode(run):
            one = draw(
                model, FromPrior(model), data, seed=at, batch_size=batch_size, replicate=True
            )
        values = _values(one, known, used, patterns)
        groups = {
            "prior": values["posterior"],
            "prior_predictive": values["posterior_predictive"],
        }
        arrays = arrays or _room(groups, 1, draws)
        for group, part in groups.items():
            for name, value in part.items():
                arrays[group][name][0, number] = value
    return arrays


def _constant(arrays: Arrays, across: Sequence[str]) -> dict[str, np.ndarray]:
    """Remove ``active`` from the draws if it is the same in all of them, and return it."""
    active, leading = arrays["posterior"].get("active"), (0,) * len(across)
    if active is None or not (active == active[leading]).all():
        return {}
    for group in ("posterior", "prior"):
        arrays.get(group, {}).pop("active", None)
    return {"active": active[leading]}


def _in_one(part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The draws of all chains, one chain after the other, in one dimension."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in part.items()}


def _values(
    one: Draw, known: KnownData, used: dict[str, Tensor], patterns: Sequence[str]
) -> Groups:
    """The contents of a tree for one draw, by group and variable."""
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
        "log_prior": {name: np.array(value, np.float64) for name, value in one.log_priors.items()},
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
    """Refuse a tree of more bytes than the limit, naming the variables that take most."""
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
