"""`logger=mlflow`: MLflow, on a server or in a database beside the runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from openvlt.config.leaves import setting_leaves
from openvlt.trackers.base import TableRow, TrackedRun, lay_out_table, refuse_password, require_packages

RUN_TAG = "openvlt.run"  # by which a run is found again: MLflow makes its ids itself
BATCH = 100  # parameters that a server takes at once
LONGEST_VALUE = 6000  # characters of a parameter
CLIENT_SETTINGS = {  # unless the environment has others
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds that a server which doesn't answer delays a step, once
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_FILE_STORE": "true",
}


@dataclass
class MLflowTracker:
    """`conf/logger/mlflow.yaml`: the settings as parameters, tables and the report as artifacts.

    `uri` is a server or a store; null means MLFLOW_TRACKING_URI, else a SQLite file in `folder`.
    """

    experiment: str = "openvlt"
    uri: str | None = None
    folder: str = "runs"
    buffers: ClassVar[bool] = False
    _client: Any = field(default=None, init=False, repr=False)
    _id: str = field(default="", init=False, repr=False)

    def check(self) -> None:
        stores = ("sqlalchemy", "alembic") if self._place.startswith("sqlite") else ()
        require_packages("mlflow", "mlflow=mlflow-skinny", *stores)
        refuse_password(
            "logger.mlflow.uri", self.uri, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )

    def start(self, run: TrackedRun) -> str:
        for name, value in CLIENT_SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # pyright: ignore

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=self._place)
        experiment = self._open_experiment()
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
        else:
            self._id = self._create_run(experiment, run)
        return self._describe()

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric  # pyright: ignore

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def log_table(self, name: str, rows: Sequence[TableRow], step: int) -> None:
        """Adds the rows to the artifact `<name>.json`."""
        from mlflow import Image  # pyright: ignore

        header, cells = lay_out_table(rows, Image)
        columns = dict(zip(header, map(list, zip(*cells, strict=True)), strict=True))
        self._client.log_table(self._id, columns, f"{name}.json")

    def log_file(self, file: Path) -> None:
        self._client.log_artifact(self._id, str(file))

    def finish(self, summary: Mapping[str, float], done: bool) -> None:
        if summary:
            self.log_metrics(summary, 0)
        self._client.set_terminated(self._id, "FINISHED" if done else "FAILED")

    @property
    def _place(self) -> str:
        given = self.uri or os.environ.get("MLFLOW_TRACKING_URI")
        return given or f"sqlite:///{Path(self.folder).absolute() / 'mlflow.db'}"

    def _open_experiment(self) -> str:
        if (found := self._client.get_experiment_by_name(self.experiment)) is not None:
            return found.experiment_id
        own = (Path(self.folder).absolute() / "mlflow-artifacts").as_uri()
        artifacts = own if self._place.startswith("sqlite") else None
        return self._client.create_experiment(self.experiment, artifact_location=artifacts)

    def _create_run(self, experiment: str, run: TrackedRun) -> str:
        from mlflow.entities import Param  # pyright: ignore

        tags = {RUN_TAG: run.id, **run.tags} | ({"group": run.group} if run.group else {})
        own = self._client.create_run(experiment, tags=tags, run_name=run.title).info.run_id
        parameters = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in setting_leaves(run.config)]
        for start in range(0, len(parameters), BATCH):
            self._client.log_batch(own, params=parameters[start : start + BATCH])
        self._client.log_dict(own, dict(run.config), "config.yaml")
        return own

    def _describe(self) -> str:
        if self._place.startswith("http"):
            return f"run {self._id} on {self._place.rpartition('@')[2]}"
        return f"run {self._id}; look at it with: mlflow ui --backend-store-uri {self._place}"
