"""Row 19: canary credentials in the environment and in addresses are found in nothing that a command leaves behind.

Whole commands in processes of their own, whose home and temporary folders are looked through too: a run that goes well,
and ones that fail where the address is used. The short form runs the graph in one process; with Ray, its session's
folder and an MLflow server that is asked by an address with a password: the slow test.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.addresses import ENVIRONMENT, ui_command

pytestmark = pytest.mark.faults

TEXT = """\
name: tiny
data: {kind: drawn, size: 8, train: 60, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 3}
evaluation:
  samples: 24
  reference: 60
  block: 16
  classifier: {steps: 5, channels: [8, 8]}
resources: {cpus_per_worker: 0.5, log_every: 2}
"""
IN_THE_ENVIRONMENT = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN",
    "GITHUB_TOKEN", "DATABASE_PASSWORD",
)  # fmt: skip
PROGRAM = """
import sys
if "unprotected" in sys.argv[1]:
    import pipeline.addresses
    pipeline.addresses.without_secret = lambda text: text
    pipeline.addresses.without_secrets = lambda settings: settings
if "without-ray" in sys.argv[1]:
    import pipeline.execution, pipeline.session, pipeline.workflow
    real = pipeline.execution.execute
    pipeline.session.Session.start_ray = lambda self: None
    pipeline.execution.execute = lambda targets, storage, events, use_ray: real(targets, storage, events, use_ray=False)
from jobs.cli import app
sys.argv[1:] = sys.argv[2:]
app(prog_name="rayfall")
"""


class Canaries:
    """Words that may be found nowhere, and a place whose every file is looked through."""

    def __init__(self, root: Path) -> None:
        self.root, self.words, self.outputs = root, [f"canary{name.replace('_', '')}" for name in IN_THE_ENVIRONMENT], 0
        self.words += ["canaryPassword", "canaryToken"]
        for name in ("home", "temporary", "store"):
            (root / name).mkdir()
        (root / "tiny.yaml").write_text(TEXT)

    def environment(self) -> dict[str, str]:
        secrets = dict(zip(IN_THE_ENVIRONMENT, self.words, strict=False))
        folders = {"HOME": str(self.root / "home"), "TMPDIR": str(self.root / "temporary")}
        quick = {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        }
        return {**os.environ, **ENVIRONMENT, **secrets, **folders, **quick, "PYTHONPATH": os.pathsep.join(sys.path)}

    def rayfall(self, how: str, command: str, *settings: str, debug: bool = False, **environment: str) -> int:
        """Run a command; its exit code. What it printed is kept among the files."""
        told = [part for setting in (f"store={self.root / 'store'}", *settings) for part in ("--set", setting)]
        arguments = [sys.executable, "-c", PROGRAM, how, command, str(self.root / "tiny.yaml"), *told]
        answer = subprocess.run(
            [*arguments, *(["--debug"] if debug else [])],
            capture_output=True,
            check=False,
            env={**self.environment(), **environment},
            timeout=500,
        )
        self.outputs += 1
        (self.root / f"stdout-{self.outputs}").write_bytes(answer.stdout)
        (self.root / f"stderr-{self.outputs}").write_bytes(answer.stderr)
        return answer.returncode

    def found(self, *more: Path) -> tuple[list[str], int]:
        """Where canaries are, and how many files were looked through."""
        files = [path for root in (self.root, *more) for path in root.rglob("*") if path.is_file()]
        words = [word.encode() for word in self.words]
        hits = [str(path) for path in files if any(word in path.read_bytes() for word in words)]
        return hits, len(files)


FAILING = (
    ("train", "tracking.uri=postgresql://me:canaryPassword@127.0.0.1:9/runs", 2),
    ("train", "tracking.uri=http://me:canaryPassword@127.0.0.1:9/x?token=canaryToken", 2),
    ("train", "data={kind: shards, path: 's3://bucket/set'}", 2),
)
ELSEWHERE = "resources.address=ray://me:canaryPassword@127.0.0.1:9?token=canaryToken"  # is not asked without Ray


def test_no_canary_is_left_anywhere(tmp_path: Path, record_figure: Any) -> None:
    canaries = Canaries(tmp_path)
    assert canaries.rayfall("without-ray", "run", ELSEWHERE) == 0, (tmp_path / "stderr-1").read_text()
    for command, setting, code in FAILING:  # with the traceback, and the sentence below it
        assert canaries.rayfall("without-ray", command, setting, debug=True) == code, setting
    hits, files = canaries.found()
    assert hits == []
    assert {path.name for path in tmp_path.rglob("*")} >= {
        "mlflow.db",
        "report.html",
        "experiment.json",
        "net.safetensors",
    }
    record_figure(
        19,
        f"{len(canaries.words)} canaries in environment and addresses, {canaries.outputs} commands without Ray",
        f"hits 0 in {files} files: output, tracebacks, store, checkpoints, MLflow, report, home and temporary folders",
    )


def test_without_redaction_canaries_are_left(tmp_path: Path, record_figure: Any) -> None:
    canaries = Canaries(tmp_path)
    for command, setting, code in FAILING[:2]:
        assert canaries.rayfall("without-ray unprotected", command, setting) == code
    hits, files = canaries.found()
    assert len(hits) >= 2
    record_figure(19, "two that fail, without redaction", f"hits in {len(hits)} of {files} files", protected=False)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """An MLflow server over a database in ``folder``: its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = ui_command(f"sqlite:///{folder / 'served.db'}", port)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 200
            while True:
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                        break
                except OSError:
                    time.sleep(0.5)
            yield port
        finally:
            os.killpg(process.pid, 15)
            process.wait(60)


@pytest.mark.slow
@pytest.mark.ray
def test_no_canary_is_left_by_a_run_on_ray(tmp_path: Path, record_figure: Any) -> None:
    canaries = Canaries(tmp_path)
    session = Path(tempfile.mkdtemp(prefix="rfs", dir="/tmp"))  # sockets lie in it, whose names are short
    try:
        with mlflow_server(tmp_path) as port:
            uri = f"tracking.uri=http://me:canaryPassword@127.0.0.1:{port}"
            (session / "temporary").mkdir()
            how = {"RAY_TMPDIR": str(session), "TMPDIR": str(session / "temporary"), "MLFLOW_TRACKING_TOKEN": ""}
            assert canaries.rayfall("", "run", uri, **how) == 0, (tmp_path / "stderr-1").read_text()
            workers = ("resources.workers=2", "stages.base.training.batch_size=16")
            assert canaries.rayfall("", "train", uri, *workers, **how) == 0, (tmp_path / "stderr-2").read_text()
            # Ends in a traceback, on a worker.
            bad = ("stages.base.training.learning_rate=1e30", "stages.base.training.warmup=0")
            assert canaries.rayfall("", "train", uri, *bad, debug=True, **how) == 1
        hits, files = canaries.found(session)
        logs = sum(path.is_file() for path in session.rglob("*"))
        assert logs > 10
        assert hits == []
        record_figure(
            19,
            f"{len(canaries.words)} canary credentials, {canaries.outputs} commands on Ray with an MLflow server",
            f"hits 0 in {files} files, {logs} of them of Ray's sessions",
        )
    finally:
        shutil.rmtree(session, ignore_errors=True)
