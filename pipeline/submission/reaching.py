"""Whether a Ray head answers at an address, and lets us in: said within seconds, before Ray's own clients are asked.

Those wait much longer, or for ever, where nothing answers. Nothing is imported but the standard library.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pipeline.addresses import without_secret
from pipeline.errors import UserError

SECONDS = 3.0  # to connect, and for each answer
DASHBOARD = "the dashboard of a Ray head (http://HEAD:8265, unless its port was changed)"
# What an HTTP/2 client says first, with empty settings; a server of gRPC answers with settings of its own (type 4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4


@dataclass(frozen=True)
class Head:
    """A head that answers: its address, and what must go with every request (never printed)."""

    address: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def told(self) -> str:
        """The address as it may be shown."""
        return without_secret(self.address)

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read what is sent: through TLS, or without leaving this machine."""
        parts = urlsplit(self.address)
        return parts.scheme == "https" or _is_loopback(parts.hostname or "")


def find_head(address: str) -> Head:
    """The head whose dashboard is at ``address``. UserError where there is none, of another Ray, or we may not in."""
    address = _web_address(address)
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    require_listener(host, port, f"give --address as that of {DASHBOARD}")
    headers: dict[str, str] = {}
    status, body = _get(f"{address}/api/version", headers)
    if status == 401:
        headers = {"Authorization": f"Bearer {_token(without_secret(address))}"}
        status, body = _get(f"{address}/api/version", headers)
    if status in (401, 403):
        raise UserError(
            f"the cluster at {without_secret(address)} refuses this token; RAY_AUTH_TOKEN must be the cluster's"
        )
    theirs, ours = _ray_version(body), version("ray")
    if theirs is None:
        raise UserError(f"what answers at {without_secret(address)} is not {DASHBOARD}")
    if theirs != ours:
        raise UserError(
            f"the cluster at {without_secret(address)} runs Ray {theirs} and this machine {ours}; "
            "both must run the same, which constraints.txt names"
        )
    return Head(address, headers)


def require_listener(host: str, port: int, advice: str) -> None:
    """UserError when nothing accepts a connection at ``host``:``port`` within seconds."""
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except socket.gaierror:
        raise UserError(f"there is no machine called {host}; {advice}") from None
    except OSError as error:
        why = "in time" if isinstance(error, TimeoutError) else f"({error.strerror})"
        raise UserError(f"nothing answers at {host}:{port} {why}; {advice}") from None


def require_cluster(address: str) -> None:
    """UserError when no Ray cluster can be at ``address``, as ``resources.address`` has it: HOST:PORT or ray://...

    "auto" and "local" are for Ray to find, which takes it no time.
    """
    scheme, separator, rest = address.rpartition("://")
    if address in ("auto", "local"):
        return
    if separator and scheme != "ray":
        raise UserError(
            f"resources.address {without_secret(address)}: a cluster is joined at auto or HOST:6379; an address of its "
            "dashboard is for `rayfall submit`"
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise UserError(f"resources.address {address}: give auto or HOST:PORT, such as 10.0.0.5:6379")
    advice = "resources.address is that of a Ray head (HOST:6379, unless its port was changed), or auto on a node of it"
    require_listener(host, port, advice)
    if os.environ.get("RAY_USE_TLS") != "1" and not _speaks_grpc(host, port):
        raise UserError(f"what answers at {host}:{port} is no Ray head; {advice}")


def _speaks_grpc(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=SECONDS) as connection:
            connection.sendall(_PREFACE)
            answer = b""
            deadline = time.monotonic() + SECONDS
            while len(answer) < 9 and time.monotonic() < deadline and (more := connection.recv(9 - len(answer))):
                answer += more
    except OSError:
        return False
    return len(answer) == 9 and answer[3] == _SETTINGS


def _web_address(address: str) -> str:
    """``address`` with a scheme and without a slash at its end."""
    if "://" not in address:
        address = f"http://{address}"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is none
        usable = False
    if not usable:
        raise UserError(f"--address {without_secret(address)}: give that of {DASHBOARD}")
    if "@" in parts.netloc:
        raise UserError(f"--address {without_secret(address)}: leave out user and password; RAY_AUTH_TOKEN lets one in")
    return address.rstrip("/")


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


class _Stay(HTTPRedirectHandler):
    """No redirects: a head sends none, and a token must not be sent elsewhere."""

    def redirect_request(self, *_: object) -> None:
        return None


def _get(url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Status and body of a GET; (0, b"") where the answer is no HTTP or too slow."""
    try:
        with build_opener(_Stay).open(Request(url, headers=dict(headers)), timeout=SECONDS) as answer:
            return answer.status, answer.read(1 << 16)
    except HTTPError as error:
        return error.code, b""
    except (HTTPException, URLError, OSError, ValueError):
        return 0, b""


def _ray_version(body: bytes) -> str | None:
    try:
        found = json.loads(body)["ray_version"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _token(address: str) -> str:
    """The token, from where Ray looks for it. Called only for a head that asked for one."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        token = file.read_text().strip()
    except OSError:
        token = ""
    if not token:
        raise UserError(
            f"the cluster at {address} asks for a token; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it"
        )
    return token
