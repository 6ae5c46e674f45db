"""A cluster that computes the runs of a suite: Dask or Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import joblib

SCHEMES = ("tcp://", "tls://", "ws://", "wss://")
"""What the address of a Dask scheduler begins with."""

_RAY = "ray://"


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Within, the runs of suites are computed on a cluster.

    address: of a Dask scheduler, ``tcp://host:8786``, or of a Ray cluster: ``ray://host:10001`` for
             its client server, ``ray://auto`` for the one that this machine is part of.

    Raises ValueError on another address, if there is no worker and if a Dask worker has
    several threads, ImportError if Dask or Ray is not installed, and OSError if nothing
    answers.

    >>> with cluster("somewhere"):
    ...     pass
    Traceback (most recent call last):
    ValueError: 'somewhere' is not the address of a cluster: use tcp://host:8786 for Dask, or ...
    """
    if address.startswith(SCHEMES):
        with _dask(address):
            yield
    elif address.startswith(_RAY):
        with _ray(address):
            yield
    else:
        raise ValueError(
            f"{address!r} is not the address of a cluster: use tcp://host:8786 for Dask, or "
            "ray://host:10001 for Ray"
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
            raise ValueError(
                f"the Dask scheduler at {address} has no workers: start at least "
                f"one, dask worker {address} --nthreads 1"
            )
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
    ray.init("auto" if address == f"{_RAY}auto" else address, log_to_driver=False)
    try:
        register_ray()
        with joblib.parallel_config(backend="ray"):
            yield
    finally:
        ray.shutdown()
