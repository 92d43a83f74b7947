"""Whether the tracking server is there, of our MLflow, and keeps artifacts. No run is made."""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from pipeline.addresses import without_secret
from pipeline.doctor.findings import Findings, Trouble
from pipeline.errors import UserError, first_line
from pipeline.tracking.addresses import SQLITE, absolute_uri
from pipeline.tracking.outages import connect, hurried

SECONDS = 5.0  # for an answer of the server


def check_tracking(uri: str, findings: Findings) -> None:
    """A file is looked at, a server is asked for its version, its experiments and a place for an artifact."""
    try:
        uri = absolute_uri(uri)
    except UserError as error:
        findings.add("tracking", False, str(error))
        return
    if uri.startswith(SQLITE):
        findings.check("tracking", lambda: check_file(Path(uri.removeprefix(SQLITE))))
        return
    if uri.startswith(("http://", "https://")) and not findings.check("tracking server", lambda: check_version(uri)):
        return
    if findings.check("tracking store", lambda: check_reading(uri)) and uri.startswith("http"):
        findings.check("tracking artifacts", lambda: check_artifacts(uri))


def check_file(file: Path) -> str:
    """Whether there is, or can be, a database."""
    folder = next(path for path in (file.parent, *file.parents) if path.exists())
    if not os.access(file if file.exists() else folder, os.W_OK) or not os.access(folder, os.W_OK):
        raise Trouble(f"{file} cannot be written; give tracking.uri another place")
    return f"{file}: {'there' if file.exists() else 'can be made'}; for runs of one machine"


def check_version(uri: str) -> str:
    """MLflow's version there and here: a newer client may ask an older server for what it does not know."""
    from importlib.metadata import version

    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=SECONDS) as answer:
            there = answer.read(100).decode().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        asked = "start it, or give tracking.uri the address of one that runs"
        raise Trouble(f"no MLflow server answers at {without_secret(uri)} ({reason}); {asked}") from error
    here = version("mlflow")
    if there.split(".")[:2] != here.split(".")[:2]:
        raise Trouble(f"the server has MLflow {there}, this machine {here}; install the same on both")
    return f"{without_secret(uri)}: MLflow {there}"


def check_reading(uri: str) -> str:
    """List an experiment, as whoever may make runs can."""
    connect(uri)
    return "experiments can be read"


def check_artifacts(uri: str) -> str:
    """Put a file where the server keeps artifacts, and delete it. Raises Trouble where it does not take any."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    place = MlflowArtifactsRepository(f"mlflow-artifacts:/rayfall-doctor-{uuid.uuid4().hex}", tracking_uri=uri)
    try:
        with tempfile.TemporaryDirectory() as folder, hurried():
            (Path(folder) / "probe").write_bytes(b"probe")
            place.log_artifact(str(Path(folder) / "probe"))
            place.delete_artifacts()
    except (MlflowException, OSError) as error:
        asked = "start it with --artifacts-destination, somewhere it may write"
        raise Trouble(f"the server keeps no artifacts ({without_secret(first_line(error))}); {asked}") from error
    return "artifacts can be written and deleted"
