"""Objects: a folder and a bucket keep the same promises, and a bad network breaks none of them."""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.objects import LocalObjects, MissingObject, Objects, StoreError, open_objects
from pipeline.s3 import S3Objects
from pipeline.s3_requests import S3Requests

MIB = 1 << 20


def some_bytes(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return open_objects(tmp_path / "data" / "set")
    return open_objects(f"s3://{request.getfixturevalue('s3_store').bucket()}/data/set/")


@pytest.fixture
def behind(fault_proxy: Any, s3_store: Any) -> Callable[..., S3Objects]:
    """Objects behind the faulty network, in a new bucket, that wait without taking time."""

    def opened(*, piece: int = 5 * MIB, **how: Any) -> S3Objects:
        requests = S3Requests(**{"sleep": lambda seconds: None, **how})
        return S3Objects(s3_store.bucket(), "data", requests, piece=piece)

    return opened


# What both promise


def test_what_is_written_is_read(objects: Objects) -> None:
    data = some_bytes(100_000)
    objects.write("64-png/train-00000.tar", data)
    assert objects.read("64-png/train-00000.tar") == data
    assert objects.size("64-png/train-00000.tar") == len(data)
    for start, length in ((0, 1), (0, len(data)), (512, 1024), (len(data) - 1, 1), (7, 0)):
        assert objects.read_range("64-png/train-00000.tar", start, length) == data[start : start + length]
    objects.write("64-png/train-00000.tar", b"shorter")
    objects.write("empty", b"")
    assert (objects.read("64-png/train-00000.tar"), objects.read("empty")) == (b"shorter", b"")
    objects.remove("empty")
    objects.remove("empty")
    assert objects.size("empty") is None


def test_of_racing_creators_one_wins_and_nobody_replaces_it(objects: Objects) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: objects.create("log/00000001.json", b"%d" % number * 1000), range(16)))
    assert won.count(True) == 1
    assert objects.read("log/00000001.json") == b"%d" % won.index(True) * 1000
    assert not objects.create("log/00000001.json", b"later")
    assert objects.create("log/00000002.json", b"")
    assert objects.below("log") == ["00000001.json", "00000002.json"]  # no temporary file is left


def test_below_a_name_are_its_children_alone(objects: Objects) -> None:
    assert objects.below("") == objects.below("runs") == []
    for name in ("runs/b/log/1", "runs/b/files/deep/er", "runs/a", "runsb", "z"):
        objects.write(name, b"")
    assert objects.below("") == ["runs", "runsb", "z"]
    assert objects.below("runs") == ["a", "b"]
    assert objects.below("runs/b") == ["files", "log"]
    assert objects.below("run") == objects.below("runs/b/log/1") == []


def test_names_are_sorted_whole_and_below_the_prefix(objects: Objects) -> None:
    assert list(objects.names()) == []
    names = [f"32-raw/train-{number:05d}.tar" for number in range(45)]  # more than a page of the store
    odd = ["manifest.json", "ä/ö ü+%20&=.txt", "deep/er/and/deeper", "32-raw.txt", ".hidden", "Z"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: objects.write(name, name.encode()), [*names, *odd]))
    assert list(objects.names()) == [(name, len(name.encode())) for name in sorted([*names, *odd])]
    assert [name for name, _ in objects.names("32-raw/")] == names
    assert [name for name, _ in objects.names("32-raw/train-0001")] == names[10:20]
    assert [name for name, _ in objects.names("32-raw")] == ["32-raw.txt", *names]
    assert list(objects.names("nothing/here/")) == []


