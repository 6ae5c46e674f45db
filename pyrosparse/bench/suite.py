"""Suites: grids of runs declared in TOML, with the figures that were published for them."""

from __future__ import annotations

import itertools
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pyrosparse import data as data_sets
from pyrosparse.compress import Settings
from pyrosparse.compress.families import EVIDENCE, GATING, TURBO
from pyrosparse.errors import unknown_name
from pyrosparse.files import read_text

MOST_RUNS = 100_000
"""Runs that a suite may ask for."""

_KINDS = {list: "list", str: "text"}


@dataclass(frozen=True)
class Job:
    """One run of a suite: a cell of its table under one seed."""

    cell: str
    settings: Settings

    @property
    def id(self) -> str:
        """The run's name, unique in its suite."""
        return f"{self.cell}-seed{self.settings.seed}"


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

    @property
    def gated(self) -> bool:
        """Whether it has runs that close gates, whose networks' size is what matters."""
        return any(job.settings.gated for job in self.jobs)

    @property
    def structured(self) -> bool:
        """Whether it has runs of Turbo-VBI, whose networks' structure is what matters."""
        return any(job.settings.method in TURBO for job in self.jobs)


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

    Raises ValueError, which names the file (and the line where it is not TOML), on an unknown name,
    a setting that does not exist or is of a wrong type, or more than ``MOST_RUNS`` runs.

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
        raise ValueError(f"{place} cannot be read: it lacks the entry {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # tomllib's own message has the line.
        raise ValueError(f"{place} cannot be read: {error}") from error


def _suite(name: str, content: dict[str, Any], seeds: int | None, device: str | None) -> Suite:
    for entry, kind in {"grid": list, "title": str, "source": str}.items():
        if not isinstance(content[entry], kind):
            raise ValueError(f"its entry {entry!r} is no {_KINDS[kind]}")
    for entry in ("grid", "paper"):
        if not all(isinstance(one, dict) for one in content.get(entry, [])):
            raise ValueError(f"its entry {entry!r} is no list of tables")
    jobs: dict[str, Job] = {}
    for grid in content["grid"]:
        for job in _expand(content.get("settings", {}), grid, seeds, MOST_RUNS - len(jobs)):
            if device is not None:
                job = Job(job.cell, replace(job.settings, device=device))
            jobs.setdefault(job.id, job)
    if not jobs:
        raise ValueError("it has no runs: give it a [[grid]] with a seed at least")
    paper: dict[str, Mapping[str, Any]] = {}
    for row in content.get("paper", []):
        paper |= dict(_published(row))
    outside = content.get("outside")
    if outside is not None:
        data_sets.check_name(outside)
    return Suite(name, content["title"], content["source"], list(jobs.values()), paper, outside)


def _published(row: dict[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The figures of one row: accuracies by method, a list of each figure along kl_scale, or
    accuracy and structure at a share of active weights."""
    where = row["dataset"], row["network"]
    if "structure" in row:
        keys = ("accuracy", "left", "structure", "macs")
        yield _cell(*where, row["method"], row["active"]), {key: row[key] for key in keys}
        return
    if "accuracy" in row:
        for method, value in row["accuracy"].items():
            yield _cell(*where, method, row["sparsity"]), {"accuracy": value}
        return
    figures = [name for name in ("error", "speedup", "memory") if name in row]
    for index, level in enumerate(row["kl_scale"]):
        yield _cell(*where, row["method"], level), {name: row[name][index] for name in figures}


def _expand(
    shared: dict[str, Any], grid: dict[str, Any], seeds: int | None, most: int
) -> Iterator[Job]:
    settings = {**shared, **grid}
    known = set(Settings.__dataclass_fields__) - {"seed"} | {"seeds"}
    for name in settings:
        if name not in known:
            raise unknown_name("setting in a suite", name, known)
    repeat = seeds if seeds is not None else settings.get("seeds", 1)
    settings.pop("seeds", None)
    if not isinstance(repeat, int) or isinstance(repeat, bool) or repeat < 1:
        raise ValueError(f"seeds must be a positive whole number, got {repeat!r}")
    axes = {key: value for key, value in settings.items() if isinstance(value, list)}
    runs = repeat * math.prod(len(values) for values in axes.values())
    if runs > most:
        raise ValueError(
            f"its grid asks for {runs} runs, and a suite may have {MOST_RUNS}: lower seeds (which "
            f"are {repeat}), or make several suites"
        )
    for values in itertools.product(*axes.values()):
        for seed in range(repeat):
            chosen = Settings(**{**settings, **dict(zip(axes, values, strict=True)), "seed": seed})
            yield Job(_cell(chosen.dataset, chosen.network, chosen.label, chosen.level), chosen)


def _cell(dataset: str, network: str, method: str, level: float | None) -> str:
    if method in ("none", "dense") or level is None:
        return f"{dataset}-{network}-{method}"
    # Of all other methods the level is a share of the weights.
    shown = level if method in GATING or method in EVIDENCE else 100 * level
    return f"{dataset}-{network}-{method}-{shown:g}"
