"""Where runs are computed: here, in processes side by side, or where joblib's backend says."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import joblib
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool
from joblib.parallel import get_active_backend

from pyrosparse.bench.remote import by_dask, by_ray
from pyrosparse.bench.suite import Job
from pyrosparse.bench.task import Outcome, Task

log = logging.getLogger("pyrosparse")


def compute(task: Task, runs: Sequence[Job], jobs: int | None) -> Iterator[Outcome]:
    """Compute runs here, in processes side by side, or by the backend that joblib was given; on
    Dask and Ray without joblib, whose call ends, or waits for ever, where a worker is killed.

    jobs: runs side by side; None for what the backend has, 1 here.

    Raises RuntimeError if a worker refuses, or a cluster has gone.
    """
    backend: Any = get_active_backend()[0]
    if (kind := type(backend).__name__) == "DaskDistributedBackend":
        outcomes = by_dask(task, runs, jobs, backend.client)
    elif kind == "RayBackend":
        outcomes = by_ray(task, runs, jobs)
    elif kind != "LokyBackend":
        outcomes = _parallel(task, runs, jobs)
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
                    outcome = task.lost(job, error)
                idle.append(pool)
                yield outcome
    finally:
        for pool in [*idle, *(pool for pool, _ in running.values())]:
            pool.shutdown(kill_workers=bool(running))


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _parallel(task: Task, runs: Sequence[Job], jobs: int | None) -> Iterator[Outcome]:
    streams = get_active_backend()[0].supports_return_generator
    parallel = joblib.Parallel(
        n_jobs=jobs, batch_size=1, return_as="generator_unordered" if streams else "list"
    )
    yield from parallel(joblib.delayed(task)(job) for job in runs)


def _processes(jobs: int) -> int:
    if jobs == 0:
        raise ValueError("jobs must be 1 or more, or -1 for one for each core; got 0")
    return jobs if jobs > 0 else max(1, joblib.cpu_count() + 1 + jobs)
