"""A spot notice becomes a drain: against metadata served over HTTP as AWS serves it, and a real Ray node."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from pipeline import spot_notice
from pipeline.spot_notice import LocalNode, Metadata, Watcher, local_node

TOKEN = "X-aws-ec2-metadata-token"


@dataclass
class Service:
    """The metadata of an instance, texts by path; the next ``broken`` answers are 503."""

    texts: dict[str, str] = field(default_factory=lambda: {"instance-life-cycle": "spot"})
    tokens: set[str] = field(default_factory=set)
    broken: int = 0
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def announce(self, seconds: float) -> None:
        at = datetime.fromtimestamp(time.time() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.texts["spot/instance-action"] = json.dumps({"action": "terminate", "time": at})

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if self.broken:
            self.broken -= 1
            return 503, ""
        if path == "/latest/api/token":
            if method != "PUT" or not headers.get(f"{TOKEN}-ttl-seconds".lower(), "").isdigit():
                return 400, ""
            self.tokens.add(token := f"token-{len(self.asked)}")
            return 200, token
        if headers.get(TOKEN.lower()) not in self.tokens:
            return 401, ""
        name = path.removeprefix("/latest/meta-data/")
        self.asked.append(name)
        return (200, self.texts[name]) if name in self.texts else (404, "")


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._tell("GET")

        def do_PUT(self) -> None:
            self._tell("PUT")

        def _tell(self, method: str) -> None:
            code, text = state.answer(method, self.path, {key.lower(): value for key, value in self.headers.items()})
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


def test_no_notice_is_none_and_a_notice_is_its_time(service: Service) -> None:
    metadata = Metadata(service.url)
    assert metadata.deadline() is None
    service.announce(120)
    assert metadata.deadline() == pytest.approx(time.time() + 120, abs=1.5)
    assert len(service.tokens) == 1, "one token serves until it expires"


def test_an_expired_token_is_replaced(service: Service) -> None:
    metadata = Metadata(service.url)
    metadata.read("instance-life-cycle")
    service.tokens.clear()
    assert metadata.read("instance-life-cycle") == "spot"


def drained(service: Service, monkeypatch: pytest.MonkeyPatch, *answers: bool) -> list[tuple[str, int]]:
    """(node, seconds) of each drain that a watcher asks Ray for, which gives ``answers``."""
    calls: list[tuple[str, int]] = []
    left = list(answers)

    def drain(node: LocalNode, seconds: int) -> bool:
        calls.append((node.id, seconds))
        return left.pop(0)

    monkeypatch.setattr(spot_notice, "drain", drain)
    Watcher(Metadata(service.url), lambda: LocalNode("ab", "127.0.0.1:1"), every=0.05, margin=10.0).run()
    return calls


def test_a_refused_drain_is_asked_for_again_with_the_time_that_is_left(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.announce(100)
    (first, second) = drained(service, monkeypatch, False, True)
    assert first[1] in (88, 89, 90)
    assert second[1] < first[1]


@pytest.mark.parametrize(("seconds", "told"), [(-30.0, 1), (5.0, 1), (4000.0, 110)])
def test_a_clock_that_is_wrong_makes_the_time_neither_negative_nor_longer_than_ever(
    seconds: float, told: int, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.announce(seconds)
    assert drained(service, monkeypatch, True) == [("ab", told)]


def test_hiccups_and_recommendations_drain_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.broken = 3
    service.texts["events/recommendations/rebalance"] = '{"noticeTime": "2026-01-01T00:00:00Z"}'
    threading.Timer(0.6, lambda: service.announce(60)).start()
    with caplog.at_level(logging.WARNING):
        assert len(drained(service, monkeypatch, True)) == 1
    told = [record.message for record in caplog.records]
    assert sum("the risk of losing it has grown" in line for line in told) == 1
    assert sum("cannot be read" in line for line in told) == 1
    assert service.asked.count("spot/instance-action") > 2


def test_an_instance_that_is_not_spot_needs_no_watcher(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.texts["instance-life-cycle"] = "on-demand"
    assert drained(service, monkeypatch) == []


def watch(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.spot_notice", "--every", "0.2", *options], stderr=subprocess.PIPE, text=True
    )


def test_sigterm_ends_it_cleanly(service: Service) -> None:
    watcher = watch("--metadata", service.url)
    while "spot/instance-action" not in service.asked:
        assert watcher.poll() is None
        time.sleep(0.05)
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(timeout=10) == 0


def test_it_is_light() -> None:
    code = "import sys, pipeline.spot_notice; print(*{'torch', 'ray', 'numpy', 'pydantic'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


# A task that keeps the node busy until it hears of the drain: an idle node would end at once.
BUSY = """
import json, sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
def wait(started):
    from pipeline.preemption import OwnNode
    node = OwnNode(every=0.1)
    open(started, "w").close()
    while (notice := node.notice()) is None:
        time.sleep(0.1)
    from ray._private.state import state
    return sorted(notice.nodes), notice.deadline, state.get_draining_nodes()

print(json.dumps(ray.get(wait.remote(sys.argv[2]))))
"""


@pytest.fixture
def ray_node() -> Iterator[LocalNode]:
    """A Ray node that ``ray start`` started, with a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        client, dashboard = free_ports(2)
        command = [
            *("ray.scripts.scripts", "start", "--head", "--block", "--port=0", "--num-cpus=1", "--temp-dir", folder),
            *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--object-store-memory=100000000"),
        ]
        environment = {**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log, env=environment, start_new_session=True
            )
        try:
            yield node_of(process)
        finally:
            mine = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            for one in [*mine, process]:
                one.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def node_of(process: subprocess.Popen[bytes]) -> LocalNode:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, "ray start ended"
        for child in psutil.Process(process.pid).children(recursive=True):
            told = [part.split("=", 1)[1] for part in child.cmdline() if part.startswith("--node_id=")]
            if child.name() == "raylet" and told:
                return local_node(told[0])
        time.sleep(0.1)
    raise AssertionError("no raylet")


@pytest.mark.ray
def test_a_notice_drains_the_real_node_and_its_worker_hears_of_it(
    service: Service, ray_node: LocalNode, tmp_path: Path
) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    started = tmp_path / "started"
    busy = subprocess.Popen(
        [sys.executable, str(tmp_path / "busy.py"), ray_node.cluster, str(started)], stdout=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not started.exists():
        assert busy.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    watcher = watch("--metadata", service.url, "--margin", "20", "--node-id", ray_node.id)
    service.announce(80)
    expected = time.time() + 60
    assert watcher.wait(timeout=60) == 0
    nodes, deadline, draining = json.loads(busy.communicate(timeout=60)[0])
    assert nodes == [ray_node.id]
    assert list(draining) == [ray_node.id]
    assert deadline == pytest.approx(expected, abs=15.0)
    assert watcher.stderr is not None
    assert "the node drains" in watcher.stderr.read()
