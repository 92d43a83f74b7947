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
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.tracking.addresses import ENVIRONMENT, SQLITE, absolute_uri
from pipeline.tracking.opening import opening

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # not one of language models, to its pages
KEY_TAG = "rayfall.key"
KIND_TAG = "rayfall.kind"
PARENT_TAG = "mlflow.parentRunId"
_BATCH_METRICS = 1000  # MLflow's limits for one log_batch call
_BATCH_PARAMS = 100  # of params, and of tags
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """A connection to one MLflow store.

    Args:
        uri: ``sqlite:///PATH`` or a server's address.
        artifact_root: where new experiments keep artifacts, a folder or ``s3://`` prefix; None means
            ``mlflow-artifacts`` beside an SQLite file, or whatever a server decides.

    Raises UserError when the store cannot be opened.
    """

    def __init__(self, uri: str, artifact_root: str | None = None) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # Forty lines about making an empty database, and a hundred about one that is locked, which is also raised.
        for noisy, level in (("alembic", logging.WARNING), ("mlflow.store.db.utils", logging.CRITICAL)):
            logging.getLogger(noisy).setLevel(level)
        from mlflow.tracking import MlflowClient

        self.uri = absolute_uri(uri)
        self.artifact_root = artifact_root
        with opening(self.uri):
            if self.uri.startswith(SQLITE):
                folder = Path(self.uri.removeprefix(SQLITE)).parent
                folder.mkdir(parents=True, exist_ok=True)
                self.artifact_root = artifact_root or str(folder / "mlflow-artifacts")
            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @property
    def is_file(self) -> bool:
        """Whether the store is a file that this process opens itself, not a server."""
        return self.uri.startswith(SQLITE)

    @property
    def client(self) -> MlflowClient:
        """For the model registry (``pipeline.tracking.registry``), which no run has a part in."""
        return self._client

    def open_experiment(self, name: str) -> str:
        """Id of the experiment called ``name``, made (with its database) or restored if need be. Driver only.

        Raises UserError when the store cannot be reached.
        """
        with opening(self.uri):
            found = self._client.get_experiment_by_name(name)
            if found is None:
                place = self._artifact_location(name)
                return str(self._client.create_experiment(name, artifact_location=place, tags=EXPERIMENT_TAGS))
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)

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
        tags: Mapping[str, str | None] | None = None,
        seconds: float = 0.0,
        reopen: bool = True,
    ) -> str:
        """Id of the run whose key is ``key``: re-opened if it exists in this experiment, made otherwise. Driver only.

        Without ``reopen`` one that FINISHED stays so, and one that ended otherwise is open again.

        ``kind`` says what it is ("experiment", "search", "ablation", "trial", "stage", "evaluation"); ``parent`` is a
        run id. Tags and the parent are brought up to date, a tag of None is removed. A param keeps its first value, as
        MLflow wants it; a later, different one becomes the tag ``rayfall.changed.<param>``. A run that is made begins
        ``seconds`` ago.
        """
        all_tags: dict[str, str | None] = {
            KEY_TAG: key,
            KIND_TAG: kind,
            "mlflow.source.name": "rayfall",
            **(tags or {}),
        }
        if parent is not None:
            all_tags[PARENT_TAG] = parent
        run = self._find(experiment_id, key)
        if run is not None:
            again = reopen or run.info.status != "FINISHED"
            self._client.update_run(run.info.run_id, status="RUNNING" if again else None, name=name)
        else:
            began = _now() - int(1000 * seconds)
            new = {tag: value for tag, value in all_tags.items() if value is not None}
            run = self._client.create_run(experiment_id, start_time=began, tags=new, run_name=name)
        self._describe(run, {key: str(value) for key, value in (params or {}).items()}, all_tags)
        return str(run.info.run_id)

    def known(self, experiment_id: str, key: str, *, finished: bool = False) -> str | None:
        """Id of the run whose key is ``key``, left as it is; None when there is none, or none that ``finished``."""
        run = self._find(experiment_id, key)
        return None if run is None or (finished and run.info.status != "FINISHED") else str(run.info.run_id)

    def _find(self, experiment_id: str, key: str) -> Run | None:
        assert "'" not in key, "keys are digests, names of stages and of cells"
        found = self._client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        return found[0] if found else None

    def _describe(self, run: Run, params: dict[str, str], tags: dict[str, str | None]) -> None:
        from mlflow.entities import Param, RunTag

        known = run.data.params
        changed = {
            f"rayfall.changed.{name}": value for name, value in params.items() if known.get(name, value) != value
        }
        told = {name: value for name, value in (tags | changed).items() if run.data.tags.get(name) != value}
        for name in [name for name, value in told.items() if value is None]:
            self._client.delete_tag(run.info.run_id, name)
        new_tags = [RunTag(name, value) for name, value in told.items() if value is not None]
        new_params = [Param(name, value) for name, value in params.items() if name not in known]
        for start in range(0, max(len(new_params), len(new_tags)), _BATCH_PARAMS):
            batch = slice(start, start + _BATCH_PARAMS)
            self._client.log_batch(run.info.run_id, params=new_params[batch], tags=new_tags[batch])

    def keep_tag(self, experiment_id: str, parent: str, tag: str, runs: Collection[str]) -> None:
        """Of the children of ``parent`` that have ``tag``, take it from all but ``runs``."""
        whose = f"tags.`{PARENT_TAG}` = '{parent}' and tags.`{tag}` = 'true'"
        for run in self._client.search_runs([experiment_id], whose):
            if run.info.run_id not in runs:
                self._client.delete_tag(run.info.run_id, tag)

    def log_figures(self, run_id: str, values: Mapping[str, float]) -> None:
        """Write figures that have no steps, as far as they are new or changed: so repeating it adds no points."""
        known = self._client.get_run(run_id).data.metrics
        self.log_metrics(run_id, {name: value for name, value in values.items() if known.get(name) != value}, 0)

    def log_curve(self, run_id: str, name: str, points: Sequence[tuple[int, float]]) -> None:
        """Write (step, value) points of metric ``name`` behind the last step that it has."""
        last = self.last_step(run_id, name)
        now = _now()
        self.log_points(run_id, [(name, value, step, now) for step, value in points if last is None or step > last])

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
        return max(self.steps(run_id, name), default=None)

    def steps(self, run_id: str, name: str) -> set[int]:
        """The steps at which metric ``name`` was logged."""
        return {point.step for point in self._client.get_metric_history(run_id, name)}

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

    def finish(
        self, run_id: str, status: Status = "FINISHED", *, seconds: float | None = None, keep_end: bool = False
    ) -> None:
        """Close the run: now, or ``seconds`` after its begin, for what is recorded afterwards.

        One that is closed already keeps its end; so does, with ``keep_end``, one that was opened again for nothing.
        """
        info, end = self._client.get_run(run_id).info, _now()
        if seconds is not None:
            end = info.start_time + int(1000 * seconds)
        elif info.end_time and (keep_end or info.status != "RUNNING"):
            end = info.end_time
        self._client.set_terminated(run_id, status=status, end_time=end)

    def end_open(self, run_id: str, status: Status) -> None:
        """Close the run with ``status`` now, unless it ended by itself."""
        if self._client.get_run(run_id).info.status == "RUNNING":
            self.finish(run_id, status)


def status_of(error: type[BaseException] | None) -> Status:
    """How runs end that were open when a command ended with ``error``, or without one."""
    if error is None:
        return "FINISHED"
    return "KILLED" if issubclass(error, KeyboardInterrupt) else "FAILED"


def _now() -> int:
    return int(time.time() * 1000)
