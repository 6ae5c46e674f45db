"""Runs on the workers of Dask and of Ray, each handed over by itself: a worker that is killed takes
nothing with it but its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pyrosparse.bench.suite import Job
from pyrosparse.bench.task import Outcome, Task

_PATIENCE = 60.0
"""Seconds for a cluster that has lost all its workers to have one again."""


def by_dask(task: Task, runs: Sequence[Job], jobs: int | None, client: Any) -> Iterator[Outcome]:
    """Outcomes as they come from the workers of Dask's client.

    jobs: runs side by side; None and -1 for one a worker.

    Raises RuntimeError if the cluster has no workers any more, or its scheduler has gone.
    """
    from distributed import wait

    def workers() -> int:
        return len(client.scheduler_info(n_workers=-1)["workers"])

    def one_done(running: list[Any]) -> Any:
        while True:
            none = not workers()
            try:
                with client.as_current():
                    found = wait(running, timeout=_PATIENCE, return_when="FIRST_COMPLETED")
            except TimeoutError:
                if none and not workers():
                    raise RuntimeError("the Dask cluster has lost all its workers") from None
                continue
            done = found.done.pop()
            if done.cancelled():
                raise RuntimeError("the Dask scheduler no longer answers")
            return done

    def submit(job: Job) -> Any:
        # A worker that is lost is no reason to begin again: the task knows what it has begun.
        return client.submit(task, job, pure=False, retries=0)

    yield from _outcomes(task, runs, jobs, workers, submit, one_done, lambda done: done.result())


def by_ray(task: Task, runs: Sequence[Job], jobs: int | None) -> Iterator[Outcome]:
    """Outcomes as they come from the workers of the Ray cluster that this process is connected to.

    jobs: runs side by side; None and -1 for one a core of the cluster.
    """
    import ray

    # A process a run at most, as Pyro's state is global; and no second try of a run that kills it.
    remote = ray.remote(num_cpus=1, max_retries=0)(_call)

    def cores() -> int:
        return int(ray.cluster_resources().get("CPU", 1))

    def one_done(running: list[Any]) -> Any:
        return ray.wait(running, num_returns=1)[0][0]

    yield from _outcomes(
        task, runs, jobs, cores, lambda job: remote.remote(task, job), one_done, ray.get
    )


def _outcomes(
    task: Task,
    runs: Sequence[Job],
    jobs: int | None,
    room: Callable[[], int],
    submit: Callable[[Job], Any],
    one_done: Callable[[list[Any]], Any],
    result: Callable[[Any], Outcome],
) -> Iterator[Outcome]:
    """No more runs are handed over than are computed at once: where a worker is lost, none that
    waits for it is lost with it.

    room: how many the cluster computes at once."""
    left, running = list(reversed(runs)), dict[Any, Job]()
    while left or running:
        limit = jobs if jobs is not None and jobs > 0 else max(1, room())
        while left and len(running) < limit:
            job = left.pop()
            running[submit(job)] = job
        done = one_done(list(running))
        job = running.pop(done)
        try:
            outcome = result(done)
        except Exception as error:  # of the worker: what a run raises is in its outcome
            outcome = task.lost(job, error)
        del done  # Dask computes again what it is asked to hold and loses with a worker
        yield outcome


def _call(task: Task, job: Job) -> Outcome:
    return task(job)
