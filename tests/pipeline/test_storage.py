"""Storage: publishing is all or nothing, and only once; a folder and a bucket keep the same promises."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.objects import MissingObject, StoreError
from pipeline.s3 import S3Objects
from pipeline.s3_requests import S3Requests
from pipeline.s3_storage import S3Storage
from pipeline.storage import Damaged, FileRecord, Storage, open_storage


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("RAYFALL_COPIES", str(tmp_path / "copies"))
    if request.param == "folder":
        return open_storage(tmp_path / "store")
    return open_storage(f"s3://{request.getfixturevalue('s3_store').bucket()}/team/store")


def elsewhere(storage: Storage, tmp_path: Path) -> Storage:
    """The same storage as another machine sees it."""
    if isinstance(storage, S3Storage):
        return S3Storage(storage.bucket, tmp_path / "copies of another machine")
    return storage


def published(storage: Storage, key: str = "runs/x/step-1") -> dict[str, FileRecord]:
    folder = storage.new_folder(key)
    (folder / "deep").mkdir()
    (folder / "weights").write_bytes(bytes(range(256)) * 100)
    (folder / "deep" / "more").write_text("more")
    (folder / "empty").touch()
    return storage.publish(key)


def test_put_new_has_one_winner_among_racing_writers(storage: Storage) -> None:
    won: list[int] = []
    gate = threading.Barrier(16)

    def write(number: int) -> None:
        gate.wait()
        if storage.put_new("log/1", str(number).encode() * 1000):
            won.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("log/1") == str(won[0]).encode() * 1000
    assert storage.list("log") == ["1"]  # no temporary file is left


def test_put_replaces_and_remove_forgets(storage: Storage) -> None:
    storage.put("a/b", b"one")
    storage.put("a/b", b"two")
    storage.put("ab", b"not below a")
    assert storage.read("a/b") == b"two"
    assert storage.exists("a")
    assert storage.exists("a/b")
    storage.remove("a")
    storage.remove("a")
    assert not storage.exists("a")
    assert not storage.exists("a/b")
    assert storage.list("a") == []
    assert storage.read("ab") == b"not below a"
    storage.remove("ab")
    assert not storage.exists("ab")
    with pytest.raises((FileNotFoundError, MissingObject)):
        storage.read("ab")


def test_what_is_published_is_fetched_whole_wherever_it_is_asked_for(storage: Storage, tmp_path: Path) -> None:
    files = published(storage)
    assert {name: record.bytes for name, record in files.items()} == {"weights": 25_600, "deep/more": 4, "empty": 0}
    there = elsewhere(pickle.loads(pickle.dumps(storage)), tmp_path)
    assert there.fault("runs/x/step-1", files) is None
    folder = there.fetch("runs/x/step-1", files)
    assert (folder / "weights").read_bytes() == bytes(range(256)) * 100
    assert (folder / "deep" / "more").read_text() == "more"
    assert there.objects("runs/x").read("step-1/deep/more") == b"more"
    storage.remove("runs/x/step-1")
    assert there.fault("runs/x/step-1", files) == "deep/more is missing"


@pytest.mark.parametrize("damage", ["missing", "cut", "altered"])
def test_what_is_damaged_is_never_given_out(damage: str, storage: Storage, tmp_path: Path) -> None:
    files = published(storage)
    objects = storage.objects("runs/x/step-1")
    if damage == "missing":
        objects.remove("weights")
    else:
        objects.write("weights", bytes(25_599) if damage == "cut" else bytes(25_600))
    there = elsewhere(storage, tmp_path)
    told = {"missing": "is missing", "cut": "25599 bytes instead of 25600", "altered": "another sha256"}[damage]
    with pytest.raises(Damaged, match=f"weights.*{told}|weights is not there"):
        there.fetch("runs/x/step-1", files)
    assert (there.fault("runs/x/step-1", files) is None) == (damage == "altered" and isinstance(storage, S3Storage))


@pytest.mark.s3
def test_one_file_is_fetched_alone_and_a_copy_that_was_harmed_again(s3_store: Any, tmp_path: Path) -> None:
    bucket = S3Objects(s3_store.bucket(), "store")
    files = published(S3Storage(bucket, tmp_path / "of who wrote it"))
    there = S3Storage(bucket, tmp_path / "of who reads it")
    folder = there.fetch("runs/x/step-1", {"deep/more": files["deep/more"]})
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["more"]
    (folder / "deep" / "more").write_text("less")
    assert (there.fetch("runs/x/step-1", files) / "deep" / "more").read_text() == "more"
    bucket.remove("runs/x/step-1/weights")
    assert (there.fetch("runs/x/step-1", files) / "weights").stat().st_size == 25_600  # from the copy


@pytest.mark.s3
def test_a_cut_answer_leaves_nothing_that_looks_whole(fault_proxy: Any, s3_store: Any, tmp_path: Path) -> None:
    bucket = s3_store.bucket()
    files = published(S3Storage(S3Objects(bucket, "store"), tmp_path / "of who wrote it"))
    requests = S3Requests(attempts=3, sleep=lambda seconds: None)
    there = S3Storage(S3Objects(bucket, "store", requests), tmp_path / "of who reads it")
    fault_proxy.faults.cut, fault_proxy.faults.cut_after, fault_proxy.faults.only = 1.0, 999, "^GET .*weights"
    with pytest.raises(StoreError, match=r"weights at .* gave up after 3 attempts"):
        there.fetch("runs/x/step-1", files)
    assert not list((tmp_path / "of who reads it").rglob("*weights*"))
    fault_proxy.faults.cut = 0.0
    assert (there.fetch("runs/x/step-1", files) / "weights").stat().st_size == 25_600


def test_keys_cannot_leave_the_store(storage: Storage) -> None:
    for verb in (lambda key: storage.put(key, b""), lambda key: storage.put_new(key, b""), storage.new_folder):
        with pytest.raises(ValueError, match=r"leads outside|leads elsewhere"):
            verb("../other")


def test_a_store_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        open_storage(tmp_path / "file")
    for hopeless in (tmp_path / "file" / "store", "~nobody-of-this-name/store", "x" * 300):
        with pytest.raises(UserError, match=r"cannot be made: .*; give a folder that can be written"):
            open_storage(hopeless)
    for address in ("gs://bucket/prefix", "s3:/bucket", "s3://", "s3://bucket/../other"):
        with pytest.raises(UserError, match=r"s3://BUCKET/PREFIX|leads elsewhere"):
            open_storage(address)


def test_what_is_told_is_read_and_what_cannot_be_told_is_nothing_to_fail_for(storage: Storage, tmp_path: Path) -> None:
    storage.tell("progress/x", b"1")
    assert storage.read("progress/x") == b"1"
    again = pickle.loads(pickle.dumps(storage))
    again.tell("progress/x", b"2")
    assert storage.read("progress/x") == b"2"
    if not isinstance(storage, S3Storage):
        (tmp_path / "store" / "file").touch()
        storage.tell("file/below", b"3")


@pytest.mark.s3
def test_a_store_that_hangs_is_told_nothing_for_a_while(fault_proxy: Any, s3_store: Any, tmp_path: Path) -> None:
    storage = S3Storage(S3Objects(s3_store.bucket(), "store"), tmp_path, patience=0.0)
    fault_proxy.faults.delay = 20.0
    began = time.monotonic()
    for number in range(50):
        storage.tell("progress/x", b"%d" % number)
    assert time.monotonic() - began < 10.0
    assert len(fault_proxy.faults.seen) == 1
    fault_proxy.faults.delay = 0.0
    storage.tell("progress/y", b"of another")
    assert storage.read("progress/y") == b"of another"


@pytest.mark.s3
def test_files_that_are_published_together_wait_together(fault_proxy: Any, s3_store: Any, tmp_path: Path) -> None:
    """A store that is down for two seconds costs a folder of eight files little more, and not eight times as much."""
    storage = S3Storage(S3Objects(s3_store.bucket(), "store", S3Requests(attempts=16)), tmp_path)
    folder = storage.new_folder("runs/x/step-1")
    for number in range(8):
        (folder / f"file-{number}").write_text(str(number))
    storage.exists("warm")
    fault_proxy.faults.unavailable = 1.0
    threading.Timer(2.0, lambda: setattr(fault_proxy.faults, "unavailable", 0.0)).start()
    began = time.monotonic()
    files = storage.publish("runs/x/step-1")
    assert time.monotonic() - began < 8.0
    assert storage.fault("runs/x/step-1", files) is None
