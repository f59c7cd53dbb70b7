"""MLflow: a SQLite file `<output>/mlflow.db` (`mlflow ui --backend-store-uri sqlite:///...`), or a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_glm.registry import TRACKERS
from mindformers_glm.train.trackers.interface import Begun, Status, Tracker

_LONGEST = 500  # letters that a parameter may have
_STATES = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


@TRACKERS.register("mlflow")
class MLflow(Tracker):
    """A run of MLflow in the experiment `project`; `tracking_uri` names a server or another file."""

    package, extra = "mlflow", "mlflow"

    def __init__(
        self,
        *,
        project: str = "mindformers_glm",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        collect_freq: int = 1,
    ) -> None:
        super().__init__(collect_freq=collect_freq)
        self.project, self.run_name, self.tracking_uri = project, run_name, tracking_uri

    def begin(self, run: Begun) -> None:
        """Opens the run."""
        run.output_dir.mkdir(parents=True, exist_ok=True)
        client = self.module().MlflowClient
        place = self.tracking_uri or f"sqlite:///{run.output_dir.absolute() / 'mlflow.db'}"
        self._client: Any = client(tracking_uri=place)
        known = self._client.get_experiment_by_name(self.project)
        artifacts = None if self.tracking_uri else (run.output_dir.absolute() / "mlflow").as_uri()
        number = known.experiment_id if known else self._client.create_experiment(self.project, artifacts)
        self._run: str = self._client.create_run(number, run_name=self.run_name or run.name).info.run_id
        for key, value in run.settings.items():
            self._client.log_param(self._run, key, str(value)[:_LONGEST])

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Metrics of a step."""
        for name, value in figures.items():
            self._client.log_metric(self._run, name, float(value), step=step)

    def end(self, status: Status) -> None:
        """Closes the run."""
        self._client.set_terminated(self._run, status=_STATES[status])
