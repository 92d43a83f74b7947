"""``rayfall ui`` refuses what cannot be served and takes its server with it when it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app

DEMO = Path(__file__).parents[2] / "jobs" / "experiments" / "demo.yaml"
PROGRAM = """
import sys
import typer
from jobs.endings import ending
from jobs.serving import serve
try:
    with ending("ui", as_json=False, debug=False) as end:
        serve([sys.executable, *sys.argv[1:]], {}, end)
except typer.Exit as left:
    sys.exit(left.exit_code)
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def test_a_store_without_runs_and_a_taken_port_are_refused(tmp_path: Path, port: int) -> None:
    arguments = ["ui", str(DEMO), "--set", f"store={tmp_path}", "--port", str(port)]
    answer = CliRunner().invoke(app, arguments)
    assert (answer.exit_code, answer.stderr.startswith("there are no runs at sqlite:///")) == (2, True)
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        answer = CliRunner().invoke(app, arguments)
    assert (answer.exit_code, f"--port {port}: Address already in use" in answer.stderr) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_ends_with_the_command(number: signal.Signals, port: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving HTTP")
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/").status == 200
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


def test_a_server_that_fails_is_a_failure() -> None:
    command = [sys.executable, "-c", PROGRAM, "-c", "raise SystemExit(3)"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr == "the server ended with exit code 3; what it printed stands above\n"
