"""A job: a network, its data and likelihood, and where the stages of a recipe keep their files."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyrosparse import __version__
from pyrosparse.data.examples import Examples
from pyrosparse.evidence.batches import Columns
from pyrosparse.infer import Callback, Fit, fit
from pyrosparse.infer.ranks import process_group
from pyrosparse.lifting.lift import Lifted
from pyrosparse.models.distillation import distill
from pyrosparse.models.latents import ModelGuide, guide_of
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.split import Split, digest
from pyrosparse.util.locks import locked_folder

CHECKPOINT = "checkpoint.safetensors"

Likelihood = Callable[[Any, int], Any]


@dataclass(frozen=True)
class Stage:
    """One training of a run: its name, ``pretraining`` or ``first/training``, and its history."""

    name: str
    history: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        """The time it took."""
        return float(sum(entry["seconds"] for entry in self.history))


@dataclass
class Job:
    """What a recipe trains, and with what.

    net:        trained in place.
    likelihood: makes the Pyro model of a network and the number of data.
    folder:     where checkpoints and metrics are; None for none.
    pool:       a folder of stages that several runs share, each by what determines it; or None.
    original:   the network before anything went, as ``keep`` copied it; None where nothing did.
    guide:      what draws the posterior, where that is no guide that was trained.
    fitted:     the model of the last training, whose own parameters (of learned noise, cutpoints)
                the next ones begin with; None before the first.
    stages:     those that are done, in their order.
    """

    net: nn.Module
    data: Split
    likelihood: Likelihood
    recipe: Recipe
    seed: int = 0
    folder: Path | None = None
    pool: Path | None = None
    progress: bool | None = None
    callbacks: Sequence[Callback] = ()
    original: nn.Module | None = None
    guide: Any = None
    fitted: Any = None
    stages: list[Stage] = field(default_factory=list)

    def model(self, network: Any) -> Any:
        """The Pyro model of a network for these data, with what was learned of it so far beside
        the network."""
        model = self.likelihood(network, self.data.n)
        if isinstance(getattr(model, "guide", None), ModelGuide):
            first = next(network.parameters(), None)
            model.guide.to(None if first is None else first.device)
        if isinstance(model, nn.Module) and isinstance(self.fitted, nn.Module):
            _carry(self.fitted, model, network)
        return model

    def fit(
        self,
        bnn: Lifted,
        *,
        stage: str = "",
        data: Any = None,
        seed: int | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoints: bool = True,
        **options: Any,
    ) -> Fit:
        """Train a lifted network by ``fit``, with the recipe's ``batch_size``, validation data,
        progress and files.

        stage: its name where a recipe has several; each has a folder of its own.
        data:  by default the training data; seed: by default the job's.
        checkpoints: whether it may be resumed; not where a callback keeps tensors.

        Raises what ``fit`` raises.
        """
        folder = self.folder / stage if self.folder else None
        if hasattr(self.recipe, "batch_size"):
            options.setdefault("batch_size", self.recipe.batch_size)
        model = self.model(bnn)
        run = fit(
            model,
            guide_of(model, bnn),
            _taught(model, self.data.train if data is None else data),
            validation=self.data.validation,
            callbacks=[*callbacks, *self.callbacks],
            checkpoint=folder / CHECKPOINT if folder and checkpoints else None,
            metrics=folder / "metrics.jsonl" if folder else None,
            seed=self.seed if seed is None else seed,
            progress=self.progress,
            stage=stage or self.recipe.name,
            **options,
        )
        self.stages.append(Stage(stage or self.recipe.name, run.history))
        self.fitted, self.guide = model, None
        return run

    def stage(self, recipe: Recipe, name: str, *, net: nn.Module | None = None) -> Lifted:
        """Run another recipe as a stage of this one; returns its posterior.

        name: of its folder in this job's; one that is done there is used. In a pool it is kept by
              what determines it, and another run that asks for the same waits for it.
        net:  by default this job's, trained in place.

        Raises what the recipe raises.
        """
        inner = copy.copy(self)
        inner.net, inner.stages = self.net if net is None else net, []
        inner.folder = self.folder / name if self.folder else None
        bnn = inner.run(recipe)
        self.original = inner.original if self.original is None else self.original
        self.fitted, self.guide = inner.fitted, inner.guide
        for one in inner.stages:
            title = name if one.name == name else f"{name}/{one.name}"
            self.stages.append(Stage(title, one.history))
        return bnn

    def run(self, recipe: Recipe) -> Lifted:
        """Train by a recipe, alone in its folder; of several ranks the first waits for it."""
        self.recipe = recipe.resolve(self.net, self.data)
        if self.pool is not None and (name := self._pool_name()):
            self.folder = self.pool / name
        folder = self.folder if process_group().first else None
        with locked_folder(folder) if folder is not None else nullcontext():
            return self.recipe.train(self)

    def keep(self) -> None:
        """Keep a copy of the network as it is now: what the compact one is compared with."""
        self.original = copy.deepcopy(self.net)

    def _pool_name(self) -> str:
        key = getattr(self.likelihood, "key", None) or getattr(self.likelihood, "__qualname__", "")
        data = self.data.key
        if data is None or not key or "lambda" in key:
            return ""
        options = self.recipe.values()
        if not self.recipe.fine_tunes_itself():
            del options["fine_tune"]  # which is a stage of its own
        chosen = {
            "recipe": self.recipe.name,
            "options": options,
            "seed": self.seed,
            "net": [repr(self.net), digest(self.net.state_dict().values())],
            "version": __version__,
            "data": data,
            "likelihood": key,
        }
        code = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.recipe.name}-{code}"


def _carry(fitted: nn.Module, model: nn.Module, network: Any) -> None:
    """Give a model what another learned beside its network."""
    of_network = {id(tensor) for tensor in [*network.parameters(), *network.buffers()]}
    learned = fitted.state_dict()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if id(tensor) not in of_network and name in learned:
                tensor.copy_(learned[name])


def _taught(model: Any, data: Any) -> Any:
    """Training data with what the teacher of a model says of them, once for all epochs; data that
    may be other ones in each epoch as they are."""
    if not isinstance(model, distill) or not model.weight:
        return data
    if isinstance(data, Examples):
        return data.x, data.y, model.teach(data.x)
    if isinstance(data, Columns):
        return Columns((*data.parts, model.teach(*data.parts[:-1])))
    return (*data, model.teach(*data[:-1])) if isinstance(data, tuple) else data
