"""Suites of runs: declared in TOML, run side by side, resumed where they stopped, tabled."""

from __future__ import annotations

import datetime
import fcntl
import itertools
import json
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import joblib
import torch

import pyrosparse
from pyrosparse import machine
from pyrosparse.compress import Settings, compress
from pyrosparse.errors import unknown_name
from pyrosparse.files import write_atomically

Cell = tuple[tuple[str, Any], ...]


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
    paper:  published test accuracies by cell.
    """

    name: str
    title: str
    source: str
    jobs: list[Job]
    paper: dict[str, float]


def suites() -> list[str]:
    """The names of the suites that come with the package.

    >>> "bayesian-pruning" in suites()
    True
    """
    folder = resources.files("pyrosparse") / "suites"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".toml"))


def load(name: str, *, seeds: int | None = None) -> Suite:
    """Read a suite by name, or from a TOML file of one's own.

    seeds: so many seeds in every cell, instead of what the suite asks for.

    Raises ValueError on an unknown name or a setting that does not exist.

    >>> load("bayesian-pruning").jobs[0].id
    'mnist-fcn-none-seed0'
    """
    if name.endswith(".toml") and Path(name).exists():
        text = Path(name).read_text()
        name = Path(name).stem
    elif name in suites():
        text = (resources.files("pyrosparse") / "suites" / f"{name}.toml").read_text()
    else:
        raise unknown_name("suite", name, suites())
    content = tomllib.loads(text)
    jobs: dict[str, Job] = {}
    for grid in content["grid"]:
        for job in _expand(content.get("settings", {}), grid, seeds):
            jobs.setdefault(job.id, job)
    paper = {
        _cell(row["dataset"], row["network"], method, row["sparsity"]): value
        for row in content.get("paper", [])
        for method, value in row["accuracy"].items()
    }
    return Suite(name, content["title"], content["source"], list(jobs.values()), paper)


def run(
    suite: Suite,
    *,
    results: Path,
    scratch: Path,
    only: str = "*",
    jobs: int = 1,
) -> Iterator[dict[str, Any]]:
    """Run what is missing of a suite, yielding each run's line as it is done.

    results: a file of one JSON line a run, written whole or not at all.
    scratch: a folder for the checkpoints of unfinished runs, from which they go on.
    only:    a glob on run names.
    jobs:    runs side by side, by joblib: local processes, each on one thread, or whatever
             ``joblib.parallel_config`` says (``dask``, ``ray``).

    Raises ValueError when no run matches ``only``, or when results are of other settings than the
    suite has now.
    """
    wanted = [job for job in suite.jobs if fnmatchcase(job.id, only)]
    if not wanted:
        raise ValueError(
            f"no run of {suite.name} matches {only!r}; the first is {suite.jobs[0].id!r}"
        )
    done = {line["id"]: line for line in read(results)}
    for job in wanted:
        if job.id in done:
            _refuse_other_settings(job, done[job.id], results)
    missing = [job for job in wanted if job.id not in done]
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    for line in parallel(joblib.delayed(_run_job)(job, scratch / job.id) for job in missing):
        _append(results, line)
        yield line


def read(results: Path) -> list[dict[str, Any]]:
    """The lines of a results file; none where there is no file."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line]


@dataclass(frozen=True)
class Row:
    """One cell of a suite's table: ours beside the paper's test accuracy."""

    cell: str
    accuracies: list[float]
    sparsity: float
    paper: float | None

    @property
    def mean(self) -> float:
        """Mean test accuracy over the seeds."""
        return mean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None for one seed."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.paper is None else self.mean - self.paper


def table(suite: Suite, results: Path) -> list[Row]:
    """The cells of a suite that have results, in the suite's order."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in read(results):
        lines.setdefault(line["cell"], []).append(line)
    cells = dict.fromkeys(job.cell for job in suite.jobs)
    return [
        Row(
            cell,
            [line["test_accuracy"] for line in sorted(lines[cell], key=lambda line: line["seed"])],
            mean(line["sparsity"] for line in lines[cell]),
            suite.paper.get(cell),
        )
        for cell in cells
        if cell in lines
    ]


def provenance(results: Path) -> str:
    """With what versions, on what machines and when the runs of a results file were made."""
    lines = read(results)

    def values(key: str) -> str:
        return ", ".join(sorted({line[key] for line in lines}))

    return (
        f"{len(lines)} runs; pyrosparse {values('version')}, torch {values('torch')}; "
        f"{values('machine')}; {values('date')}"
    )


def _expand(shared: dict[str, Any], grid: dict[str, Any], seeds: int | None) -> Iterator[Job]:
    settings = {**shared, **grid}
    known = set(Settings.__dataclass_fields__) - {"seed"} | {"seeds"}
    for name in settings:
        if name not in known:
            raise unknown_name("setting in a suite", name, known)
    repeat = seeds if seeds is not None else settings.get("seeds", 1)
    settings.pop("seeds", None)
    axes = {key: value for key, value in settings.items() if isinstance(value, list)}
    for values in itertools.product(*axes.values()):
        for seed in range(repeat):
            chosen = Settings(**{**settings, **dict(zip(axes, values, strict=True)), "seed": seed})
            yield Job(_cell(chosen.dataset, chosen.network, chosen.method, chosen.sparsity), chosen)


def _cell(dataset: str, network: str, method: str, sparsity: float) -> str:
    level = "" if method == "none" else f"-{100 * sparsity:g}"
    return f"{dataset}-{network}-{method}{level}"


def _refuse_other_settings(job: Job, line: dict[str, Any], results: Path) -> None:
    now = json.loads(json.dumps(asdict(job.settings)))
    # A setting that is newer than the line had the default's effect when the line was written.
    then = json.loads(json.dumps(asdict(Settings()))) | line["settings"]
    other = [f"{key} was {then[key]!r}, is {now[key]!r}" for key in now if then[key] != now[key]]
    if other:
        raise ValueError(
            f"{results} has {job.id} with other settings ({', '.join(other)}): name another "
            "file, or remove the line"
        )


def _run_job(job: Job, scratch: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    outcome = compress(job.settings, folder=scratch, progress=False)
    return {
        "id": job.id,
        "cell": job.cell,
        "seed": job.settings.seed,
        "test_accuracy": outcome.test["accuracy"],
        "test_nll": outcome.test["nll"],
        "sparsity": outcome.sparsity,
        "seconds": round(sum(entry["seconds"] for entry in outcome.run.history), 1),
        "version": pyrosparse.__version__,
        "torch": torch.__version__,
        "machine": f"{machine.describe()}, 1 thread a run",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "settings": asdict(job.settings),
        "history": [_rounded(entry) for entry in outcome.run.history],
    }


def _rounded(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in entry.items()}


def _append(results: Path, line: dict[str, Any]) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    with open(results.with_name(f".{results.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several benches may add to one file
        lines = [*(x for x in read(results) if x["id"] != line["id"]), line]
        text = "".join(json.dumps(x) + "\n" for x in lines)
        write_atomically(results, text)
