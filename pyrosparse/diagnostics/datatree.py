"""Draws of a lifted network's posterior as an ArviZ tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrosparse.diagnostics.draws import Draw, draw, draw_seed
from pyrosparse.diagnostics.variables import (
    dims,
    guide_tensors,
    layer_numbers,
    selected,
    used_weights,
)
from pyrosparse.evidence.traces import batches
from pyrosparse.lift import Lifted

Groups = dict[str, dict[str, Tensor]]
Arrays = dict[str, dict[str, np.ndarray]]


def to_datatree(
    bnn: Lifted | Sequence[Lifted],
    model: Callable[..., Any] | Sequence[Callable[..., Any]],
    data: Any,
    *,
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
      gates (the log odds, as they are sampled) and biases; weights on request.
    - ``posterior_predictive``, ``log_likelihood`` (datum): new data, and log p(y_i | w) in nats.
    - ``observed_data``, ``constant_data`` (datum): the data, and the inputs ``x``; no draws.
    - ``sample_stats``: ``log_prior``, ``log_likelihood`` (summed), their sum ``lp``, and ``log_q``,
      in nats; the last is not there for MCMC.
    - ``guide``: loc, scale and whatever else the guide holds, whole, and the parameters that are
      not random; no draws. Not there for MCMC.

    bnn, model: a lifted network and the model it is in; or lists of them, of several runs, which
                become chains.
    data:       ``Examples``, a tuple of tensors (x, y), or an iterable of such batches that can be
                gone through again and again. ``model(*batch)`` must observe the data.
    draws:      of each chain; of an MCMC run at most so many, evenly spaced.
    var_names:  globs on sites whose draws are wanted whole, such as ``"fc1.weight"`` or ``"*"``.
    mcmc:       a ``pyro.infer.MCMC`` that has run on the same model, whose draws are taken then.
    seed:       of everything random; the caller's generators are left alone.
    batch_size: data taken at a time, where data are tensors.
    limit:      bytes that the tree may take.

    Raises ValueError where a glob matches no site, where the tree would be larger than the limit
    (before it is allocated), where the lists differ in length or are of different networks, and as
    ``elbo`` does.

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
    runs, models = _runs(bnn, model)
    tensors, guides = [], []
    if mcmc is None:
        tensors = [guide_tensors(run) for run in runs]
    elif len(runs) > 1:
        raise ValueError("an MCMC run is of one lifted network, and has its own chains")
    else:
        guides = _drawn(runs[0], mcmc, draws)
        draws = len(guides[0])
        runs, models = runs * len(guides), models * len(guides)
    patterns = [var_names] if isinstance(var_names, str) else list(var_names)

    arrays: Arrays = {}
    for chain, (run, program) in enumerate(zip(runs, models, strict=True)):
        for number in range(draws):
            guide = guides[chain][number] if guides else run.guide
            at = draw_seed(seed, chain * draws + number)
            with used_weights(run) as used:
                one = draw(program, guide, data, seed=at, batch_size=batch_size, replicate=True)
            values = _values(one, used, patterns)
            if mcmc is not None:
                del values["sample_stats"]["log_q"]
            if not arrays:
                x = torch.cat([batch[0].cpu() for batch in batches(data, batch_size, program)])
                whole = [x, *one.observed.values(), *(t for held in tensors for t in held.values())]
                _refuse_large(values, len(runs) * draws, whole, limit)
                arrays = _room(values, len(runs), draws)
            for group, part in values.items():
                for name, value in part.items():
                    arrays[group][name][chain, number] = value.cpu().numpy()
    arrays["observed_data"] = {name: value.cpu().numpy() for name, value in one.observed.items()}
    arrays["constant_data"] = {"x": x.numpy()}
    named = {name: dims(name, value.shape) for name, value in one.sites.items()}
    for name, value in [*one.observed.items(), ("x", x)]:
        named[name] = ["datum", *(f"{name}_{side}" for side in range(1, value.dim()))]
    tree = from_dict(
        arrays,
        dims=named | {"norm": ["layer"], "active": ["layer"]},
        coords={"layer": list(used)},
        attrs={"/": {"inference": "mcmc" if mcmc is not None else "svi", "seed": seed}},
    )
    if tensors:
        tree["guide"] = DataTree(_guide_dataset(tensors))
    return tree


def _runs(
    bnn: Lifted | Sequence[Lifted], model: Callable[..., Any] | Sequence[Callable[..., Any]]
) -> tuple[list[Lifted], list[Callable[..., Any]]]:
    runs = [bnn] if isinstance(bnn, Lifted) else list(bnn)
    models = list(model) if isinstance(model, Sequence) else [model]
    if len(runs) != len(models) or not runs:
        raise ValueError(f"one model a lifted network: got {len(models)} for {len(runs)}")
    for run in runs[1:]:
        if run.targets != runs[0].targets:
            raise ValueError(
                "chains must be runs of one network: their targets differ in name, kind or shape"
            )
    return runs, models


def _guide_dataset(tensors: list[dict[str, Tensor]]) -> Any:
    """The tensors of guides, stacked along ``chain``."""
    from xarray import Dataset

    variables = {}
    for name in tensors[0]:
        value = torch.stack([held[name].cpu() for held in tensors])
        variables[name] = (["chain", *dims(name, value.shape[1:])], value.numpy())
    return Dataset(variables, coords={"chain": range(len(tensors))})


class _At:
    """A guide that gives the values of one draw made elsewhere, with density 1."""

    def __init__(self, lifted: Lifted, values: dict[str, Tensor]) -> None:
        self.lifted = lifted
        self.values = values

    def __call__(self, *args: Any) -> None:
        for name, value in self.values.items():
            pyro.sample(name, dist.Delta(value, event_dim=value.dim()))


def _drawn(bnn: Lifted, mcmc: Any, draws: int) -> list[list[Callable[..., Any]]]:
    """The draws of an MCMC run as guides, by chain."""
    samples = mcmc.get_samples(group_by_chain=True)
    if not samples:
        raise ValueError("the MCMC run has no draws: call its run(...) first")
    chains, length = next(iter(samples.values())).shape[:2]
    wanted = torch.linspace(0, length - 1, min(draws, length)).round().long().tolist()
    return [
        [_At(bnn, {name: value[chain, at] for name, value in samples.items()}) for at in wanted]
        for chain in range(chains)
    ]


def _values(one: Draw, used: dict[str, Tensor], patterns: Sequence[str]) -> Groups:
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
        "posterior": layer_numbers(used) | whole,
        "posterior_predictive": one.replicated,
        "log_likelihood": one.log_likelihood,
        "sample_stats": {
            name: torch.tensor(value, dtype=torch.float64) for name, value in stats.items()
        },
    }


def _room(values: Groups, chains: int, draws: int) -> Arrays:
    return {
        group: {
            name: np.empty((chains, draws, *value.shape), value.cpu().numpy().dtype)
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
