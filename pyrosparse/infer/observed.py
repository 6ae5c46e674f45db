"""Checks of a model's observed sites on the first batch: number of data, and labels."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pyro.poutine as poutine
from torch import Tensor

from pyrosparse.evidence.sites import sample_sites
from pyrosparse.infer.minibatches import distributed_sampler


def check_observed(trace: poutine.Trace, batch: tuple[Any, ...], data: Any) -> None:
    """Compare the observed sites of a model's first trace with the training data.

    Warns if the sites of a minibatch are scaled to another number of data than there are: the
    likelihood then has the wrong weight against the prior.

    Raises ValueError if nothing is observed, and if labels are not classes of their site.
    """
    sites = sample_sites(trace, observed=True)
    if not sites:
        raise ValueError(
            "the model observes nothing, so training would only move the guide to the prior: pass "
            "the labels too, and give them to pyro.sample as obs"
        )
    for site in sites:
        _check_labels(site, batch, data)
    counted = count(data)
    message = None
    if counted is not None and isinstance(batch[0], Tensor) and batch[0].dim():
        message = _wrong_scale(sites, len(batch[0]), *counted)
    if message:
        warnings.warn(message, stacklevel=3)


def count(data: Any) -> tuple[int, int] | None:
    """The smallest and the largest number of data that an epoch may plausibly have; None if
    unknown.

    >>> import torch
    >>> count((torch.zeros(5, 2), torch.zeros(5)))
    (5, 5)
    >>> count([(torch.zeros(3, 2),), (torch.zeros(2, 2),)])
    (5, 5)
    """
    if isinstance(data, tuple):
        return len(data[0]), len(data[0])
    if isinstance(data, list):
        firsts = [batch[0] for batch in data if isinstance(batch, tuple | list)]
        if len(firsts) < len(data) or not all(isinstance(one, Tensor) for one in firsts):
            return None
        n = sum(len(one) for one in firsts)
        return n, n
    dataset: Any = getattr(data, "dataset", None)
    if not hasattr(data, "batches") and hasattr(dataset, "__len__"):
        sampler: Any = getattr(data, "sampler", None)
        parts = (dataset,) if distributed_sampler(data) else (dataset, sampler)
        lengths = [len(one) for one in parts if hasattr(one, "__len__")]
        # A loader may leave out its last batch, or use some of the data more than once.
        left_out = (data.batch_size or 1) - 1 if getattr(data, "drop_last", False) else 0
        return min(lengths) - left_out, max(lengths)
    if hasattr(data, "batches") and hasattr(data, "__len__"):
        return len(data), len(data)
    return None


def _wrong_scale(sites: list[Any], size: int, least: int, most: int) -> str | None:
    """The warning if no observed site of a batch of this size is scaled to all data, else None."""
    low, high = least / size, most / size
    for site in sites:
        scale = _scale(site)
        if low * (1 - 1e-5) <= scale <= high * (1 + 1e-5):
            return None
        # Tempered on purpose, but with the right number of data.
        if any(least <= _full_size(frame) <= most for frame in _plates(site, size)):
            return None
    site = sites[0]
    name, scale = site["name"], _scale(site)
    plates = _plates(site, size)
    n = f"{most}" if least == most else f"{least} to {most}"
    if plates and _full_size(plates[0]) != size:
        full = _full_size(plates[0])
        return (
            f"the model says that there are {full} data (the plate {plates[0].name!r} of "
            f"{name!r}), but it is trained on {n}: the likelihood counts {full / most:.3g} times "
            f"what it should against the prior. Give the number of training data, n={most}"
        )
    if scale == 1 and size < least:
        where = (
            f"the plate {plates[0].name!r} of {name!r} has the size {size} of a minibatch"
            if plates
            else f"{name!r} is in no plate of the data and counts the {size} of a minibatch"
        )
        plate = plates[0].name if plates else "data"
        return (
            f"{where}, but there are {n} data: the prior (the KL divergence) weighs "
            f"{most / size:.3g} times what it should. Write "
            f'pyro.plate("{plate}", {most}, subsample_size=len(x))'
        )
    return None


def _plates(site: Any, size: int) -> list[Any]:
    """The plates of a site that contain a batch."""
    return [frame for frame in site["cond_indep_stack"] if frame.size == size]


def _full_size(frame: Any) -> int:
    return frame.size if frame.full_size is None else frame.full_size


def _scale(site: Any) -> float:
    scale = site["scale"]
    if isinstance(scale, Tensor):
        return float(scale) if scale.numel() == 1 else math.nan
    return float(scale)


def _check_labels(site: Any, batch: tuple[Any, ...], data: Any) -> None:
    """Check all labels of a categorical site, not only those of the first batch."""
    fn, value = site["fn"], site["value"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    if type(fn).__name__ != "Categorical" or fn.logits is None:
        return
    classes = fn.logits.shape[-1]
    place = next((index for index, part in enumerate(batch) if part is value), None)
    labels = data[place] if isinstance(data, tuple) and place is not None else value
    if place == 1 and isinstance(getattr(data, "y", None), Tensor):
        labels = data.y
    if not isinstance(labels, Tensor) or not labels.numel():
        return
    lowest, highest = labels.min().item(), labels.max().item()
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"the labels of {site['name']!r} are {lowest} to {highest}, but the network has logits "
            f"of {classes} classes, 0 to {classes - 1}: number the classes from 0, or use a "
            "network with one output for each class"
        )
    if labels.is_floating_point() and bool((labels != labels.round()).any()):
        raise ValueError(
            f"the labels of {site['name']!r} are not whole numbers and would be rounded down: "
            "give classes, int64"
        )
