"""A tracking server is examined by a real one; nothing stays there."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.doctor import tracking
from pipeline.doctor.findings import Finding, Findings, Trouble
from pipeline.doctor.tracking import check_tracking


def examined(uri: str) -> dict[str, Finding]:
    findings = Findings()
    check_tracking(uri, findings)
    return {finding.name: finding for finding in findings.all}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    places = ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "artifacts")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *places, "--port", str(port), "--workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    uri, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            assert process.poll() is None and time.monotonic() < end, "no server"  # noqa: PT018
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield uri
    finally:
        process.terminate()
        process.wait()


def test_a_server_answers_reads_and_keeps_artifacts(server: str) -> None:
    found = examined(server)
    assert found.keys() == {"tracking server", "tracking store", "tracking artifacts"}
    assert [finding.told for finding in found.values() if not finding.ok] == []


def test_a_server_of_another_version_is_told(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.9.1")
    with pytest.raises(Trouble, match=r"the server has MLflow 3\..*, this machine 2.9.1; install the same"):
        tracking.check_version(server)


def test_nobody_there_is_told_within_seconds() -> None:
    started = time.monotonic()
    found = examined("http://127.0.0.1:9")
    assert time.monotonic() - started < 10
    assert [finding.ok for finding in found.values()] == [False]
    assert "no MLflow server answers at http://127.0.0.1:9" in found["tracking server"].told


def test_a_file_needs_a_place_and_is_not_made(tmp_path: Path) -> None:
    assert "can be made" in examined(f"sqlite:///{tmp_path}/new/m.db")["tracking"].told
    assert list(tmp_path.iterdir()) == []
