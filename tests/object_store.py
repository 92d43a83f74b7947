"""A real S3 store for tests: Ceph's RADOS gateway from Debian's packages, on loopback, in a temporary folder.

Three daemons (monitor, one object store in memory, gateway) that belong to the test session and die with it, however
it ends. Not a mock: it checks signatures, digests and preconditions. ``conftest.py`` registers this file as a plugin.
"""

from __future__ import annotations

import http.client
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv")
PATIENCE = 60.0  # seconds for the gateway to answer; it takes one or two

# No authentication between the daemons, on loopback; clients of the gateway are still checked.
# paxos: by default the monitor waits a second before each change of its maps, and the gateway makes a dozen pools.
# rgw max listing results: as with the thousand of AWS, only sooner, a listing comes in pages.
# ms mon client mode: the default, secure, waits for ever where the daemons do not authenticate each other.
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor_port}/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
paxos propose interval = 0.02
paxos min wait = 0.01
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
osd crush update on start = false
mon allow pool size one = true
run dir = {folder}
admin socket =
pid file =
log file = {folder}/$name.log
crash dir = {folder}
[mon.a]
mon data = {folder}/mon
mon data avail crit = 1
mon data avail warn = 2
[osd.0]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd op num shards = 1
[client.rgw.a]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 16
rgw max listing results = 20
rgw enable usage log = false
rgw enable ops log = false
rgw run sync thread = false
rgw enable gc threads = false
rgw enable lc threads = false
"""


@dataclass(frozen=True)
class ObjectStore:
    """A running store: where it listens, who may write, and buckets that nobody else uses."""

    endpoint: str
    access_key: str
    secret_key: str
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach the store, and nothing of the machine's own."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """A client of boto3 as it comes, to look at the store past the code under test."""
        from boto3.session import Session

        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        return Session(**keys, region_name="us-east-1").client("s3", endpoint_url=self.endpoint)

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{next(self._numbers)}"
        self.client().create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session")
def s3_store() -> Iterator[ObjectStore]:
    """One store for the whole session; while it stands, the AWS_* variables of this process point to it."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        pytest.skip(f"no {', '.join(absent)}: install radosgw, ceph-mon and ceph-osd (Debian) for a real S3 store")
    with (
        tempfile.TemporaryDirectory(prefix="s3-of-tests-") as folder,
        running_store(Path(folder)) as store,
        pytest.MonkeyPatch.context() as patch,
    ):
        store.bucket()  # the first one makes the pools
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield store


@contextmanager
def running_store(folder: Path) -> Iterator[ObjectStore]:
    """Start the three daemons in an empty folder; they are stopped on leaving."""
    port, monitor_port = free_ports(2)
    fsid, osd_id = str(uuid.uuid4()), str(uuid.uuid4())
    settings = folder / "ceph.conf"
    settings.write_text(CONFIGURATION.format(folder=folder, fsid=fsid, port=port, monitor_port=monitor_port))
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    store = ObjectStore(f"http://127.0.0.1:{port}", f"KEY{uuid.uuid4().hex[:17].upper()}", uuid.uuid4().hex)
    log = folder / "programs.log"

    def run(*command: str) -> None:
        with log.open("ab") as out:
            done = subprocess.run(command, env=environment, stdout=out, stderr=out, timeout=PATIENCE, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{log.read_text()[-2000:]}"

    environment = {**os.environ, "CEPH_CONF": str(settings)}
    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(daemon(*command, "-f", environment=environment, log=log))

        monitor = f"[v2:127.0.0.1:{monitor_port}]"
        run("monmaptool", "--create", "--addv", "a", monitor, "--fsid", fsid, str(folder / "monmap"))
        run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"))
        start("ceph-mon", "-i", "a")
        run("ceph", "osd", "create", osd_id, "0")
        run("ceph", "osd", "crush", "add", "0", "1.0", "root=default", "host=localhost")
        (folder / "osd" / "type").write_text("memstore\n")
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        start("ceph-osd", "-i", "0")
        gateway = start("radosgw", "-n", "client.rgw.a")
        wait_for_answer(gateway, port, log)
        keys = ("--access-key", store.access_key, "--secret-key", store.secret_key)
        run("radosgw-admin", "user", "create", "--uid", "tests", "--display-name", "tests", *keys)
        yield store


@contextmanager
def daemon(*command: str, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed when the session dies, so that even ``kill -9`` leaves nothing behind."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], env=environment, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.kill()  # what it holds is in memory; there is nothing to save
        process.wait()


def wait_for_answer(gateway: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert gateway.poll() is None and time.monotonic() < deadline, f"no gateway:\n{log.read_text()[-2000:]}"  # noqa: PT018
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        except ConnectionError:
            time.sleep(0.05)
        finally:
            connection.close()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now; all are held until the last is found, so they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
