"""``compress``: a recipe, on a network and data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyro.poutine as poutine
import torch
from torch import nn

from pyrosparse.compaction.masked import masked
from pyrosparse.evidence import evaluate
from pyrosparse.evidence.sites import observed_sites
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.infer import Callback
from pyrosparse.lifting.lift import Lifted
from pyrosparse.measure import (
    Quality,
    RegressionQuality,
    beta_bernoulli_counts,
    predicts_values,
    quality,
)
from pyrosparse.measure.active_features import active_features, mean_counts
from pyrosparse.measure.report import point_quality
from pyrosparse.models.distillation import distill
from pyrosparse.models.latents import ModelGuide, guide_of
from pyrosparse.models.likelihoods import classifier
from pyrosparse.models.regression import regressor
from pyrosparse.recipes.compaction import compacted
from pyrosparse.recipes.fine_tuning import fine_tuned
from pyrosparse.recipes.job import Job, Likelihood
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.result import Result
from pyrosparse.recipes.split import Split, split
from pyrosparse.recipes.start import begins_trained


def compress(
    net: nn.Module,
    data: Any,
    recipe: Recipe | None = None,
    *,
    model: Likelihood | None = None,
    validation: Any = None,
    test: Any = None,
    folder: Path | str | None = None,
    pool: Path | str | None = None,
    start: Recipe | None = None,
    seed: int = 0,
    device: Any = None,
    dense: bool | nn.Module = True,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Result:
    """Train a network by a recipe, take away what it can do without, and measure what is left.

    net:        any module, trained or not; it is copied, and stays as it is. Where it is trained
                already, give recipes that begin with a trained network ``pretrain=0``.
    data:       a ``DataSet``; ``Examples``; tensors or arrays (inputs, targets), one datum a row;
                or a loader of such batches.
    recipe:     one of ``pyrosparse.recipes``; by default ``BetaBernoulli()``.
    model:      makes the Pyro model of a network and the number of data; by default ``classifier``
                for targets of a whole-number type, ``regressor``, which learns the noise, for
                others. ``lambda bnn, n: ps.regressor(bnn, n, noise=0.3)``, ``ps.counts`` or your
                own.
    validation: data, or the share of the training data that is held out.
    test:       likewise; by default that of the data set, or a fifth of data in memory.
    folder:     where each stage keeps ``checkpoint.safetensors`` and ``metrics.jsonl``; the same
                call goes on where it was stopped, and ends as an uninterrupted one, bit for bit.
    pool:       a folder of stages that several runs share, by what determines them (weights, data,
                likelihood, seed, options). Loaders and lambdas determine nothing: then the folder
                counts.
    start:      trains the network before the recipe does, such as ``Pretraining(epochs=20)``, for a
                start that is the same for all recipes: with a pool it is trained once. Recipes that
                begin with a trained network then train none of their own, and every recipe is
                compared with the network of the start.
    seed:       of all random numbers; the caller's generators are left alone.
    device:     where network and data go; by default they stay.
    dense:      what a recipe that prunes in training is compared with: a network trained alike in
                which nothing is pruned (it takes as long again), False for the pruned one itself,
                or a network of yours. Recipes that begin with a trained network compare with that.
    callbacks:  of every stage, beside the recipe's own; ``run.stage`` says which one it is.
    progress:   show progress bars; by default on a terminal only.

    Raises TypeError and ValueError on data that do not fit, TypeError on dicts and where the model
    names the output of the network, ValueError where both ``start`` and the recipe's ``pretrain``
    are given, what the recipe's methods raise, and what ``fit`` raises.

    >>> import pyrosparse as ps
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> result = ps.compress(net, (x, y), ps.recipes.Magnitude(epochs=2), progress=False)
    >>> round(result.sparsity, 2)
    0.91
    """
    recipe = recipe or _default()
    if start is not None:
        recipe = begins_trained(recipe)
    parts = split(data, validation, test, seed=seed, device=device)
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        first = copy.deepcopy(net).to(device)
        job = Job(
            copy.deepcopy(first),
            parts,
            model or default_model(parts),
            recipe,
            seed,
            None if folder is None else Path(folder),
            None if pool is None else Path(pool),
            progress,
            callbacks,
        )
        started = None
        _refuse_named_output(job.model(job.net))
        if start is not None:
            job.stage(start, "start")
            started = copy.deepcopy(job.net)
        bnn = _train(job, recipe)
        if started is not None:  # whatever else the recipe kept
            job.original = started
        if job.original is None:
            job.original = _dense(job, first, dense)
        return _result(job, bnn)


def _refuse_named_output(model: Any) -> None:
    """Raise TypeError where a network gives its output by a name: before training, as what is
    measured in the end are networks that give tensors."""
    output = getattr(model, "output", None)
    if output is not None:
        raise TypeError(
            f"compress needs a network that returns one tensor, but the model reads {output!r} of "
            f"its output: wrap the network in a module that returns only {output!r}; or lift it, "
            "train it by ps.fit, and cut it by ps.compact"
        )


def default_model(data: Split) -> Likelihood:
    """``classifier`` for targets of a whole-number type, ``regressor`` for others."""
    return regressor if data.batch[-1].is_floating_point() else classifier


def _train(job: Job, recipe: Recipe) -> Lifted:
    """Train by a recipe and fine-tune what it leaves, where it says so."""
    bnn = job.run(recipe)
    own = job.recipe.fine_tunes_itself() or not job.recipe.fine_tune
    return bnn if own else fine_tuned(job, bnn)


def _dense(job: Job, net: nn.Module, dense: bool | nn.Module) -> nn.Module | None:
    """The network that a pruned one is compared with; None where there is none."""
    if isinstance(dense, nn.Module):
        return copy.deepcopy(dense) if job.recipe.unpruned is not None else None
    if not dense or job.recipe.unpruned is None:
        return None
    folder = job.folder / "dense" if job.folder else None
    alone = replace(job, net=net, folder=folder, callbacks=(), stages=[], fitted=None)
    _train(alone, job.recipe.unpruned.of(job.recipe.values()))
    return alone.net


def _default() -> Recipe:
    from pyrosparse.recipes.gates import BetaBernoulli

    return BetaBernoulli()


def _result(job: Job, bnn: Lifted) -> Result:
    """Fold what the posterior became into the network, and measure it."""
    data = job.data
    gated = any(target.kind != "weight" for target in bnn.targets)
    masks, gates = (bnn.masks(), bnn.gates()) if gated else (None, {})
    net = masked(job.net, masks) if masks is not None else job.net
    whole = masked(job.net, masks, gates) if gates else net
    original = job.original if job.original is not None else net
    kind = _predicts(job, net)
    small, compaction = compacted(
        job.net,
        original,
        data.example,
        data.judged if kind else None,
        masks=masks,
        gates=gates,
        model=job.model if kind == "values" else None,
        **(_for_the_data(job, bnn, net, original) if gates else {}),
    )
    before_and_compact = compaction.report.quality if compaction.report else None
    scores: dict[str, Mapping[str, float]] = {}
    for name, one in (("before", original), ("after", whole), ("compact", small)):
        if one is None or (name == "before" and original is net):
            continue
        if before_and_compact is not None and name != "after":
            scores[name] = _figures(before_and_compact[name == "compact"])
        else:
            scores[name] = _scores(job, one, kind)
    model = job.model(bnn)
    return Result(
        job.recipe,
        data,
        net,
        whole,
        original,
        bnn,
        model,
        job.guide or guide_of(model, bnn),
        small,
        compaction,
        scores,
        job.stages,
    )


def _for_the_data(job: Job, bnn: Lifted, net: nn.Module, original: nn.Module) -> dict[str, Any]:
    """How many units an average datum needs, and what that costs as the paper counts."""
    active, example = active_features(bnn, job.data.judged), job.data.example
    counts = None
    with suppress(ValueError):  # for networks of which the paper has no count
        whole = beta_bernoulli_counts(original, *example)
        counts = whole, mean_counts(job.net, active, *example)
    return {"active": {key: gate.mean for key, gate in active.items()}, "counts": counts}


def _predicts(job: Job, net: nn.Module) -> str:
    """What a network predicts in its model: ``classes``, given by rows of logits, ``values``, or ""
    where it is neither, such as classes in an order, or of each pixel."""
    model = job.model(net)
    if isinstance(model, distill):
        return "classes"
    cuda = range(torch.cuda.device_count())
    with (
        torch.random.fork_rng(devices=cuda),
        torch.no_grad(),
        evaluation_mode(net),
        poutine.block(),
    ):
        sites = observed_sites(poutine.trace(model).get_trace(*job.data.batch))
    if isinstance(model, classifier):
        return "" if sites[0]["fn"].event_dim else "classes"
    return "values" if len(sites) == 1 and predicts_values(sites[0]["fn"]) else ""


def _figures(found: Quality | RegressionQuality) -> Mapping[str, float]:
    return asdict(found) if isinstance(found, Quality) else found.figures()


def _scores(job: Job, net: nn.Module, kind: str) -> Mapping[str, float]:
    if kind == "classes":
        return asdict(quality(net, job.data.judged))
    model = job.model(net)
    if kind == "values":
        return point_quality(model, job.data.judged).figures()
    guide = model.guide if isinstance(getattr(model, "guide", None), ModelGuide) else _no_guide
    return evaluate(model, guide, job.data.judged)


def _no_guide(*_: Any) -> None:
    """The guide of a network whose weights are what they are."""
