"""Where runs are computed: here, in processes side by side, or by joblib's backend on a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import joblib
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool
from joblib.parallel import get_active_backend

from pyrosparse.bench import failures
from pyrosparse.bench.results import read
from pyrosparse.bench.suite import Job
from pyrosparse.bench.task import Outcome, Task

log = logging.getLogger("pyrosparse")


def compute(task: Task, runs: Sequence[Job], jobs: int | None) -> Iterator[Outcome]:
    """Compute runs here, in processes side by side, or by the backend that joblib was given.

    jobs: runs side by side; None for what the backend has, 1 here.

    Raises RuntimeError where a worker refuses.
    """
    if type(get_active_backend()[0]).__name__ != "LokyBackend":
        outcomes = _on_the_backend(task, runs, jobs)
    elif (count := _processes(1 if jobs is None else jobs)) == 1:
        outcomes = map(task, runs)
    else:
        outcomes = _side_by_side(task, runs, count)
    for outcome in outcomes:
        if outcome.refusal:
            raise RuntimeError(outcome.refusal)
        if outcome.failure:
            log.warning("%s failed: %s", outcome.run, outcome.failure)
        yield outcome


def _side_by_side(task: Task, runs: Sequence[Job], jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come, from so many processes of this machine, which start once each.

    A process that is killed takes nothing with it but its run; another takes its place.
    """
    left = list(reversed(runs))
    # Each has a pool of its own: a pool that loses one process ends all.
    idle = [_process() for _ in range(min(jobs, len(runs)))]
    running: dict[Future[Outcome], tuple[ProcessPoolExecutor, Job]] = {}
    try:
        while left or running:
            while left and idle:
                pool, job = idle.pop(), left.pop()
                running[pool.submit(task, job)] = pool, job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pool, job = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool as error:
                    pool.shutdown(wait=False)
                    pool = _process()
                    outcome = _lost(task, job) or Outcome(job.id, failure=_first_line(error))
                idle.append(pool)
                yield outcome
    finally:
        for pool in [*idle, *(pool for pool, _ in running.values())]:
            pool.shutdown(kill_workers=bool(running))


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _on_the_backend(task: Task, runs: Sequence[Job], jobs: int | None) -> Iterator[Outcome]:
    """Outcomes from joblib's backend, which raises, and gives up all, where it loses a worker: the
    run that the worker was lost in is recorded, and the others are taken up again."""
    left = {job.id: job for job in runs}
    while left:
        count, failed = len(left), failures.read(task.results)
        try:
            for outcome in _parallel(task, list(left.values()), jobs):
                del left[outcome.run]
                yield outcome
        except Exception as error:
            for outcome in _since(task, left, failed):
                del left[outcome.run]
                yield outcome
            if len(left) == count:
                raise
            log.warning("a worker was lost (%s); the other runs go on", _first_line(error))


def _parallel(task: Task, runs: Sequence[Job], jobs: int | None) -> Iterator[Outcome]:
    backend, _ = get_active_backend()
    # Ray's says that it hands over results one by one, and does not.
    streams = backend.supports_return_generator and type(backend).__name__ != "RayBackend"
    parallel = joblib.Parallel(
        n_jobs=jobs, batch_size=1, return_as="generator_unordered" if streams else "list"
    )
    yield from parallel(joblib.delayed(task)(job) for job in runs)


def _since(
    task: Task, left: Mapping[str, Job], failed: Mapping[str, Mapping[str, Any]]
) -> list[Outcome]:
    """What the files say became of runs whose outcomes were lost.

    failed: the failures that were known before.
    """
    lost = [one for job in left.values() if (one := _lost(task, job))]
    known = {outcome.run for outcome in lost}
    lines = {line["id"]: line for line in read(task.results)}
    now = failures.read(task.results)
    for run in left.keys() - known:
        if run in lines:
            lost.append(Outcome(run, lines[run]))
        elif run in now and now[run] != failed.get(run):
            lost.append(Outcome(run, failure=now[run]["reason"]))
    return lost


def _lost(task: Task, job: Job) -> Outcome | None:
    reason = task.note_killed(job)
    return Outcome(job.id, failure=reason) if reason else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _processes(jobs: int) -> int:
    if jobs == 0:
        raise ValueError("jobs must be 1 or more, or -1 for one a core; got 0")
    return jobs if jobs > 0 else max(1, joblib.cpu_count() + 1 + jobs)
