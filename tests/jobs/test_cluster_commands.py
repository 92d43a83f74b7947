"""Jobs on a real head, which asks for a token: sent, followed, found again, stopped, and their credentials unseen.

The tests stand in the order in which they run; the last one kills the head.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.submission import credentials, following, reaching
from pipeline.submission.client import Client
from pipeline.submission.following import Follower
from pipeline.submission.local_head import PORTS, LocalHead, local_head
from pipeline.submission.order import ROOT
from pipeline.submission.package import cargo_of, pack
from pipeline.submission.reaching import find_head

pytestmark = pytest.mark.ray

FIRST_PORT = 20400
TOKEN, CANARY, SECOND = (uuid.uuid4().hex for _ in range(3))  # drawn, for this file is carried, too
EXPERIMENT = """
name: tiny
data: {kind: drawn, size: 8, train: 64, val: 32}
stages:
  base8:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1], blocks: 1}
    training: {steps: 4, batch_size: 8}
evaluation: {samples: 16, reference: 32, held_out: 8}
"""
# Of what a job's processes have, digests alone: a secret that is printed is no secret.
PROBE = """
import hashlib, os, sys
from pipeline.submission.credentials import held_by_driver
def seen():
    return [hashlib.sha256(os.environ.get(name, "").encode()).hexdigest()[:12] for name in ("CANARY", "SECOND")]
