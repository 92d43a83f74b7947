"""An address where no cluster is, is answered within seconds, whatever is there instead."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import UserError
from pipeline.submission.reaching import find_head, require_cluster


@contextmanager
def web_server(status: int, body: bytes) -> Iterator[tuple[str, list[str | None]]]:
    """A web server that gives one answer; its address, and the tokens that it was sent."""
    tokens: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", tokens
        server.shutdown()


@contextmanager
def silent_server() -> Iterator[str]:
    """Accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def refusal(address: str) -> str:
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        find_head(address)
    assert time.monotonic() - began < 10
    return str(error.value)


def refusal_to_join(address: str) -> str:
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        require_cluster(address)
    assert time.monotonic() - began < 10
    return str(error.value)


def test_where_nothing_answers_is_said() -> None:
    assert "nothing answers at 127.0.0.1:" in refusal(closed())
    assert "there is no machine called nowhere.invalid" in refusal("http://nowhere.invalid:8265")


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "auto://x", "http://", "http://x:port", "http://x:99999"])
def test_what_is_no_address_of_a_dashboard_is_refused(address: str) -> None:
    assert "give that of the dashboard of a Ray head" in refusal(address)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    told = refusal("http://me:canary@127.0.0.1:8265")
    assert "RAY_AUTH_TOKEN lets one in" in told
    assert "canary" not in told


def test_what_is_no_head_is_told_from_one() -> None:
    with silent_server() as address:
        assert "is not the dashboard of a Ray head" in refusal(address)
    for status, body in ((200, b"<html>"), (200, b'{"ray_version": 3}'), (404, b""), (302, b"")):
        with web_server(status, body) as (address, _):
            assert "is not the dashboard of a Ray head" in refusal(address)


def test_another_ray_is_refused_with_both_versions() -> None:
    with web_server(200, b'{"ray_version": "2.1.0"}') as (address, _):
        assert "runs Ray 2.1.0 and this machine 2." in refusal(address)


def test_a_token_is_sent_where_it_is_asked_for_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    with web_server(401, b"") as (address, tokens):
        assert "asks for a token; set RAY_AUTH_TOKEN" in refusal(address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "canary")
        assert refusal(address).endswith("refuses this token; RAY_AUTH_TOKEN must be the cluster's")
        assert tokens == [None, None, "Bearer canary"]
    with web_server(200, b"{}") as (address, tokens):
        refusal(address)
        assert tokens == [None]


def test_a_cluster_to_join_that_is_not_there_is_not_waited_for() -> None:
    assert "nothing answers at 127.0.0.1:" in refusal_to_join(closed())
    with silent_server() as address:
        assert "is no Ray head; resources.address is that of a Ray head" in refusal_to_join(address)
    with web_server(200, b"{}") as (address, _):
        assert "is no Ray head" in refusal_to_join(address)
    assert "give auto or HOST:PORT" in refusal_to_join("somewhere")
    assert "is for `rayfall submit`" in refusal_to_join("http://127.0.0.1:8265")
    require_cluster("auto")  # is Ray's to find, at once
