"""Clusters that compute the runs of a suite: Dask and Ray, by joblib."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import joblib

SCHEMES = ("tcp://", "tls://", "ws://", "wss://")
"""What the address of a Dask scheduler begins with."""


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Within, joblib's tasks run on a cluster.

    address: of a Dask scheduler, ``tcp://host:8786``; or ``ray``, the Ray cluster that the variable
             RAY_ADDRESS names or that runs here, or else one of this machine; or ``ray://host:10001``.

    Raises ValueError on another address and where a worker of Dask has several threads, ImportError
    where the package is not installed, and OSError where no scheduler answers.

    >>> with cluster("somewhere"):
    ...     pass
    Traceback (most recent call last):
    ValueError: no cluster 'somewhere': give the address of a Dask scheduler (tcp://host:8786), ...
    """
    if address.startswith(SCHEMES):
        with _dask(address):
            yield
    elif address == "ray" or address.startswith("ray://"):
        with _ray(address):
            yield
    else:
        raise ValueError(
            f"no cluster {address!r}: give the address of a Dask scheduler (tcp://host:8786), or "
            "`ray`"
        )


@contextmanager
def _dask(address: str) -> Iterator[None]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("Dask is not installed: pip install 'pyrosparse[dask]'") from error
    with Client(address, timeout="30s", set_as_default=False) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise ValueError(f"the Dask scheduler at {address} has no workers: start some")
        for name, worker in workers.items():
            if worker["nthreads"] != 1:
                raise ValueError(
                    f"the Dask worker {name} has {worker['nthreads']} threads, and Pyro's state "
                    "is global: start workers with --nthreads 1 (and --nworkers for more)"
                )
        with joblib.parallel_config(backend="dask", client=client, n_jobs=-1):
            yield


@contextmanager
def _ray(address: str) -> Iterator[None]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ImportError("Ray is not installed: pip install 'pyrosparse[ray]'") from error
    started = not ray.is_initialized()
    if started:
        ray.init(
            None if address == "ray" else address,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
            log_to_driver=False,
        )
    register_ray()
    try:
        with joblib.parallel_config(backend="ray", n_jobs=-1):
            yield
    finally:
        if started:
            ray.shutdown()
