"""A bad network for tests: an HTTP proxy before a real S3 store (or MLflow) that refuses, delays, resets and alters.

It forwards each request as it came, Host header included, since that is part of what the client signed; so the store
still checks everything, and what goes wrong is only what ``Faults`` says. ``conftest.py`` registers this as a plugin.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect"}  # headers that are not passed on


@dataclass
class Faults:
    """What goes wrong, changeable at any time. Shares are of all requests; the draws are seeded."""

    unavailable: float = 0.0  # share answered 503 SlowDown without asking the store
    refusals: tuple[int, ...] = (503,)  # what these are answered, drawn by lot
    reset: float = 0.0  # share whose connection is reset instead of an answer, after the store did what was asked
    cut: float = 0.0  # share of answers with a body that end early, after cut_after bytes of it
    cut_after: int = 0
    swallow: float = 0.0  # share of uploads answered 200 and never passed on
    flip_at: int | None = None  # the byte of an object that arrives with a flipped bit, counted from its beginning
    flips: int = sys.maxsize  # how often that still happens
    flip_sent: float = 0.0  # share of uploads whose first byte is flipped on the way to the store
    delay: float = 0.0  # seconds before each answer
    hang: float = 0.0  # share of requests that are neither passed on nor answered for hang_seconds
    hang_seconds: float = 0.0
    only: str = ""  # a pattern: faults hit the requests "METHOD path?query" that have it
    seen: list[str] = field(default_factory=list)  # every request, as "METHOD path?query"
    lot: random.Random = field(default_factory=lambda: random.Random(0))

    def gets(self, name: str) -> int:
        """How many GET requests asked for a name that ends so."""
        return sum(one.startswith("GET ") and one.partition("?")[0].endswith(name) for one in self.seen)


@dataclass(frozen=True)
class FaultProxy:
    endpoint: str
    faults: Faults


@pytest.fixture
def fault_proxy(s3_store: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before ``s3_store`` without a fault yet; AWS_ENDPOINT_URL points to it during the test."""
    with running_proxy(s3_store.endpoint) as proxy:  # type: ignore[attr-defined]
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def proxy_before() -> Iterator[Callable[[str], FaultProxy]]:
    """Proxies before any HTTP server, by its address, without a fault yet."""
    with ExitStack() as stack:
        yield lambda upstream: stack.enter_context(running_proxy(upstream))


@pytest.fixture
def proxy_at() -> Iterator[Callable[[str, str], FaultProxy]]:
    """Proxies before any HTTP server, which listen at an address of this machine that others see."""
    with ExitStack() as stack:
        yield lambda upstream, host: stack.enter_context(running_proxy(upstream, host))


@contextmanager
def running_proxy(upstream: str, host: str = "127.0.0.1") -> Iterator[FaultProxy]:
    """A proxy before the server at ``upstream``, which listens at the address ``host`` of this machine."""
    faults = Faults()
    store = urlsplit(upstream)
    assert store.hostname
    assert store.port

    class Handler(_Handler):
        pass

    Handler.faults, Handler.store = faults, (store.hostname, store.port)
    server = _Server((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield FaultProxy(f"http://{host}:{server.server_port}", faults)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that keeps its connection open does not hold up the end of the test
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, killed by a test, is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    faults: Faults
    store: tuple[str, int]

    def _forward(self) -> None:
        faults, told = self.faults, f"{self.command} {self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        faults.seen.append(told)
        struck = re.search(faults.only, told) is not None
        shares = {"unavailable": faults.unavailable, "reset": faults.reset, "cut": faults.cut}
        shares |= {"swallow": faults.swallow, "flip_sent": faults.flip_sent} if self.command == "PUT" else {}
        shares |= {"hang": faults.hang} if faults.hang else {}
        drawn = {fault for fault, share in shares.items() if struck and faults.lot.random() < share}
        if struck:
            time.sleep(faults.delay)
        if "hang" in drawn:
            time.sleep(faults.hang_seconds)
            self.close_connection = True
            return
        if "unavailable" in drawn:
            self._answer(
                faults.lot.choice(faults.refusals),
                {},
                b"<Error><Code>SlowDown</Code><Message>Please slow down.</Message></Error>",
            )
            return
        if "swallow" in drawn:
            self._answer(200, {"ETag": '"0"'}, b"")
            return
        status, headers, data = self._asked(bytes([body[0] ^ 1]) + body[1:] if "flip_sent" in drawn else body)
        if "reset" in drawn:
            # Closed with a linger of zero seconds, a connection ends with RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        if status in (200, 206) and self.command == "GET" and struck:
            data = self._flipped(data, headers)
        self._answer(status, headers, data, faults.cut_after if data and "cut" in drawn else None)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815

    def _asked(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.store, timeout=60)
        passed_on = {name: value for name, value in self.headers.items() if name.lower() not in OF_ONE_CONNECTION}
        try:
            connection.request(self.command, self.path, body=body or None, headers=passed_on)
            answer = connection.getresponse()
            headers = {n: v for n, v in answer.getheaders() if n.lower() not in OF_ONE_CONNECTION}
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def _flipped(self, data: bytes, headers: dict[str, str]) -> bytes:
        if self.faults.flip_at is None or not self.faults.flips:
            return data
        ranged = next((value for name, value in headers.items() if name.lower() == "content-range"), "bytes 0-")
        at = self.faults.flip_at - int(ranged.removeprefix("bytes ").partition("-")[0])
        if not 0 <= at < len(data):
            return data
        self.faults.flips -= 1
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    def _answer(self, status: int, headers: dict[str, str], data: bytes, cut_after: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut_after])
        self.close_connection = self.close_connection or cut_after is not None
