"""Running a suite: what is missing, side by side, resumed where it stopped."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyrosparse.bench import failures
from pyrosparse.bench.claims import Claims
from pyrosparse.bench.failures import FailedRunsError
from pyrosparse.bench.results import read, reading
from pyrosparse.bench.suite import Job, Suite
from pyrosparse.bench.task import Task
from pyrosparse.bench.workers import compute
from pyrosparse.recipes.peers import missing_package
from pyrosparse.recipes.setup import Setup
from pyrosparse.util.files import check_writable


def run(
    suite: Suite,
    *,
    results: Path,
    scratch: Path,
    only: str = "*",
    jobs: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Run what is missing of a suite, yielding each run's line as it is done.

    Several of these, in processes or on machines that share the folders, divide the runs among
    them: each run is claimed (``Claims``), and one that another has is left to it. A run that
    fails or is killed is recorded beside the results, in ``SUITE.failed.jsonl``, and the others go
    on; the next call tries it again, from its last checkpoint.

    results: a file of one JSON line a run, written whole or not at all.
    scratch: the pool of ``compress``: checkpoints of unfinished runs, from which they go on, and
             stages that several runs share.
    only:    a glob on run names.
    jobs:    runs side by side, each in a process on one thread; -1 is one a core. Within
             ``cluster`` or ``joblib.parallel_config`` they run where that says. By default 1 here,
             and one a worker on a cluster.

    Runs of recipes whose package is not installed are left out, with a warning.

    Raises ValueError when no run matches ``only``, when results are damaged, or of other settings
    than the suite has now, and OSError when results or scratch cannot be written: before a run.
    Raises FailedRunsError at the end if runs failed, and RuntimeError if a worker computes
    several runs at once in its threads or does not see the folders, and if a cluster has gone.
    """
    wanted = suite.matching(only)
    results, scratch = results.absolute(), scratch.absolute()
    for file in (results, scratch / "file"):
        check_writable(file)
    done = {line["id"]: line for line in read(results)}
    for job in wanted:
        if job.id in done:
            _refuse_other_settings(job, suite.outside, done[job.id], results)
    missing = _runnable([job for job in wanted if job.id not in done])
    if not missing:
        return
    Claims(results).prepare()
    failed = []
    for outcome in compute(Task(results, scratch, suite.outside), missing, jobs):
        if outcome.failure:
            failed.append(f"{outcome.run} ({outcome.failure})")
        if outcome.line is not None:
            yield outcome.line
    if failed:
        raise FailedRunsError(
            f"{len(failed)} of {len(missing)} runs failed: {'; '.join(failed[:3])}"
            f"{' ...' if len(failed) > 3 else ''}. {failures.file_of(results)} has the reasons; "
            "the same command tries them again"
        )


def _runnable(jobs: Sequence[Job]) -> list[Job]:
    reasons = {job.id: missing_package(job.setup.recipe) for job in jobs}
    for reason in dict.fromkeys(filter(None, reasons.values())):
        left_out = sum(one == reason for one in reasons.values())
        warnings.warn(f"{left_out} runs are left out: {reason}", stacklevel=3)
    return [job for job in jobs if not reasons[job.id]]


def _refuse_other_settings(
    job: Job, outside: str | None, line: dict[str, Any], results: Path
) -> None:
    now = json.loads(json.dumps(job.setup.values()))
    # A setting that is newer than the line had the default's effect when the line was written.
    then = json.loads(json.dumps(Setup.of(line["settings"]).values()))
    now["outside"] = outside
    then["device"] = now["device"]  # not of the other runs, and the line names its machine
    with reading(f"{results}, the line of {job.id}"):
        then["outside"] = line.get("predictive", {}).get("outside", outside)
    other = [
        f"{key} was {then.get(key)!r}, is {now[key]!r}" for key in now if then.get(key) != now[key]
    ]
    if other:
        raise ValueError(
            f"{results} has {job.id} with other settings ({', '.join(other)}): name another "
            "file, or remove the line"
        )
