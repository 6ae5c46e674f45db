"""Running a suite: what is missing, side by side, resumed where it stopped."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import joblib
import torch

import pyrosparse
from pyrosparse import machine
from pyrosparse.bench.predictive import outside_inputs, predictive
from pyrosparse.bench.suite import Job, Suite
from pyrosparse.compress import Settings, compress
from pyrosparse.compress.pretraining import shared
from pyrosparse.files import check_writable, read_text, write_atomically
from pyrosparse.locks import locked

# The types of what a line has.
_ENTRIES: dict[str, Any] = {
    "id": str,
    "cell": str,
    "seed": int,
    "test_accuracy": (int, float),
    "sparsity": (int, float),
    "settings": dict,
    "version": str,
    "torch": str,
    "machine": str,
    "date": str,
}


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
    scratch: a folder for the checkpoints of unfinished runs, from which they go on, and for the
             pretrained networks that runs with gates share.
    only:    a glob on run names.
    jobs:    runs side by side, by joblib: local processes, each on one thread, or whatever
             ``joblib.parallel_config`` says (``dask``, ``ray``).

    Raises ValueError when no run matches ``only``, when results are damaged, or of other settings
    than the suite has now, and OSError when results or scratch cannot be written: before a run.
    """
    wanted = [job for job in suite.jobs if fnmatchcase(job.id, only)]
    if not wanted:
        raise ValueError(
            f"no run of {suite.name} matches {only!r}; the first is {suite.jobs[0].id!r}"
        )
    for file in (results, scratch / "file"):
        check_writable(file)
    done = {line["id"]: line for line in read(results)}
    for job in wanted:
        if job.id in done:
            _refuse_other_settings(job, suite.outside, done[job.id], results)
    missing = [job for job in wanted if job.id not in done]
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    for line in parallel(joblib.delayed(_run_job)(job, suite.outside, scratch) for job in missing):
        _append(results, line)
        yield line


def read(results: Path) -> list[dict[str, Any]]:
    """The lines of a results file; none where there is no file.

    Raises ValueError, which names file and line, where a line is not one that ``run`` wrote.
    """
    if not os.path.lexists(results):
        return []
    return [
        _line(text, f"{results}, line {number}")
        for number, text in enumerate(read_text(results).splitlines(), 1)
        if text.strip()
    ]


@contextmanager
def reading(place: object) -> Iterator[None]:
    """What a damaged line makes the code inside raise becomes a ValueError with its place.

    >>> with reading("results.jsonl, line 3"):
    ...     {}["compact"]
    Traceback (most recent call last):
    ValueError: results.jsonl, line 3 is damaged (KeyError: 'compact'): remove that line, and ...
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
        raise _damaged(place, f"{type(error).__name__}: {error}") from error


def _damaged(place: object, reason: object) -> ValueError:
    return ValueError(f"{place} is damaged ({reason}): remove that line, and bench runs it again")


def _line(text: str, place: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(place, error) from error
    if not isinstance(line, dict):
        raise _damaged(place, "it is no JSON object")
    for name in ("id", "cell", "seed", "settings"):
        if name not in line:
            raise _damaged(place, f"it has no entry {name!r}")
    for name, kind in _ENTRIES.items():
        value = line.get(name)
        if name in line and (not isinstance(value, kind) or isinstance(value, bool)):
            raise _damaged(place, f"its entry {name!r} is {value!r}")
    with reading(place):
        Settings.of(line["settings"])
    return line


def _refuse_other_settings(
    job: Job, outside: str | None, line: dict[str, Any], results: Path
) -> None:
    now = json.loads(json.dumps(asdict(job.settings)))
    # A setting that is newer than the line had the default's effect when the line was written.
    then = json.loads(json.dumps(asdict(Settings.of(line["settings"]))))
    now["outside"] = outside
    then["device"] = now["device"]  # not of the other runs, and the line names its machine
    with reading(f"{results}, the line of {job.id}"):
        then["outside"] = line["predictive"]["outside"] if "predictive" in line else outside
    other = [f"{key} was {then[key]!r}, is {now[key]!r}" for key in now if then[key] != now[key]]
    if other:
        raise ValueError(
            f"{results} has {job.id} with other settings ({', '.join(other)}): name another "
            "file, or remove the line"
        )


def _run_job(job: Job, outside: str | None, scratch: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    # Before the training: what is wrong with them shall not cost one.
    others = outside_inputs(job.settings, outside) if outside is not None else None
    weights, before = None, 0.0
    if job.settings.starts_trained and job.settings.pretrain != 0:
        weights, before = shared(job.settings, scratch / "pretrained")
    outcome = compress(
        job.settings,
        folder=scratch / job.id,
        weights=weights,
        # A suite that has the first stage as a run of its own trains it once.
        first=scratch / _first(job.id),
        dense=False,  # a suite has it as a run of its own
        progress=False,
    )
    line = {
        "id": job.id,
        "cell": job.cell,
        "seed": job.settings.seed,
        "test_accuracy": outcome.test.accuracy,
        "test_nll": outcome.test.nll,
        "test_ece": outcome.test.ece,
        "sparsity": outcome.sparsity,
        "compact": outcome.compaction.figures(),
        "seconds": round(outcome.seconds, 1),
        "pretraining_seconds": round(before, 1),
        "version": pyrosparse.__version__,
        "torch": torch.__version__,
        "machine": f"{machine.describe(job.settings.device)}, 1 thread a run",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "settings": asdict(job.settings),
        "history": [_rounded(entry) for entry in outcome.history],
    }
    if outside is not None and others is not None:
        line["predictive"] = predictive(outcome, outside, others)
    return line


def _first(id: str) -> str:
    """The run of a suite that is the first stage of another one."""
    for second, first in (
        ("-dependent-beta-bernoulli-", "-beta-bernoulli-"),
        ("-reinitialised-", "-gibbs-"),
    ):
        id = id.replace(second, first)
    return id


def _rounded(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in entry.items()}


def _append(results: Path, line: dict[str, Any]) -> None:
    with locked(results):  # several benches may add to one file
        lines = [*(x for x in read(results) if x["id"] != line["id"]), line]
        text = "".join(json.dumps(x) + "\n" for x in lines)
        write_atomically(results, text)
