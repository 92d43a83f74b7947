"""Many hosts on one machine, for tests: namespaces of Linux with an address, a name, processes and a disk of their own.

They see each other, and this machine, over a bridge alone: no loopback, no folder for results and no shared memory is
common to two of them. The code and its libraries lie where they lie, as they would in an image. A host whose power is
cut loses all its processes at once. Needs root; ``conftest.py`` registers this file as a plugin.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from pipeline.cluster import ENVIRONMENT

PROGRAMS = ("hostname", "ip", "mount", "nsenter", "unshare")
PORT = 6379
PATIENCE = 180.0  # seconds for Ray to come up; it takes ten on an idle machine
RAY = str(Path(sys.executable).with_name("ray"))
# A node that is gone is missed after three seconds instead of half a minute.
SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class Host:
    """A host called ``name``: what runs on it is below ``init``, its first process. ``disk`` is nobody else's."""

    name: str
    address: str
    disk: Path
    init: int

    def popen(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a program there; what it says is in ``log`` beside the disk."""
        with self.log.open("ab") as log:
            return self._start(command, environment, log)

    def _start(self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        here = {"PATH": os.environ["PATH"], "HOME": str(self.disk), "TMPDIR": str(self.disk), "OMP_NUM_THREADS": "1"}
        entered = ["nsenter", "--target", str(self.init), "--all", "--wd=/"]
        return subprocess.Popen(
            [*entered, *command], env={**here, **environment}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )

    def run(self, *command: str, environment: Mapping[str, str], timeout: float = PATIENCE) -> str:
        """Run a program to its end there; what it printed. Fails with all it said."""
        with tempfile.TemporaryFile() as log:
            code = self._start(command, environment, log).wait(timeout)
            log.seek(0)
            told = log.read().decode(errors="replace")
        assert code == 0, f"{self.name}: {' '.join(command)} ended with {code}\n{told[-6000:]}"
        return told

    @property
    def log(self) -> Path:
        return self.disk.with_suffix(f".{self.name}.log")

    def cut_power(self) -> None:
        """All its processes are gone at once, and nobody is told."""
        with suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)


@dataclass
class Hosts:
    """A network of hosts; ``gateway`` is the address of this machine in it."""

    folder: Path
    bridge: str
    net: str  # the first three numbers of all addresses
    environment: Mapping[str, str]  # of every program on every host
    _stack: ExitStack
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(10))

    @property
    def gateway(self) -> str:
        return f"{self.net}.1"

    def start(self, name: str) -> Host:
        """Switch on a new host."""
        number, disk = next(self._numbers), self.folder / "disk"
        script = (
            f"hostname {name} && mount -t tmpfs none {disk} && mount -t tmpfs none /dev/shm && ip link set lo up "
            "&& echo up && while :; do sleep 1; done"  # the shell buries whatever dies there
        )
        spaces = ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        holder = subprocess.Popen(["unshare", *spaces, "sh", "-c", script], stdout=subprocess.PIPE)
        self._stack.callback(holder.wait)
        self._stack.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n", f"{name} cannot be started"
        init = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0])
        host = Host(name, f"{self.net}.{number}", disk, init)
        here, there = f"{self.bridge}h{number}", f"{self.bridge}n{number}"
        _ip("link", "add", here, "type", "veth", "peer", "name", there)
        # Sockets that close slowly keep a network alive after its last process.
        self._stack.callback(subprocess.run, ["ip", "link", "del", here], capture_output=True, check=False)
        _ip("link", "set", here, "master", self.bridge, "up")
        _ip("link", "set", there, "netns", str(init))
        for command in (("addr", "add", f"{host.address}/24", "dev", there), ("link", "set", there, "up")):
            host.run("ip", *command, environment={})
        host.run("ip", "route", "add", "default", "via", self.gateway, environment={})
        return host

    def start_head(self, name: str = "head") -> Host:
        """A host with Ray's head, which does no work itself."""
        host = self.start(name)
        self._start_ray(host, "--head", f"--port={PORT}", "--num-cpus=0", f"--dashboard-host={host.address}")
        return host

    def start_worker(self, name: str, head: Host, cpus: int = 1) -> Host:
        """A host that joins the cluster of ``head``, once it has joined."""
        host, before = self.start(name), len(self.nodes(head))
        self._start_ray(host, f"--address={head.address}:{PORT}", f"--num-cpus={cpus}")
        deadline = time.monotonic() + PATIENCE
        while len(self.nodes(head)) == before:
            assert time.monotonic() < deadline, f"{name} did not join\n{host.log.read_text()[-3000:]}"
            time.sleep(0.5)
        return host

    def nodes(self, head: Host) -> list[str]:
        """Addresses of the nodes that the cluster takes for alive."""
        code = (
            "import json; from ray._raylet import GcsClient\n"
            f"found = GcsClient(address='{head.address}:{PORT}').get_all_node_info()\n"
            "print('nodes', json.dumps([one.node_manager_address for one in found.values() if one.state == 0]))"
        )
        told = head.run(sys.executable, "-c", code, environment=self.environment)
        found: list[str] = json.loads(told.rpartition("nodes ")[2])
        return found

    def _start_ray(self, host: Host, *options: str) -> None:
        own = ["--object-store-memory=100000000", f"--temp-dir={host.disk}/ray", "--disable-usage-stats", "--block"]
        process = host.popen([RAY, "start", *options, f"--node-ip-address={host.address}", *own], self.environment)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        deadline = time.monotonic() + PATIENCE
        while "Ray runtime started" not in (told := host.log.read_text()):
            assert process.poll() is None, told[-3000:]
            assert time.monotonic() < deadline, told[-3000:]
            time.sleep(0.2)


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """A network without hosts. Skipped, visibly, where namespaces cannot be had."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        pytest.skip(f"no {', '.join(absent)}: install iproute2, mount and util-linux (Debian) for many hosts")
    if subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("this process may make no namespaces: many hosts need root")
    bridge = f"rf{os.getpid() % 100000}"
    net = f"10.{100 + os.getpid() // 250 % 100}.{os.getpid() % 250}"
    with tempfile.TemporaryDirectory(prefix="rf-") as folder, ExitStack() as stack:
        (Path(folder) / "disk").mkdir()
        try:
            _ip("link", "add", bridge, "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine has no bridges: {error.stderr.decode().strip()}")
        stack.callback(_ip, "link", "del", bridge)
        # By default a bridge has the lowest address of its ports: with each new one, hosts would know it by an old one.
        _ip("link", "set", bridge, "address", "02:00:00:00:00:01")
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        environment = {**ENVIRONMENT, **SOON, "PYTHONPATH": str(Path(__file__).parents[1])}
        yield Hosts(Path(folder), bridge, net, environment, stack)
