"""MLflow as a tracker. Its variables apply: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ..."""

import os

import ml_collections

from alexnet_jax.config import leaves

# Training waits for each record. By default a server that is gone is asked for several minutes.
PATIENCE = {'MLFLOW_HTTP_REQUEST_MAX_RETRIES': '2', 'MLFLOW_HTTP_REQUEST_TIMEOUT': '20'}


class MlflowTracker:
    """An MLflow run; see `trackers.Tracker`."""

    row, keeps = 0, True

    def __init__(self, identity: str | None, title: str, config: ml_collections.ConfigDict):
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow = mlflow
        run = mlflow.start_run(run_id=identity, run_name=None if identity else title)
        if identity is None:  # a parameter never changes in MLflow
            mlflow.log_params(leaves(config))
        self.id = run.info.run_id
        self.place = f'run {self.id} of experiment {run.info.experiment_id}'

    def log(self, row: int, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def finish(self, exit_code: int) -> None:
        ends = {0: 'FINISHED', 1: 'FAILED', 3: 'FAILED'}
        self._mlflow.end_run(ends.get(exit_code, 'KILLED'))  # stopped by a signal: to be continued
