"""Metrics for MLflow."""

from __future__ import annotations

from collections.abc import Mapping

from pyrosparse.tracking.tracker import Tracker


class MLflow(Tracker):
    """Logs every number of a run's history to the active run of MLflow.

    Start a run first, with ``mlflow.start_run()``: its server, experiment and tags are yours.

    Raises ImportError if the package ``mlflow`` is not installed, and ValueError if no run is
    active.

    >>> MLflow()  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import mlflow
        except ImportError as error:
            raise ImportError("MLflow needs a package: pip install mlflow") from error
        run = mlflow.active_run()
        if run is None:
            raise ValueError("no run of MLflow is active: call mlflow.start_run() first")
        self._run = run.info.run_id
        self._client = mlflow.MlflowClient()

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._run, name, value, step=epoch)
