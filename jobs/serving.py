"""``rayfall ui``: MLflow's page in the foreground, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import typer

from jobs.endings import FAILED, Ending, ending
from pipeline.errors import UserError
from pipeline.experiment import load_experiment


def show_runs(file: Path, settings: Sequence[str] | None, port: int, *, debug: bool) -> None:
    """Serve the runs of the experiment in ``file`` on 127.0.0.1. Ctrl-C is how one leaves it, and no failure."""
    with ending("ui", as_json=False, debug=debug) as end:
        experiment = load_experiment(file, settings or ())
        from pipeline.tracking.addresses import ENVIRONMENT, absolute_uri, tracking_uri, ui_command

        uri = absolute_uri(tracking_uri(experiment))
        require_runs(uri)
        command = ui_command(uri, port)
        require_free(port)
        end.say(f"http://127.0.0.1:{port} will show {uri} in some 15 seconds; Ctrl-C ends it", "green")
        serve(command, {**os.environ, **ENVIRONMENT}, end)


def require_runs(uri: str) -> None:
    """Raise UserError when ``uri`` is a database that no command has made yet; the server would make an empty one."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise UserError(f"there are no runs at {uri} yet; `rayfall run` or `rayfall train` makes them")


def require_free(port: int) -> None:
    """Raise UserError when something listens on ``port`` already: the server itself would end without an error."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"--port {port}: {error.strerror}; name another port") from None


def serve(command: Sequence[str], environment: dict[str, str], end: Ending) -> None:
    """Run a server until it ends or this process is told to; exit 1 when it ends by itself with an error.

    The server gets its own process group, so that it is told to end once, and all of it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with subprocess.Popen(command, env=environment, process_group=0) as server:
        try:
            code = server.wait()
        except KeyboardInterrupt:
            os.killpg(server.pid, signal.SIGTERM)
            return
    if code:
        end.say(f"the server ended with exit code {code}; what it printed stands above", "red")
        raise typer.Exit(FAILED)
