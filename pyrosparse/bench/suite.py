"""Suites: grids of runs declared in TOML, with the figures that were published for them."""

from __future__ import annotations

import itertools
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from pyrosparse import data as data_sets
from pyrosparse.recipes import PEERS, RECIPES, REFERENCES, find
from pyrosparse.recipes.setup import Setup
from pyrosparse.util.errors import unknown_name
from pyrosparse.util.files import read_text

MOST_RUNS = 100_000
"""Runs that a suite may ask for."""

_KINDS = {list: "list", str: "text"}

_VARIANT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

_FIGURES = ("accuracy", "error", "speedup", "memory", "left", "structure", "macs")


@dataclass(frozen=True)
class Job:
    """One run of a suite: a cell of its table under one seed.

    variant: what tells its cell from others of the same recipe and level; "" where nothing does.
    """

    setup: Setup
    variant: str = ""

    @property
    def cell(self) -> str:
        """Data set, network, recipe and level, and the variant where there is one."""
        return _cell(self.setup, self.variant)

    @property
    def id(self) -> str:
        """The run's name, unique in its suite."""
        return f"{self.cell}-seed{self.setup.seed}"


@dataclass(frozen=True)
class Suite:
    """A declared grid of runs with the published figures of its cells.

    name:   the file's name in ``pyrosparse/suites``, or the path of a TOML file.
    title, source: for people.
    jobs:   all runs, in the order in which they are worth having.
    paper:  published figures by cell: ``accuracy`` in [0, 1], or ``error`` and ``memory`` in % and
            ``speedup``; with ``structure``, units by layer, ``left``, the weights in %, and
            ``macs``, multiply-accumulates saved in %, beside the accuracy.
    outside: the data set whose test data every run is shown as not of its kind; None for none.
    """

    name: str
    title: str
    source: str
    jobs: list[Job]
    paper: dict[str, Mapping[str, Any]]
    outside: str | None = None

    def matching(self, only: str) -> list[Job]:
        """The runs whose name matches a glob; raises ValueError where none does."""
        wanted = [job for job in self.jobs if fnmatchcase(job.id, only)]
        if not wanted:
            raise ValueError(
                f"no run of {self.name} matches {only!r}; the first is {self.jobs[0].id!r}"
            )
        return wanted


def suites() -> list[str]:
    """The names of the suites that come with the package.

    >>> "turbo-vbi" in suites()
    True
    """
    folder = resources.files("pyrosparse") / "suites"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".toml"))


def load(name: str, *, seeds: int | None = None, device: str | None = None) -> Suite:
    """Read a suite by name, or from a TOML file of one's own.

    seeds:  so many seeds in every cell, instead of what the suite asks for.
    device: what its runs are computed on, instead of what the suite asks for.

    Raises ValueError, which names the file (and the line if it is not TOML), on an unknown name
    or option, if no recipe of a grid has an option of it, and on more than ``MOST_RUNS`` runs.

    >>> load("bayesian-pruning").jobs[0].id
    'mnist-fcn-none-seed0'
    """
    if name.endswith(".toml") and os.path.lexists(name):
        place, text = name, read_text(name)
        name = Path(name).stem
    elif name in suites():
        place = f"the suite {name}"
        text = (resources.files("pyrosparse") / "suites" / f"{name}.toml").read_text()
    else:
        raise unknown_name("suite", name, suites())
    try:
        return _suite(name, tomllib.loads(text), seeds, device)
    except KeyError as error:
        raise ValueError(f"{place} cannot be read: the entry {error} is missing") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # tomllib's own message has the line.
        raise ValueError(f"{place} cannot be read: {error}") from error


