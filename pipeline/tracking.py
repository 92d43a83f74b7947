"""MLflow, and the only importer of it: runs with explicit ids, batched metrics, artifacts. Not the store of results.

What is true about a checkpoint or a score stands in the commit log; MLflow shows it to people. So a run is
found again by its key (tag ``rayfall.key``): repeating a command continues the same runs. Everything goes
through ``MlflowClient`` with an explicit address and run id, never through MLflow's module-level state, which
leaks between Ray workers through environment variables.

The driver opens the experiment once, which makes the database; several processes doing so at the same
moment would race. After that any number of processes may log to one SQLite file: only ``(uri, run_id)``
travels to them.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities import Run

# MLflow reports usage over the network unless told otherwise, and its job runner is of no use here (two
# processes, 300 MB). For the process that `ui_command` starts, as for ours.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

KEY_TAG = "rayfall.key"
KIND_TAG = "rayfall.kind"
_SQLITE = "sqlite:///"
_BATCH_METRICS = 1000  # MLflow's limits for one log_batch call
_BATCH_PARAMS = 100
_log = logging.getLogger(__name__)


def absolute_uri(uri: str) -> str:
    """The address as any process may use it: a relative SQLite path is resolved against this working directory.

    Raises UserError for a folder, which MLflow 3 no longer writes to.
    """
    if uri.startswith(_SQLITE):
        return _SQLITE + str(Path(uri.removeprefix(_SQLITE)).resolve())
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"tracking.uri {uri!r} is a folder, which MLflow no longer writes to; "
            "use sqlite:///PATH.db or the http(s) address of an MLflow server"
        )
    return uri


def ui_command(uri: str, port: int) -> list[str]:
    """argv that serves MLflow's pages for the store at ``uri`` on 127.0.0.1; start it with ``ENVIRONMENT`` set.

    One worker process, about 15 seconds to start. Raises UserError when ``uri`` is a server already.
    """
    uri = absolute_uri(uri)
    if uri.startswith(("http://", "https://")):
        raise UserError(f"{uri} is an MLflow server already; open it in a browser")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


class Tracker:
    """A connection to one MLflow store.

    Args:
        uri: ``sqlite:///PATH`` or a server's address.
        artifact_root: where new experiments keep artifacts, a folder or ``s3://`` prefix; None means
            ``mlflow-artifacts`` beside an SQLite file, or whatever a server decides.
    """

    def __init__(self, uri: str, artifact_root: str | None = None) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        for noisy in ("alembic", "mlflow.store.db.utils"):  # forty lines about making an empty database
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient

        self.uri = absolute_uri(uri)
        self.artifact_root = artifact_root
        if self.uri.startswith(_SQLITE):
            folder = Path(self.uri.removeprefix(_SQLITE)).parent
            folder.mkdir(parents=True, exist_ok=True)
            self.artifact_root = artifact_root or str(folder / "mlflow-artifacts")
        self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def open_experiment(self, name: str) -> str:
        """Id of the experiment called ``name``, made (with its database) or restored if need be. Driver only.

        Raises UserError when the store cannot be reached.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                place = self._artifact_location(name)
                return str(self._client.create_experiment(name, artifact_location=place))
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        except MlflowException as error:
            why = f"cannot be used: {str(error).splitlines()[0]}; start that server or name another"
            raise UserError(f"tracking.uri {self.uri} {why}") from error

    def _artifact_location(self, name: str) -> str | None:
        if self.artifact_root is None or "://" in self.artifact_root:
            return self.artifact_root and f"{self.artifact_root.rstrip('/')}/{name}"
        return (Path(self.artifact_root).resolve() / name).as_uri()

    def run(
        self,
        experiment_id: str,
        *,
        name: str,
        kind: str,
        key: str,
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Id of the run whose key is ``key``: re-opened if it exists in this experiment, made otherwise. Driver only.

        ``kind`` says what it is ("experiment", "stage", "trial", "evaluation"); ``parent`` is a run id. Tags
        and the parent are brought up to date. A param keeps its first value, as MLflow wants it; a later,
        different one becomes the tag ``rayfall.changed.<param>``.
        """
        assert "'" not in key, "keys are digests and stage names"
        all_tags = {KEY_TAG: key, KIND_TAG: kind, "mlflow.source.name": "rayfall", **(tags or {})}
        if parent is not None:
            all_tags["mlflow.parentRunId"] = parent
        found = self._client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if found:
            run = found[0]
            self._client.update_run(run.info.run_id, status="RUNNING", name=name)
        else:
            run = self._client.create_run(experiment_id, tags=all_tags, run_name=name)
        self._describe(run, {key: str(value) for key, value in (params or {}).items()}, all_tags)
        return str(run.info.run_id)

    def _describe(self, run: Run, params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Param

        known = run.data.params
        changed = {
            f"rayfall.changed.{name}": value for name, value in params.items() if known.get(name, value) != value
        }
        new_tags = {name: value for name, value in (tags | changed).items() if run.data.tags.get(name) != value}
        new_params = [Param(name, value) for name, value in params.items() if name not in known]
        for start in range(0, len(new_params), _BATCH_PARAMS):
            self._client.log_batch(run.info.run_id, params=new_params[start : start + _BATCH_PARAMS])
        for name, value in new_tags.items():
            self._client.set_tag(run.info.run_id, name, value)

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Write the values of one step now (about 3 ms on SQLite)."""
        self.log_points(run_id, [(name, float(value), step, _now()) for name, value in values.items()])

    def log_points(self, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
        """Write (name, value, step, unix time in ms) points; writing one twice keeps one."""
        from mlflow.entities import Metric

        for start in range(0, len(points), _BATCH_METRICS):
            batch = [
                Metric(name, value, when, step) for name, value, step, when in points[start : start + _BATCH_METRICS]
            ]
            self._client.log_batch(run_id, metrics=batch)

    def last_step(self, run_id: str, name: str) -> int | None:
        """Highest step at which metric ``name`` was logged, so that a resumed run logs only later ones."""
        history = self._client.get_metric_history(run_id, name)
        return max((point.step for point in history), default=None)

    def log_image(self, run_id: str, image: npt.NDArray[np.uint8], path: str) -> None:
        """Store an image, uint8 (H, W, 3), as the artifact ``path`` (its suffix picks the format)."""
        self._client.log_image(run_id, image, artifact_file=path)

    def log_file(self, run_id: str, file: Path, folder: str | None = None) -> None:
        """Store a copy of ``file`` as an artifact under its own name, inside ``folder`` of the run's artifacts."""
        self._client.log_artifact(run_id, str(file), artifact_path=folder)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Store ``text`` as the artifact ``path``."""
        self._client.log_text(run_id, text, path)

    def log_dict(self, run_id: str, content: Mapping[str, Any], path: str) -> None:
        """Store ``content`` as the artifact ``path``, as JSON or YAML by its suffix."""
        self._client.log_dict(run_id, dict(content), path)

    def finish(self, run_id: str, status: Literal["FINISHED", "FAILED"] = "FINISHED") -> None:
        """Close the run."""
        self._client.set_terminated(run_id, status=status)


class MetricBuffer:
    """Metrics of one training worker, written every few seconds. For rank 0 only.

    A store that does not answer costs no training: the points stay here and the next ``add`` tries again.
    ``flush`` raises instead, so flush before a checkpoint is committed: what a resumed run finds logged then
    reaches at least as far as what it resumes from.

    Args:
        tracker: made in this process from the address it was sent.
        run_id: the stage's run.
        every_seconds: longest time that points wait.
        after: steps up to and including this one are known (``Tracker.last_step``) and left out.
    """

    def __init__(self, tracker: Tracker, run_id: str, *, every_seconds: float = 5.0, after: int | None = None) -> None:
        self._tracker = tracker
        self._run_id = run_id
        self._every_seconds = every_seconds
        self._after = -1 if after is None else after
        self._points: list[tuple[str, float, int, int]] = []
        self._written = time.monotonic()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of ``step``; written with a later call, or at ``flush``."""
        from mlflow.exceptions import MlflowException

        if step <= self._after:
            return
        now = _now()
        self._points += [(name, float(value), step, now) for name, value in values.items()]
        if time.monotonic() - self._written < self._every_seconds:
            return
        try:
            self.flush()
        except MlflowException as error:
            self._written = time.monotonic()
            _log.warning("%d metrics wait, tracking failed: %s", len(self._points), str(error).splitlines()[0])

    def flush(self) -> None:
        """Write everything now. Raises MLflow's exception when that fails; nothing is lost, and it may be repeated."""
        if self._points:
            self._tracker.log_points(self._run_id, self._points)
        self._points = []
        self._written = time.monotonic()


def _now() -> int:
    return int(time.time() * 1000)
