"""Addresses of MLflow stores, and the command that serves one. Imports no MLflow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.addresses import without_secret
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.experiment_spec import Experiment

# For the server that `ui_command` starts as for us: no reports of usage over the network, no job runner (two processes,
# 300 MB), no lines about every run that ends among what commands print as JSON. A request that fails is repeated for a
# quarter of a minute, not for MLflow's four. What somebody sets himself counts.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SQLITE = "sqlite:///"


def tracking_uri(experiment: Experiment) -> str:
    """Address of the experiment's MLflow store: its own setting, or an SQLite file in the folder of results.

    Raises UserError where results go to a bucket, which can hold no such file, and nothing is set.
    """
    if experiment.tracking.uri is not None:
        return experiment.tracking.uri
    if "://" in experiment.store:
        raise UserError(
            f"tracking.uri must be set where the store is {experiment.store}: a bucket holds no SQLite file; give an "
            "MLflow server's address, or sqlite:////FILE on this machine"
        )
    return f"sqlite:///{Path(experiment.store).expanduser().resolve() / 'mlflow.db'}"


def absolute_uri(uri: str) -> str:
    """The address as any process may use it: a relative SQLite path is resolved against this working directory, and one
    that begins with ~ against the home folder.

    Raises UserError for a folder, which MLflow 3 no longer writes to.
    """
    if uri.startswith(SQLITE):
        try:
            return SQLITE + str(Path(uri.removeprefix(SQLITE)).expanduser().resolve())
        except RuntimeError as error:
            raise UserError(f"tracking.uri {uri}: that home folder is not known; give the whole path") from error
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"tracking.uri {without_secret(uri)!r} is a folder, which MLflow no longer writes to; "
            "use sqlite:///PATH.db or the http(s) address of an MLflow server"
        )
    return uri


def sqlite_among(nodes: int, uri: str) -> str | None:
    """What a person must be told of an SQLite file that a command on a cluster of ``nodes`` writes; else None.

    It is sound, since one process writes it, this one; but only on a disk of its own is SQLite's lock to be trusted.
    """
    if nodes < 2 or not uri.startswith(SQLITE):
        return None
    return (
        f"{uri} is written by this process alone, on a cluster of {nodes} nodes: look at it from this machine, one "
        "command at a time; for a team or a network disk set tracking.uri to the http(s) address of an MLflow server"
    )


def ui_command(uri: str, port: int) -> list[str]:
    """argv that serves MLflow's pages for the store at ``uri`` on 127.0.0.1; start it with ``ENVIRONMENT`` set.

    One worker process, about 15 seconds to start. Raises UserError when ``uri`` is a server already.
    """
    uri = absolute_uri(uri)
    if uri.startswith(("http://", "https://")):
        raise UserError(f"{without_secret(uri)} is an MLflow server already; open it in a browser")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