def _suite(name: str, content: dict[str, Any], seeds: int | None, device: str | None) -> Suite:
    for entry, kind in {"grid": list, "title": str, "source": str}.items():
        if not isinstance(content[entry], kind):
            raise ValueError(f"its entry {entry!r} is not a {_KINDS[kind]}")
    for entry in ("grid", "problem", "paper"):
        tables = content.get(entry, [])
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            raise ValueError(f"its entry {entry!r} is not a list of tables")
    jobs: dict[str, Job] = {}
    problems = content.get("problem", [{}])
    own = {"dataset", "network"}
    # A grid with a problem of its own takes nothing of the others, such as their options.
    grids = [
        {**problem, **grid}
        for grid in content["grid"]
        for problem in ([{}] if own <= grid.keys() else problems)
    ]
    for grid in grids:
        for job in _expand(content.get("settings", {}), grid, seeds, MOST_RUNS - len(jobs)):
            if device is not None:
                job = replace(job, setup=replace(job.setup, device=device))
            if jobs.setdefault(job.id, job) != job:
                raise ValueError(
                    f"two of its runs are called {job.id} and differ in their settings: give one "
                    'grid a name of its own, variant = "..."'
                )
    if not jobs:
        raise ValueError("it has no runs: give it a [[grid]] with at least one seed")
    paper = dict(published for row in content.get("paper", []) for published in _published(row))
    outside = content.get("outside")
    if outside is not None:
        data_sets.check_name(outside)
    return Suite(name, content["title"], content["source"], list(jobs.values()), paper, outside)


def _cell(setup: Setup, variant: str) -> str:
    return f"{setup.cell}-{variant}" if variant else setup.cell


def _published(row: dict[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The figures of one row by cell: accuracies by recipe, or one recipe's figures, in lists where
    an option runs along one."""
    figures = {name: row[name] for name in _FIGURES if name in row}
    variant = row.get("variant", "")
    options = {name: row[name] for name in row.keys() - figures.keys() - {"variant"}}

    def cell(**more: Any) -> str:
        return _cell(Setup.of(options | more), variant)

    if isinstance(row.get("accuracy"), Mapping):
        for recipe, value in row["accuracy"].items():
            yield cell(recipe=recipe), {"accuracy": value}
        return
    along = [name for name, value in options.items() if isinstance(value, list)]
    if not along:
        yield cell(), figures
    for name in along:
        for index, value in enumerate(options[name]):
            one = {key: of_all[index] for key, of_all in figures.items()}
            yield cell(**{name: value}), one


def _expand(
    shared: dict[str, Any], grid: dict[str, Any], seeds: int | None, most: int
) -> Iterator[Job]:
    known = {*Setup.options(), "recipe", "seeds", "variant"} - {"seed"}
    having_options = (*RECIPES, *PEERS, *REFERENCES)
    everything = known.union(*(recipe.options() for recipe in having_options))
    for name in {**shared, **grid}:
        if name not in everything:
            raise unknown_name("setting in a suite", name, sorted(everything))
    settings = {**shared, **grid}
    recipes = settings.get("recipe", Setup().recipe.name)
    having = [find(one) for one in (recipes if isinstance(recipes, list) else [recipes])]
    for name in grid.keys() - known:
        if not any(name in recipe.options() for recipe in having):
            told = ", ".join(recipe.name for recipe in having)
            raise ValueError(f"a grid of {told} has {name}, which is not an option of any of them")
    repeat = seeds if seeds is not None else settings.get("seeds", 1)
    settings.pop("seeds", None)
    if not isinstance(repeat, int) or isinstance(repeat, bool) or repeat < 1:
        raise ValueError(f"seeds must be a positive whole number, got {repeat!r}")
    variant = settings.pop("variant", "")
    if not isinstance(variant, str) or (variant and not _VARIANT.fullmatch(variant)):
        raise ValueError(
            "a variant is part of the names of files: small letters, digits and dashes; got "
            f"{variant!r}"
        )
    axes = {key: value for key, value in settings.items() if isinstance(value, list)}
    runs = repeat * math.prod(len(values) for values in axes.values())
    if runs > most:
        raise ValueError(
            f"its grid asks for {runs} runs, and a suite may have {MOST_RUNS}: lower seeds (which "
            f"are {repeat}), or make several suites"
        )
    for values in itertools.product(*axes.values()):
        for seed in range(repeat):
            chosen = {**settings, **dict(zip(axes, values, strict=True)), "seed": seed}
            yield Job(Setup.of(chosen), variant)
