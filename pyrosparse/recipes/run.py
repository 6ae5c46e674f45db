"""``compress``: a recipe, on a network and data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.read_elsewhere import read_elsewhere
from pyrosparse.data.examples import Examples
from pyrosparse.infer import Callback
from pyrosparse.lifting.lift import Lifted
from pyrosparse.measure import beta_bernoulli_counts
from pyrosparse.measure.active_features import active_features, mean_counts
from pyrosparse.models.calls import Called
from pyrosparse.models.latents import guide_of
from pyrosparse.models.likelihoods import classifier
from pyrosparse.models.regression import regressor
from pyrosparse.recipes.check_network import check_network, trainable_copy
from pyrosparse.recipes.compaction import compacted
from pyrosparse.recipes.fine_tuning import fine_tuned
from pyrosparse.recipes.job import Job, Likelihood
from pyrosparse.recipes.judging import Judging, check_output, figures
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.result import Result
from pyrosparse.recipes.split import Split, split
from pyrosparse.recipes.start import begins_trained
from pyrosparse.util.errors import UsageError, expect_network
from pyrosparse.util.generators import generators_left_alone


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
    """Train and prune a network by a recipe, compact it, and measure the result.

    net:        any module, trained or not; it is copied and not changed. If it is already trained,
                set ``pretrain=0`` for recipes that start with a pretraining.
    data:       a ``DataSet``; ``Examples``; tensors or arrays (inputs, targets), with one row for
                each datum; a dict of them by the names of the network's arguments, with ``labels``;
                a torch ``Dataset``; or a loader of such batches.
    recipe:     one of ``pyrosparse.recipes``; by default ``BetaBernoulli()``.
    model:      makes the Pyro model of a network and the number of data; by default ``classifier``
                for targets of a whole-number type, ``regressor``, which learns the noise, for other
                targets. ``lambda bnn, n: ps.regressor(bnn, n, noise=0.3)``, ``ps.counts`` or your
                own. If the network returns its logits by name, the model must give this name:
                ``lambda bnn, n: ps.classifier(bnn, n, output="logits")``.
    validation: data for validation, or the share of the training data to hold out.
    test:       test data or a share, as for validation; by default the test data of the data set,
                or a fifth of the data if they are not a loader.
    folder:     the folder in which each stage keeps ``checkpoint.safetensors`` and
                ``metrics.jsonl``. After an interruption, the same call continues and gives the same
                result as an uninterrupted call, bit for bit.
    pool:       a folder of stages that several runs share if they have the same weights, data,
                likelihood, seed and options. With loaders or lambdas, which cannot be compared,
                stages are shared by folder.
    start:      a training before the recipe, such as ``Pretraining(epochs=20)``, that gives all
                recipes the same start; with a pool it runs once. Recipes then skip their own
                pretraining, and every recipe is compared with the network after the start.
    seed:       seed of all random numbers; the caller's generators do not change.
    device:     the device for network and data; by default their own.
    dense:      the network with which a recipe that prunes during training is compared: by default
                a network with the same training but without pruning (this doubles the time), False
                for none, or your own network. Recipes with a pretraining are compared with the
                pretrained network.
    callbacks:  callbacks for every stage, added to the recipe's own; ``run.stage`` is the name of
                the stage.
    progress:   show progress bars; by default only on a terminal.

    Raises TypeError or ValueError if the data do not fit, and TypeError if the network has no
    argument of a given name. Raises ValueError if the network cannot be copied or called with the
    data, if it does not return a tensor and the model names none, if targets are one-hot without a
    model, and if both ``start`` and the recipe's ``pretrain`` are given. Also raises what the
    recipe's methods and ``fit`` raise.

    >>> import pyrosparse as ps
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> result = ps.compress(net, (x, y), ps.recipes.Magnitude(epochs=2), progress=False)
    >>> round(result.sparsity, 2)
    0.91
    """
    expect_network(net)
    recipe = recipe or _default()
    for one in (recipe, start):
        if one is not None and not isinstance(one, Recipe):
            raise UsageError(_no_recipe(one))
    if start is not None:
        recipe = begins_trained(recipe)
    parts = split(data, validation, test, seed=seed, device=device)
    with generators_left_alone():
        torch.manual_seed(seed)
        first = trainable_copy(net).to(device)
        likelihood = model or default_model(parts.ordered(Called(first)))
        asked = likelihood(first, parts.n)
        if not callable(asked):
            raise UsageError(
                "model= must return a Pyro model of the network and the number of data, such as "
                f"ps.classifier(network, n); got {type(asked).__name__}"
            )
        parts = parts.ordered(asked)
        check_output(asked, check_network(first, parts.batch[:-1]))
        job = Job(
            copy.deepcopy(first),
            parts,
            likelihood,
            recipe,
            seed,
            None if folder is None else Path(folder),
            None if pool is None else Path(pool),
            progress,
            callbacks,
        )
        started = None
        if start is not None:
            job.stage(start, "start")
            started = copy.deepcopy(job.net)
        bnn = _train(job, recipe)
        if started is not None:  # whatever else the recipe kept
            job.original = started
        if job.original is None:
            job.original = _dense(job, first, dense)
        return _result(job, bnn)


def _no_recipe(given: Any) -> str:
    from pyrosparse.recipes import find

    made = given.__name__ if isinstance(given, type) else "Magnitude"
    if isinstance(given, str):
        made = find(given).__name__
    got = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
    return f"a recipe is an object such as ps.recipes.{made}(); got {got}"


def default_model(data: Split) -> Likelihood:
    """``classifier`` for targets of an integer type, ``regressor`` for others.

    Raises ValueError if the others are one-hot classes.
    """
    targets = data.batch[-1]
    if not targets.is_floating_point():
        return classifier
    if isinstance(data.train, (Examples, tuple)):  # of two rows of a loader it may be chance
        _refuse_one_hot(data.train.y if isinstance(data.train, Examples) else data.train[-1])
    return regressor


def _refuse_one_hot(targets: Tensor) -> None:
    ones = targets == 1
    binary = bool(((targets == 0) | ones).all())
    if binary and targets.dim() == 2 and targets.shape[1] > 1 and (ones.sum(1) == 1).all():
        raise ValueError(
            f"the targets are one-hot, {tuple(targets.shape[1:])}: give the classes, "
            "y.argmax(1); or, if they are values, pass model=ps.regressor"
        )


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
    unfolded = read_elsewhere(job.net, data.example) if gated else ()
    net = masked(job.net, masks, unfolded=unfolded) if masks is not None else job.net
    whole = masked(job.net, masks, gates, unfolded=unfolded) if gates else net
    original = job.original if job.original is not None else net
    judging = Judging.of(job, net)
    small, compaction = compacted(
        job.net,
        original,
        data.example,
        masks=masks,
        gates=gates,
        reported=judging.reported,
        **(_for_the_data(job, bnn, net, original) if gates else {}),
    )
    before_and_compact = compaction.report.quality if compaction.report else None
    scores: dict[str, Mapping[str, float]] = {}
    for name, one in (("before", original), ("after", whole), ("compact", small)):
        if one is None or (name == "before" and original is net):
            continue
        if before_and_compact is not None and name != "after":
            scores[name] = figures(before_and_compact[name == "compact"])
        else:
            scores[name] = judging.scores(one)
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
