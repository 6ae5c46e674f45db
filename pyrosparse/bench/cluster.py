"""A cluster that computes the runs of a suite: Dask, by joblib."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import joblib

SCHEMES = ("tcp://", "tls://", "ws://", "wss://")
"""What the address of a Dask scheduler begins with."""


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Within, joblib's tasks run on a Dask cluster.

    address: of its scheduler, ``tcp://host:8786``.

    Raises ValueError on another address, where there is no worker and where a worker has several
    threads, ImportError where Dask is not installed, and OSError where no scheduler answers.

    >>> with cluster("somewhere"):
    ...     pass
    Traceback (most recent call last):
    ValueError: no cluster 'somewhere': give the address of a Dask scheduler, tcp://host:8786
    """
    if not address.startswith(SCHEMES):
        raise ValueError(
            f"no cluster {address!r}: give the address of a Dask scheduler, tcp://host:8786"
        )
    with _dask(address):
        yield


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
