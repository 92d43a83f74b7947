"""What a team has for tests: MLflow's own server that can be killed and started again, and PostgreSQL behind it.

Real programs on loopback in temporary folders; they belong to the test session and die with it. ``conftest.py``
registers this file as a plugin.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.tracking.addresses import ENVIRONMENT

PATIENCE = 120.0  # seconds for a server to answer; it takes fifteen on an idle machine
NOBODY = "postgres"  # the user that Debian's package makes: PostgreSQL refuses to run as root
PASSWORD = "secret-of-tests"
Start = Callable[..., "Server"]


@dataclass
class Server:
    """A server of MLflow's at ``uri``; what it wrote is in ``folder/log``."""

    uri: str
    folder: Path
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> Server:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            told = {**os.environ, **ENVIRONMENT, **self.environment}
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=told, stdout=log, stderr=log, process_group=0
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=PATIENCE).close()
                return self
            except OSError:
                told_so_far = (self.folder / "log").read_text()[-3000:]
                assert self.process.poll() is None and time.monotonic() < deadline, told_so_far  # noqa: PT018
                time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL for all its processes. It can be started again."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[Start]:
    """Start a server: ``mlflow_server(folder, store, *arguments, **environment)``; killed at the end of the session."""
    with ExitStack() as stack:

        def start(folder: Path, store: str | None = None, *arguments: str, **environment: str) -> Server:
            folder.mkdir(parents=True, exist_ok=True)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
            command += ["--workers", "1", "--backend-store-uri", store or f"sqlite:///{folder}/mlflow.db"]
            server = Server(f"http://127.0.0.1:{port}", folder, [*command, *arguments], environment)
            stack.callback(server.kill)
            return server.start()

        yield start


@dataclass(frozen=True)
class Database:
    """A running PostgreSQL."""

    port: int
    programs: Path
    server: subprocess.Popen[bytes]

    def new(self, name: str) -> str:
        """The address of a new, empty database, as MLflow takes it."""
        to = ["--host", "127.0.0.1", "--port", str(self.port), "--username", "mlflow"]
        told = {**os.environ, "PGPASSWORD": PASSWORD}
        subprocess.run([str(self.programs / "createdb"), *to, name], env=told, check=True)
        return f"postgresql+psycopg2://mlflow:{PASSWORD}@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Database]:
    """One PostgreSQL for the session, with passwords; the test is skipped where there is none."""
    found = shutil.which("initdb") or next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[::-1]), None)
    if found is None:
        pytest.skip("no initdb: install postgresql (Debian) for a database as teams have it")
    if find_spec("psycopg2") is None:
        pytest.skip("no psycopg2: install the extra `teams` for a database as teams have it")
    # Not below pytest's own folders, into which nobody but their user may look.
    with (
        tempfile.TemporaryDirectory(prefix="postgres-of-tests-") as folder,
        running_postgres(Path(folder), found) as made,
    ):
        yield made


@contextmanager
def running_postgres(folder: Path, initdb: str | Path) -> Iterator[Database]:
    """Start PostgreSQL in an empty folder; it is stopped on leaving."""
    programs = Path(initdb).resolve().parent
    (folder / "password").write_text(PASSWORD)
    user: list[str] = []
    if os.getuid() == 0:
        account = pwd.getpwnam(NOBODY)
        user = ["setpriv", "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
        for path in (folder, folder / "password"):
            os.chown(path, account.pw_uid, account.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = ["--pgdata", str(folder / "data"), "--username", "mlflow", "--pwfile", str(folder / "password"), "--no-sync"]
    subprocess.run([*user, str(initdb), *made, "--auth", "scram-sha-256"], check=True, stdout=subprocess.DEVNULL)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-p", str(port)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*user, *(["setpriv"] if not user else []), "--pdeathsig", "KILL", str(programs / "postgres"), "-D",
             str(folder / "data"), *options], stdout=log, stderr=log, cwd="/",
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while subprocess.run([str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]).returncode:
            assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"  # noqa: PT018
            time.sleep(0.05)
        yield Database(port, programs, server)
    finally:
        server.send_signal(signal.SIGINT)  # its fast shutdown: it ends its own processes
        server.wait(timeout=60)
