"""Addresses of MLflow stores, and the command that serves one. Imports no MLflow."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.addresses import without_secret
from pipeline.errors import UserError

# For the server that `ui_command` starts as for us: no reports of usage over the network, no job runner (two processes,
# 300 MB), no lines about every run that ends among what commands print as JSON.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SQLITE = "sqlite:///"


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


def ui_command(uri: str, port: int) -> list[str]:
    """argv that serves MLflow's pages for the store at ``uri`` on 127.0.0.1; start it with ``ENVIRONMENT`` set.

    One worker process, about 15 seconds to start. Raises UserError when ``uri`` is a server already.
    """
    uri = absolute_uri(uri)
    if uri.startswith(("http://", "https://")):
        raise UserError(f"{without_secret(uri)} is an MLflow server already; open it in a browser")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
