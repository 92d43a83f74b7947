"""A store is examined by a real one, and what is wrong with it is told in a sentence that says what to do."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor import stores
from pipeline.doctor.findings import Finding, Findings, Trouble
from pipeline.doctor.stores import CHECKSUMS, check_clock, check_condition, check_pyarrow, check_store, open_store
from pipeline.objects import LocalObjects, open_objects


def examined(address: str) -> dict[str, Finding]:
    findings = Findings()
    check_store(address, findings)
    return {finding.name: finding for finding in findings.all}


def test_a_folder_is_well_and_nothing_stays_in_it(tmp_path: Path) -> None:
    found = examined(str(tmp_path))
    assert found.keys() == {"store verbs", "store conditional put", "store clock"}
    assert all(finding.ok for finding in found.values())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = examined(str(tmp_path / "file" / "store"))
    assert [finding.ok for finding in found.values()] == [False]
    assert "cannot be written" in found["store verbs"].told


class Careless(LocalObjects):
    """As stores that ignore If-None-Match: everybody's create succeeds."""

    def create(self, name: str, data: bytes) -> bool:
        self.write(name, data)
        return True


def test_a_store_that_lets_two_writers_win_is_found(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match=r"ignores If-None-Match.*use a store that honours it"):
        check_condition(Careless(tmp_path), "probe")


def test_a_clock_that_is_off_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(stores.time, "time", lambda: now + 100.0)
    with pytest.raises(Trouble, match=r"\+100 s off.*NTP"):
        check_clock(LocalObjects(tmp_path))


@pytest.mark.s3
def test_a_bucket_is_well_and_nothing_stays_in_it(s3_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECKSUMS, "WHEN_REQUIRED")
    address = f"s3://{s3_store.bucket()}/results"
    found = examined(address)
    assert found.keys() == {"store verbs", "store conditional put", "store clock", "store pyarrow"}
    assert [finding.told for finding in found.values() if not finding.ok] == []
    assert list(open_objects(address).names()) == []


@pytest.mark.s3
def test_chunked_uploads_fail_there_and_the_remedy_is_named(s3_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHECKSUMS, raising=False)
    objects = open_store(f"s3://{s3_store.bucket()}/results")
    with pytest.raises(OSError):  # noqa: PT011 - what Ray would see without the check, in the store's own words
        stores.upload_by_pyarrow(objects, "probe")
    assert "arrive" in check_pyarrow(objects, "probe"), "a run has the variable set, unless somebody set it otherwise"
    assert CHECKSUMS not in os.environ
    monkeypatch.setenv(CHECKSUMS, "WHEN_SUPPORTED")
    with pytest.raises(Trouble, match=f"chunked uploads.*unset {CHECKSUMS}, which is WHEN_SUPPORTED, wherever Ray is"):
        check_pyarrow(objects, "probe")
    monkeypatch.setenv(CHECKSUMS, "WHEN_REQUIRED")
    assert "arrive" in check_pyarrow(objects, "probe")


@pytest.mark.s3
def test_the_clock_of_a_bucket_is_its_servers(s3_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = open_store(f"s3://{s3_store.bucket()}")
    assert "s apart" in check_clock(objects)
    monkeypatch.setattr(stores, "SKEW", -1.0)
    with pytest.raises(Trouble, match="NTP"):
        check_clock(objects)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (None, None, "there is no such bucket"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "check AWS_ACCESS_KEY_ID"),
        ("AWS_ACCESS_KEY_ID", "NOBODY", "check AWS_ACCESS_KEY_ID"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "check AWS_ENDPOINT_URL"),
    ],
)
def test_what_is_wrong_with_a_bucket_is_one_sentence_within_seconds(
    variable: str | None, value: str | None, told: str, s3_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"s3://{s3_store.bucket() if variable else 'nobodys-bucket'}/results"
    if variable is not None and value is not None:
        monkeypatch.setenv(variable, value)
    started = time.monotonic()
    found = examined(address)
    assert time.monotonic() - started < 15
    assert [finding.ok for finding in found.values()] == [False]
    assert told in found["store verbs"].told
    assert "\n" not in found["store verbs"].told
