"""A run by names, as the command line and suites have it: network, data, teacher and recipe."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pyrosparse.recipes import find
from pyrosparse.recipes.gates import BetaBernoulli
from pyrosparse.recipes.option import INT64, POSITIVE, Option, option, options
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.stages import Pretraining
from pyrosparse.recipes.start import begins_trained, check_keeps_weights
from pyrosparse.util.errors import unknown_name

if TYPE_CHECKING:
    from pyrosparse.recipes.result import Result


@dataclass(frozen=True)
class Setup:
    """All that determines a run, in JSON values but for the recipe.

    Raises ValueError on options out of range.

    >>> Setup.of({"recipe": "magnitude", "sparsity": 0.5}).recipe.sparsity
    0.5
    """

    network: str = option(
        "fcn", "a name of `pyrosparse networks`, torchvision:MODEL, or package.module:function"
    )
    network_options: Mapping[str, Any] = option(
        {}, "options of the network's function, as JSON: '{\"hidden\": [100, 50]}'"
    )
    dataset: str = option(
        "digits", "a name of `pyrosparse datasets`, a folder of images, or package.module:function"
    )
    size: tuple[int, int] | None = option(
        None,
        "resize the images of a folder, or average those of a data set: 64, or height and "
        "width, 48x64",
    )
    normalise: Literal["standard", "unit"] = option(
        "standard", "images of mean 0 and variance 1, or pixels in [0, 1]"
    )
    validation: float = option(
        0.1, "share of the training data held out for validation", within="[0, 1)"
    )
    seed: int = option(0, "seed of all random numbers", within=INT64)
    device: str = option("cpu", "device, as torch names it: cpu, cuda")
    model: str = option(
        "",
        "model of the data: classifier, regressor, heteroscedastic, counts, multilabel, ordinal "
        "or package.module:function; by default classifier for classes, regressor for values",
    )
    teacher: str = option(
        "",
        "network to distil: a run's folder, a network's file, weights, or package.module:function",
    )
    teacher_weight: float = option(0.5, "share of the teacher in the likelihood", within="[0, 1]")
    teacher_temperature: float = option(
        2.0, "temperature of the teacher's probabilities", within=POSITIVE
    )
    start: Mapping[str, Any] = option(
        {},
        "train the network first, in the same way for all recipes, as JSON: "
        "'{\"epochs\": 20}'; also batch_size, learning_rate, scale",
    )
    recipe: Recipe = field(default_factory=BetaBernoulli)

    def __post_init__(self) -> None:
        self._check_start()
        object.__setattr__(self, "size", _pair(self.size))
        for name, one in self.options().items():
            one.check(getattr(self, name))

    def _check_start(self) -> None:
        known = Pretraining.options().keys() - {"fine_tune"}
        for name in self.start:
            if name not in known:
                raise unknown_name("option of the start", name, sorted(known))
        if self.start:
            begins_trained(self.recipe)
            Pretraining.of(self.start)

    @classmethod
    def options(cls) -> Mapping[str, Option]:
        """The options by name, those of the recipe aside."""
        return options(cls)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The setup with these values, as ``values`` gave them at any time: what was not there then
        is as by default, what is there no more is left out, and a recipe may be called ``method``.

        Raises ValueError on an unknown recipe.
        """
        name = values.get("recipe", values.get("method", BetaBernoulli.name))
        recipe = find(name).of(values)
        own = {key: values[key] for key in cls.options() if values.get(key) is not None}
        return cls(**own, recipe=recipe)

    def values(self) -> dict[str, Any]:
        """All options by name, as JSON values; None where a rule is to settle one."""
        own = {name: getattr(self, name) for name in self.options()}
        return own | {"recipe": self.recipe.name} | self.recipe.values()

    @property
    def cell(self) -> str:
        """Data set, network, recipe and level: ``mnist-fcn-magnitude-90``."""
        return f"{self.dataset}-{self.network}-{self.recipe.cell}"

    def command(self, *more: str) -> str:
        """The shell command that repeats a run; what is not in it is as by default.

        >>> Setup.of({"recipe": "magnitude", "sparsity": 0.5, "freeze": False}).command()
        'pyrosparse compress magnitude --sparsity 0.5 --no-freeze'
        """
        words = ["pyrosparse", "compress", self.recipe.name]
        for owner in (self, self.recipe):
            for name, one in owner.options().items():
                value, flag = getattr(owner, name), name.replace("_", "-")
                if value == one.default:
                    continue
                if isinstance(value, bool):
                    words.append(f"--{flag}" if value else f"--no-{flag}")
                elif isinstance(value, tuple):
                    words += [f"--{flag}", "x".join(str(side) for side in value)]
                elif isinstance(value, Mapping) and one.number is not None:
                    pairs = (f"{key}={number}" for key, number in value.items())
                    words += [f"--{flag}", ",".join(pairs)]
                else:
                    text = json.dumps(value) if isinstance(value, Mapping) else str(value)
                    words += [f"--{flag}", text]
        return shlex.join([*words, *more])

    def run(
        self,
        *,
        folder: Path | None = None,
        pool: Path | None = None,
        weights: Mapping[str, Any] | None = None,
        dense: bool = True,
        progress: bool | None = None,
    ) -> Result:
        """Load what is named, and compress it.

        folder, pool, progress: as for ``compress``.
        weights: a state dict to start from, as a trained network.
        dense:   as for ``compress``; with weights, their network is the one to compare with.

        Raises ValueError if something is not found or the weights do not fit, and what
        ``compress`` raises.

        >>> values = {"recipe": "none", "epochs": 1, "network_options": {"hidden": (8,)}}
        >>> Setup.of(values).run(progress=False).report.structure
        '8-10'
        """
        from pyrosparse.recipes.named import (
            load_data,
            load_likelihood,
            load_network,
            load_teacher,
        )
        from pyrosparse.recipes.run import compress
        from pyrosparse.util.machine import check_device

        if weights is not None and self.start:
            raise ValueError(
                "start and weights both set the initial network: leave one of them out"
            )
        if weights is not None:
            check_keeps_weights(self.recipe, "the weights")
        check_device(self.device)
        data = load_data(self)
        net = load_network(self, data, weights)
        recipe = self.recipe
        if weights is not None and "pretrain" in recipe.options():
            recipe = replace(recipe, pretrain=0)  # type: ignore[call-arg]
        return compress(
            net,
            data,
            recipe,
            model=load_teacher(self, net) if self.teacher else load_likelihood(self, data, net),
            validation=self.validation if self.validation and _undivided(data) else None,
            folder=folder,
            pool=pool,
            start=Pretraining.of(self.start) if self.start else None,
            seed=self.seed,
            device=self.device,
            dense=net if dense and weights is not None else dense,
            progress=progress,
        )


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width, where one number is both."""
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and 1 <= side < 2**15 for side in pair):
        raise ValueError(f"size is a height and a width in pixels, 1 or more; got {size!r}")
    return pair


def _undivided(data: Any) -> bool:
    """Whether the data can be divided, and are not yet."""
    from pyrosparse.data import DataSet
    from pyrosparse.recipes.parts import by_index, part_of

    return not isinstance(data, DataSet) and by_index(part_of(data))