def test_a_file_is_uploaded_and_fetched_whole(objects: Objects, tmp_path: Path) -> None:
    data = some_bytes(3 * MIB + 1)
    (tmp_path / "file").write_bytes(data)
    objects.upload("a/shard.tar", tmp_path / "file")
    objects.fetch("a/shard.tar", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    objects.write("empty", b"")
    objects.fetch("empty", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""
    with pytest.raises(UserError):
        LocalObjects(tmp_path).fetch("back", tmp_path / "empty")  # which exists, and stays
    assert (tmp_path / "empty").read_bytes() == b""


def test_what_is_not_there_is_missing_by_name(objects: Objects, tmp_path: Path) -> None:
    objects.write("deep/here", b"12345")
    for ask in (
        lambda: objects.read("deep/there"),
        lambda: objects.read_range("deep/there", 0, 4),
        lambda: objects.fetch("deep/there", tmp_path / "back"),
    ):
        with pytest.raises(MissingObject, match=rf"^{objects.address}/deep/there is not there$"):
            ask()
    assert objects.size("deep/there") is None
    assert objects.size("deep") is None  # what lies deeper does not make it an object
    assert not (tmp_path / "back").exists()
    for start, length in ((0, 6), (5, 1), (4, 2), (100, 1)):
        with pytest.raises(UserError, match=rf"deep/here ends before byte {start + length},"):
            objects.read_range("deep/here", start, length)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../outside", "a/../../outside", "a/..", "a//b", ".", "a/", "a\0b"]
)
def test_names_cannot_leave_the_address(name: str, tmp_path: Path) -> None:
    for objects in (LocalObjects(tmp_path / "inside"), S3Objects("bucket", "inside")):
        for ask in (
            lambda objects=objects: objects.read(name),
            lambda objects=objects: objects.read_range(name, 0, 1),
            lambda objects=objects: objects.size(name),
            lambda objects=objects: objects.write(name, b""),
            lambda objects=objects: objects.fetch(name, tmp_path / "file"),
            lambda objects=objects: objects.remove(name),
        ):
            with pytest.raises(UserError, match="is not the name of an object below"):
                ask()
    assert list(tmp_path.iterdir()) == []


def test_objects_travel_to_other_processes(objects: Objects) -> None:
    objects.write("x", b"bytes")
    script = "import pickle, sys; print(pickle.load(sys.stdin.buffer).read('x'))"
    found = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(objects), capture_output=True, check=True)
    assert found.stdout == b"b'bytes'\n"


def test_a_forked_process_reads_beside_its_parent(objects: Objects) -> None:
    script = """
import os, pickle, sys
objects, contents = pickle.load(sys.stdin.buffer)
right = lambda: all(objects.read(name) == data for name, data in contents.items())
assert right()  # so that a connection is open
children = [os.fork() for _ in range(2)]  # three beside their parent
assert right()
if all(children):
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""
    contents = {f"{number}": some_bytes(20_000, number) for number in range(10)}
    for name, data in contents.items():
        objects.write(name, data)
    subprocess.run([sys.executable, "-c", script], input=pickle.dumps((objects, contents)), check=True)


# A folder


def test_addresses_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; give a folder"):
        open_objects(tmp_path / "file")
    for address in ("gs://bucket/data", "s3://", "s3:///data", Path("s3://bucket/data"), "~nobody-of-this-name/data"):
        with pytest.raises(UserError, match="is no"):
            open_objects(address)
    with pytest.raises(UserError, match="leads elsewhere"):
        open_objects("s3://bucket/data/../other")
    assert open_objects("s3://bucket").address == open_objects("s3://bucket/").address == "s3://bucket"
    assert open_objects("s3://bucket/a/b/").address == "s3://bucket/a/b"


def test_a_folder_needs_no_boto3() -> None:
    script = (
        "import pipeline.objects as o, pipeline.data.cache, sys; o.open_objects('x'); print('botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"False\n"


def test_a_killed_writer_leaves_the_old_or_the_new_bytes(tmp_path: Path) -> None:
    script = """
import sys
from pipeline.objects import open_objects
while True:
    for letter in (b"a", b"b"):
        open_objects(sys.argv[1]).write("x", letter * (8 << 20))