with held_by_driver():
    import ray
    ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
    task = ray.remote(seen)
    class Holder:
        def seen(self):
            return seen()
    holder = ray.remote(Holder).options(runtime_env={"env_vars": {"OTHER": "1"}}).remote()
    print("SEEN", seen(), ray.get(task.remote()), ray.get(holder.seen.remote()))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[LocalHead]:
    """A head that asks for ``TOKEN``."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        local_head(Path(folder), FIRST_PORT + number % 2 * PORTS, environment=variables) as found,
    ):
        yield found


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("submitting") / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return path


def rayfall(head: LocalHead, *arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--address", head.address])


def submit(head: LocalHead, file: Path, *arguments: object) -> Result:
    store = file.parent / "store"
    return rayfall(head, "submit", file, "--command", "train", "--set", f"store={store}", *arguments)


def status(head: LocalHead, what: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rayfall(head, "status", what, "--json").stdout)
    return found


def sinks(head: LocalHead, *more: Path) -> Iterator[tuple[str, bytes]]:
    """Everything that a job leaves for others to read."""
    client = Client(find_head(head.address))
    yield "job info", client._do_request("GET", "/api/jobs/").content
    for folder in (head.folder, *more):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()


def test_without_the_token_nobody_gets_in(head: LocalHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 40)
    answer = rayfall(head, "jobs")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "refuses this token" in answer.stderr
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    assert "asks for a token" in rayfall(head, "jobs").stderr


def test_there_is_nothing_before_the_first_job(head: LocalHead) -> None:
    assert json.loads(rayfall(head, "jobs", "--json").stdout) == {"jobs": []}
    assert "there is no job tiny" in rayfall(head, "stop", "tiny").stderr


def test_a_cluster_with_something_else_installed_ends_the_job(
    head: LocalHead, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.submission import submit as submitting

    with monkeypatch.context() as other:
        other.setattr(submitting, "versions", lambda: {"Python": "3.11", "torch": "2.0.0"})
        answer = submit(head, file)
    assert answer.exit_code == 2
    assert "and the machine that submitted has 2.0.0" in answer.stderr, answer.stderr
    assert not (file.parent / "store").exists()


def test_a_job_trains_and_is_followed_to_its_end(head: LocalHead, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    answer = submit(head, file, "--follow", "--pass-env", "CANARY")
    assert answer.exit_code == 0, answer.output
    assert "submitted tiny-train-" in answer.stderr
    assert "(attempt 2)" in answer.stderr  # after that which failed
    assert "left out: " in answer.stderr
    for line in ("data: started", "train/base8: started", "stored already: nothing"):
        assert answer.stdout.splitlines().count(line) == 1
    found = status(head, answer.stderr.split("submitted ")[1].split()[0])
    assert {name: node["state"] for name, node in found["nodes"].items()} == {"data": "done", "train/base8": "done"}
    assert found["job"]["state"] == "SUCCEEDED"
    with sqlite3.connect(file.parent / "store" / "mlflow.db") as database:
        tags = dict(database.execute("select key, value from tags where key = 'rayfall.git'").fetchall())
    assert tags["rayfall.git"] == found["job"]["revision"] != "unknown"


def test_what_is_done_is_not_started_again_unless_asked(head: LocalHead, file: Path) -> None:
    answer = submit(head, file)
    assert answer.exit_code == 0
    assert "nothing was sent (--again runs it anew" in answer.stderr
    again = submit(head, file, "--again", "--follow")
    assert again.exit_code == 0
    assert "train/base8: reused" in again.stdout
    listed = json.loads(rayfall(head, "jobs", "--json").stdout)["jobs"]
    assert [(job["attempt"], job["state"]) for job in listed] == [(1, "FAILED"), (2, "SUCCEEDED"), (3, "SUCCEEDED")]
    assert "give more of it" in rayfall(head, "logs", "tiny").stderr


def test_every_process_of_a_job_has_its_credentials_and_nobody_else_sees_them(head: LocalHead, tmp_path: Path) -> None:
    found = find_head(head.address)
    client, package = Client(found), tmp_path / "package.zip"
    pack(cargo_of(ROOT), {"probe.py": PROBE.encode()}, package)
    name = credentials.hand_over(found, {"CANARY": CANARY, "SECOND": SECOND})
    job = client.submit_job(
        entrypoint='exec "$RAYFALL_PYTHON" probe.py',
        runtime_env={
            "working_dir": str(package),
            "worker_process_setup_hook": credentials.HOOK,
            "env_vars": {
                credentials.NAME: name,
                "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": credentials.HOOK,
            },
        },
    )
    ended = Follower(client, job, lambda _: None).to_the_end()
    log = client.get_job_logs(job)
    assert ended.state == "SUCCEEDED", log
    digests = [hashlib.sha256(value.encode()).hexdigest()[:12] for value in (CANARY, SECOND)]
    assert f"SEEN {digests} {digests} {digests}" in log
    assert not _is_stored(head, name), "the head forgets them with the job"


def _is_stored(head: LocalHead, name: str) -> bool:
    """Whether the head has something under ``name``; asked in another process, for the token is read once in each."""
    program = (
        "from ray._raylet import GcsClient\n"
        f"print(GcsClient(address={head.gcs!r}).internal_kv_get({name!r}.encode(), None) is not None)"
    )
    variables = {**os.environ, "RAY_AUTH_MODE": "token"}
    answer = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    return answer.stdout.strip() == "True"


def test_what_is_handed_over_is_there_until_it_is_taken(head: LocalHead) -> None:
    name = credentials.hand_over(find_head(head.address), {"CANARY": CANARY})
    assert _is_stored(head, name), "or the tests that it is gone could not fail"


def test_the_same_experiment_is_found_while_it_runs_and_goes_on_after_it_was_stopped(
    head: LocalHead, file: Path
) -> None:
    longer = ("--set", "stages.base8.training.steps=100000")
    first = submit(head, file, *longer)
    assert first.exit_code == 0, first.output
    name = first.stdout.strip()
    second = submit(head, file, *longer)
    assert second.stdout.strip() == name
    assert f"{name} is running already" in second.stderr
    stopped = rayfall(head, "stop", name)
    assert stopped.exit_code == 0, stopped.output
    assert f"{name} stopped" in stopped.stderr
    assert "stopped already" in rayfall(head, "stop", name).stderr
    assert rayfall(head, "logs", name, "--follow").exit_code == 1
    third = submit(head, file, *longer, "--json")
    assert json.loads(third.stdout)["attempt"] == 2
    assert rayfall(head, "stop", name[:-1] + "2").exit_code == 0


def test_no_secret_is_left_anywhere(head: LocalHead, file: Path) -> None:
    read = dict(sinks(head, file.parent))
    assert any(b"tiny-train" in content for content in read.values())
    for secret in (CANARY, SECOND, TOKEN):
        assert [name for name, content in read.items() if secret.encode() in content] == []


@contextmanager
def cutting_proxy(address: str, seconds: float) -> Iterator[str]:
    """A way to ``address`` on which no connection lives longer than ``seconds``."""
    target = urlsplit(address)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass

    def serve(ours: socket.socket) -> None:
        with ours, socket.create_connection((str(target.hostname), int(target.port or 80))) as theirs:
            for pair in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=pump, args=pair, daemon=True).start()
            time.sleep(seconds)
            for one in (ours, theirs):
                one.shutdown(socket.SHUT_RDWR)

    def accept(server: socket.socket) -> None:
        while True:
            try:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_log_is_shown_once_through_connections_that_break(head: LocalHead) -> None:
    direct, shown = Client(find_head(head.address)), list[str]()
    job = direct.submit_job(entrypoint="for i in $(seq 1 40); do echo line $i; sleep 0.2; done; exit 3")
    with cutting_proxy(head.address, 2.0) as address:
        ended = Follower(Client(find_head(address)), job, shown.append).to_the_end()
    assert (ended.state, ended.exit_code) == ("FAILED", 3)
    assert "".join(shown) == direct.get_job_logs(job)
    assert len([line for line in "".join(shown).splitlines() if line.startswith("line ")]) == 40
    assert len(shown) > 3, "it came bit by bit"


def test_ctrl_c_leaves_the_job_alone(head: LocalHead, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Follower) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "to_the_end", interrupt)
    answer = submit(head, file, "--set", "stages.base8.training.steps=200000", "--follow")
    assert answer.exit_code == 130
    (name,) = [word for word in answer.stderr.split() if word.startswith("tiny-train-")][:1]
    assert f"rayfall logs {name} --follow --address {head.address}; stop it: rayfall stop {name}" in answer.stderr
    assert status(head, name)["job"]["state"] in ("PENDING", "RUNNING")


def test_a_head_that_is_lost_is_told(head: LocalHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PATIENCE", 3.0)
    monkeypatch.setattr(reaching, "SECONDS", 1.0)
    found = Client(find_head(head.address))
    name = next(job.id for job in found.jobs() if not job.over)
    threading.Timer(4.0, head.kill).start()
    began = time.monotonic()
    answer = rayfall(head, "logs", name, "--follow")
    assert answer.exit_code == 1
    assert "if its head is lost the job is, too" in answer.stderr
    assert time.monotonic() - began < 30
    assert "nothing answers at" in rayfall(head, "jobs").stderr
