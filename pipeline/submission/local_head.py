"""A Ray head of one's own on this machine, as ``ray start --head`` makes it: to measure and test submission against.

Its ports are near each other, and its files in one folder, so that it is in nobody's way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster import ENVIRONMENT
from pipeline.errors import UserError
from pipeline.submission.reaching import find_head

PORTS = 200  # from the first on
_AGENTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port")


@dataclass(frozen=True)
class LocalHead:
    """A head that runs."""

    address: str  # of its dashboard
    gcs: str  # HOST:PORT, what ``resources.address`` takes
    process: subprocess.Popen[bytes]
    folder: Path

    def kill(self) -> None:
        """End it at once, as a machine that is lost."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def local_head(
    folder: Path, first_port: int, *, cpus: int = 2, environment: Mapping[str, str] | None = None
) -> Iterator[LocalHead]:
    """Start a head with its files in ``folder`` (a short path: its sockets lie there) and end it with the block.

    Raises RuntimeError when it does not answer within two minutes; ``folder``/ray.log says why.
    """
    ports = {"port": 0, "ray-client-server-port": 1, "node-manager-port": 2, "object-manager-port": 3}
    ports |= {"dashboard-port": 4, "min-worker-port": 20, "max-worker-port": PORTS - 1}
    ports |= {name: 5 + number for number, name in enumerate(_AGENTS)}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--num-cpus={cpus}"]
    command += [f"--{name}={first_port + number}" for name, number in ports.items()]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", "--disable-usage-stats"]
    command += [f"--temp-dir={folder}", f"--object-store-memory={200 << 20}"]
    variables = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    variables |= ENVIRONMENT | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1"} | dict(environment or {})
    with (folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    head = LocalHead(f"http://127.0.0.1:{first_port + 4}", f"127.0.0.1:{first_port}", process, folder)
    try:
        _await(head)
        yield head
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                head.kill()


def _await(head: LocalHead) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and head.process.poll() is None:
        try:
            find_head(head.address)
            return
        except UserError as error:
            if "refuses" in str(error) or "asks for a token" in str(error):
                return  # it answers
            time.sleep(0.3)
    raise RuntimeError(f"the head did not start; {head.folder / 'ray.log'} says why")