"""
    objects = LocalObjects(tmp_path)
    objects.write("x", b"a" * (8 << 20))
    for delay in random.Random(0).choices(range(100), k=5):
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as writer:
            time.sleep(0.1 + delay / 1000)
            writer.send_signal(signal.SIGKILL)
        assert objects.read("x") in (b"a" * (8 << 20), b"b" * (8 << 20))
        assert list(objects.names()) == [("x", 8 << 20)]  # without what the killed one was writing


def test_a_full_disk_is_told_and_the_old_bytes_stay(small_disk: Path, tmp_path: Path) -> None:
    objects = LocalObjects(small_disk)
    objects.write("x", b"old")
    (tmp_path / "file").write_bytes(bytes(2 * MIB))
    for write in (lambda: objects.write("x", bytes(2 * MIB)), lambda: objects.upload("x", tmp_path / "file")):
        with pytest.raises(UserError, match="x cannot be written: No space left on device"):
            write()
        assert objects.read("x") == b"old"
        assert os.listdir(small_disk) == ["x"]


def test_links_of_the_user_are_followed_and_circles_refused(tmp_path: Path) -> None:
    elsewhere = LocalObjects(tmp_path / "elsewhere")
    elsewhere.write("deep/x", b"1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    objects = LocalObjects(tmp_path / "data")
    assert list(objects.names()) == [("linked/deep/x", 1)]
    assert objects.read("linked/deep/x") == b"1"
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    with pytest.raises(UserError, match="remove the link"):
        list(objects.names())


# A bucket behind a bad network


@pytest.mark.s3
def test_a_third_of_refusals_changes_nothing(
    behind: Callable[..., S3Objects], fault_proxy: Any, tmp_path: Path
) -> None:
    objects = behind(attempts=20)
    fault_proxy.faults.unavailable = 0.3
    contents = {f"{number:03d}": some_bytes(3000 + number, number) for number in range(40)}
    for name, data in contents.items():
        objects.write(name, data)
    assert {name: objects.read(name) for name in contents} == contents
    assert list(objects.names()) == [(name, len(data)) for name, data in contents.items()]
    big = some_bytes(12 * MIB)
    (tmp_path / "big").write_bytes(big)
    objects.upload("big", tmp_path / "big")
    objects.fetch("big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big
    assert len(fault_proxy.faults.seen) > 1.2 * 3 * len(contents)  # PUT, HEAD, GET


@pytest.mark.s3
@pytest.mark.parametrize("cut_after", [0, 1, 5000, 9999])
def test_answers_that_break_off_are_asked_for_again(
    cut_after: int, behind: Callable[..., S3Objects], fault_proxy: Any, tmp_path: Path
) -> None:
    objects = behind(attempts=20, piece=3000)
    data = some_bytes(10_000)
    objects.write("x", data)
    fault_proxy.faults.cut, fault_proxy.faults.cut_after = 0.4, cut_after
    for number in range(15):
        assert objects.read("x") == data
        assert objects.read_range("x", number, 9000) == data[number : number + 9000]
        assert [name for name, _ in objects.names()] == ["x"]
    objects.fetch("x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == data
    (tmp_path / "big").write_bytes(some_bytes(11 * MIB))
    (again := S3Objects(objects.bucket, "data", objects.requests, piece=5 * MIB)).upload("big", tmp_path / "big")
    fault_proxy.faults.cut = 0.0
    assert again.read("big") == some_bytes(11 * MIB)


@pytest.mark.s3
def test_boto3_alone_lets_them_pass(fault_proxy: Any, s3_store: Any) -> None:
    """The check of the check above: an error at the first cut, and a listing of nothing where there is something."""
    from boto3.session import Session
    from botocore.exceptions import BotoCoreError

    bucket, client = s3_store.bucket(), Session().client("s3")
    s3_store.client().put_object(Bucket=bucket, Key="x", Body=bytes(1000))
    fault_proxy.faults.cut, fault_proxy.faults.cut_after = 1.0, 0
    with pytest.raises(BotoCoreError):
        client.get_object(Bucket=bucket, Key="x")["Body"].read()
    assert fault_proxy.faults.gets("x") == 1
    assert client.list_objects_v2(Bucket=bucket).get("Contents", []) == []  # without a word


@pytest.mark.s3
def test_resets_and_altered_uploads_are_mended(
    behind: Callable[..., S3Objects], fault_proxy: Any, tmp_path: Path
) -> None:
    objects = behind(attempts=30)
    fault_proxy.faults.reset, fault_proxy.faults.flip_sent = 0.3, 0.3
    contents = {f"{number:03d}": some_bytes(2000, number) for number in range(20)}
    for name, data in contents.items():
        objects.write(name, data)
    big = some_bytes(16 * MIB)
    (tmp_path / "big").write_bytes(big)
    objects.upload("big", tmp_path / "big")
    fault_proxy.faults.reset = 0.0
    assert {name: objects.read(name) for name in contents} == contents
    assert objects.read("big") == big


@pytest.mark.s3
def test_the_lost_answer_to_the_end_of_an_upload_is_no_failure(
    behind: Callable[..., S3Objects], fault_proxy: Any, tmp_path: Path
) -> None:
    faults = fault_proxy.faults
    objects = behind(sleep=lambda seconds: setattr(faults, "reset", 0.0))
    (tmp_path / "big").write_bytes(some_bytes(12 * MIB))
    faults.only, faults.reset = "POST .*uploadId=", 1.0
    objects.upload("big", tmp_path / "big")
    assert sum("POST" in one and "uploadId=" in one for one in faults.seen) == 2
    assert objects.read("big") == some_bytes(12 * MIB)


@pytest.mark.s3
def test_a_failed_upload_leaves_no_parts(
    behind: Callable[..., S3Objects], fault_proxy: Any, s3_store: Any, tmp_path: Path
) -> None:
    objects = behind(attempts=2)
    (tmp_path / "big").write_bytes(bytes(12 * MIB))
    fault_proxy.faults.only, fault_proxy.faults.unavailable = "partNumber=2", 1.0
    with pytest.raises(StoreError, match=r"big at .* gave up after 2 attempts"):
        objects.upload("big", tmp_path / "big")
    assert objects.size("big") is None
    assert "Uploads" not in s3_store.client().list_multipart_uploads(Bucket=objects.bucket)


@pytest.mark.s3
def test_a_swallowed_upload_is_found_out(behind: Callable[..., S3Objects], fault_proxy: Any) -> None:
    objects = behind(attempts=3)
    objects.write("old", b"12345")
    fault_proxy.faults.swallow = 1.0
    with pytest.raises(StoreError, match=r"new at .* 3 attempts, the last: nothing is stored"):
        objects.write("new", b"bytes")
    with pytest.raises(StoreError, match=r"old at .* 3 attempts, the last: 5 bytes are stored instead of 7"):
        objects.write("old", b"1234567")


@pytest.mark.s3
def test_an_object_replaced_while_it_is_fetched_is_refused(s3_store: Any, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Meddled(S3Requests):
        asked: list[str] = field(default_factory=list)

        def tried(self, what: str, act: Callable[[Any], Any]) -> Any:
            self.asked.append(what)
            if len(self.asked) == 3:  # after HEAD and the first piece
                s3_store.client().put_object(Bucket=bucket, Key="x", Body=bytes(reversed(range(100))))
            return super().tried(what, act)

    bucket = s3_store.bucket()
    s3_store.client().put_object(Bucket=bucket, Key="x", Body=bytes(range(100)))
    with pytest.raises(UserError, match=f"PreconditionFailed .* for s3://{bucket}/x"):
        S3Objects(bucket, "", Meddled(), piece=40).fetch("x", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.s3
def test_waits_grow_and_end_in_one_sentence(behind: Callable[..., S3Objects], fault_proxy: Any) -> None:
    waits: list[float] = []
    objects = behind(attempts=9, sleep=waits.append)
    fault_proxy.faults.unavailable = 1.0
    with pytest.raises(StoreError) as caught:
        objects.read("train-00007.tar")
    assert str(caught.value) == (
        f"{objects.address}/train-00007.tar at {fault_proxy.endpoint}: gave up after 9 attempts, "
        "the last: HTTP 503 SlowDown"
    )
    for wait, longest in zip(waits, [0.25, 0.5, 1, 2, 4, 8, 16, 16], strict=True):
        assert longest / 2 <= wait <= longest


@pytest.mark.s3
def test_a_store_that_hangs_is_given_up(behind: Callable[..., S3Objects], fault_proxy: Any) -> None:
    faults = fault_proxy.faults
    patient = behind(read_timeout=0.3, sleep=lambda seconds: setattr(faults, "delay", 0.0))
    patient.write("x", b"bytes")
    faults.delay = 1.0
    assert patient.read("x") == b"bytes"  # the second time
    faults.delay = 1.0
    with pytest.raises(StoreError, match=r"x at .*: gave up after 2 attempts, the last: no answer in time"):
        behind(read_timeout=0.3, attempts=2).size("x")


# What a person must change


def verbs(objects: Objects, folder: Path) -> list[Callable[[], object]]:
    (folder / "file").write_bytes(b"bytes")
    return [
        lambda: objects.read("x"),
        lambda: objects.read_range("x", 0, 1),
        lambda: objects.size("x"),
        lambda: list(objects.names()),
        lambda: objects.write("x", b"bytes"),
        lambda: objects.upload("x", folder / "file"),
        lambda: objects.fetch("x", folder / "new"),
        lambda: objects.remove("x"),
    ]


SECRET = "0".join("canary")


def told(ask: Callable[[], object]) -> str:
    """The one sentence of a UserError that comes at once and gives no secret away, its traceback neither."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        ask()
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.s3
def test_refused_credentials_are_told_by_every_verb(
    s3_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3_store.bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    objects = S3Objects(bucket)
    for ask in verbs(objects, tmp_path):
        sentence = told(ask)
        assert f"refuses access to s3://{bucket}/" in sentence
        assert "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in sentence
    assert "SignatureDoesNotMatch" in told(lambda: objects.read("x"))
    assert SECRET not in repr(objects)
    assert SECRET.encode() not in pickle.dumps(objects)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    assert "InvalidAccessKeyId" in told(lambda: S3Objects(bucket).read("x"))


@pytest.mark.s3
def test_a_missing_bucket_is_told_by_every_verb(s3_store: Any, tmp_path: Path) -> None:
    for ask in verbs(S3Objects("no-such-bucket", "a"), tmp_path):
        assert told(ask).startswith(f"there is no such bucket at {s3_store.endpoint}: s3://no-such-bucket/a/")


def test_no_credentials_and_settings_that_cannot_be_right_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    sentence = told(lambda: S3Objects("bucket").read("x"))
    assert sentence.startswith("there are no credentials for s3://bucket/x; set AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "(ProfileNotFound of botocore); check" in told(lambda: S3Objects("bucket").read("x"))
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "(ValueError of botocore); check AWS_ENDPOINT_URL" in told(lambda: S3Objects("bucket").read("x"))


@pytest.mark.s3
def test_what_was_created_is_ours_although_the_answer_was_lost(behind: Any, fault_proxy: Any) -> None:
    faults = fault_proxy.faults
    faults.reset, faults.only = 1.0, "^PUT "
    objects = behind(sleep=lambda seconds: setattr(faults, "reset", 0.0))
    assert objects.create("log/1", b"of a writer")
    assert sum(one.startswith("PUT ") for one in faults.seen) == 2
    faults.reset = 1.0
    assert not objects.create("log/1", b"of another")
    assert objects.read("log/1") == b"of a writer"


def test_an_endpoint_that_nobody_listens_at_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        closed, silent = (stack.enter_context(socket.socket()) for _ in range(2))
        closed.bind(("127.0.0.1", 0))
        # Who neither accepts nor refuses: its queue of connections is full, so that further ones get no answer.
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        for listener, waits in ((closed, lambda seconds: None), (silent, time.sleep)):
            port = listener.getsockname()[1]
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:canary@127.0.0.1:{port}")
            started = time.monotonic()
            with pytest.raises(StoreError) as caught:
                S3Objects("bucket", "", S3Requests(sleep=waits)).read("x")
            assert time.monotonic() - started < 10
            start, _, end = str(caught.value).partition("gave up after")
            assert start == f"s3://bucket/x at http://127.0.0.1:{port}: "
            assert end.endswith("the last: no connection; check AWS_ENDPOINT_URL and the network")
