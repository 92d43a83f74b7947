"""Row 20: a bucket that cannot be used as it is given is one sentence in seconds, before anything is started.

The store is real (Ceph), which checks signatures and digests.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline import s3_requests

pytestmark = [pytest.mark.faults, pytest.mark.s3]

DEMO = Path(__file__).parents[2] / "jobs" / "experiments" / "demo.yaml"
SECRET = "0".join(("canary", "canary"))
SECONDS = 30.0  # on a machine that is busy with other tests; the figures say what it took


class Mistake(NamedTuple):
    fault: str
    variable: str | None
    value: str
    told: str  # within the sentence


MISTAKES = [
    Mistake("wrong secret", "AWS_SECRET_ACCESS_KEY", SECRET, "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
    Mistake("wrong key", "AWS_ACCESS_KEY_ID", "NOBODY", "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
    Mistake("no such bucket", None, "", "there is no such bucket at http://"),
    Mistake("nobody at the endpoint", "AWS_ENDPOINT_URL", "http://127.0.0.1:{port}", "check AWS_ENDPOINT_URL"),
    Mistake("uploads altered on their way", None, "", "altered on its way to the store"),
]


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that nobody listens at as long as the test takes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("command", ["run", "doctor"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.fault)
def test_it_is_one_sentence_in_seconds(
    command: str,
    mistake: Mistake,
    s3_store: Any,
    fault_proxy: Any,
    unused_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_figure: Any,
) -> None:
    bucket = "nobodys-bucket" if mistake.fault == "no such bucket" else s3_store.bucket()
    if mistake.variable is not None:
        monkeypatch.setenv(mistake.variable, mistake.value.format(port=unused_port))
    fault_proxy.faults.flip_sent = 1.0 if mistake.fault.startswith("uploads altered") else 0.0
    settings = [
        f"store=s3://{bucket}/results",
        f"resources.cache={tmp_path}",
        f"tracking.uri=sqlite:///{tmp_path}/runs.db",
    ]
    began = time.monotonic()
    answer = CliRunner().invoke(app, [command, str(DEMO), *(part for one in settings for part in ("--set", one))])
    took = time.monotonic() - began
    if command == "run":
        assert answer.exit_code == 2
        (sentence,) = answer.stderr.strip().splitlines()
    else:
        assert answer.exit_code == 1
        (sentence,) = [line for line in answer.stdout.splitlines() if line.startswith("failed store")]
    assert f"s3://{bucket}/results" in sentence
    assert mistake.told in sentence
    assert SECRET not in answer.output
    assert took < SECONDS
    record_figure(20, f"{mistake.fault}, `rayfall {command}`", f"one sentence after {took:.1f} s")


def test_altered_uploads_taken_for_those_of_a_busy_store_take_minutes(
    s3_store: Any, fault_proxy: Any, monkeypatch: pytest.MonkeyPatch, record_figure: Any
) -> None:
    """As many tries as for a store that is away: reckoned by the waits, which are not waited for."""
    from pipeline.objects import StoreError
    from pipeline.s3 import S3Objects
    from pipeline.s3_storage import ATTEMPTS

    monkeypatch.setattr(s3_requests, "_ASKED_AGAIN_SOON", set())
    fault_proxy.faults.flip_sent, waits = 1.0, []
    requests = s3_requests.S3Requests(attempts=ATTEMPTS, sleep=waits.append)
    with pytest.raises(StoreError, match="altered on its way to the store"):
        S3Objects(s3_store.bucket(), "", requests).create("x", b"bytes")
    assert sum(waits) > 60.0
    record_figure(
        20, "uploads altered on their way", f"one sentence after {sum(waits):.0f} s of waits", protected=False
    )
