"""The shard cache: one fetch for all processes, never a wrong byte, never more than the limit, whoever is killed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.cache import ShardCache, Wanted
from pipeline.errors import UserError
from pipeline.objects import LocalObjects, MissingObject, Objects
from pipeline.s3 import S3Objects
from pipeline.s3_requests import S3Requests

SIZE = 64 << 10
PIECE = 8 << 10  # eight reads for each shard

# A process that opens shards and tells on its standard output what it reads from the store and what it got.
READER = """
import hashlib, sys, time
from dataclasses import dataclass
from pathlib import Path
from pipeline.data.cache import ShardCache
from pipeline.objects import open_objects

address, folder, limit, piece, pause, *shards = sys.argv[1:]
objects = open_objects(address)

class Told:
    address = objects.address

    def read_range(self, name, start, length):
        print("read", name, start, flush=True)
        time.sleep(float(pause))
        return objects.read_range(name, start, length)

with ShardCache(Path(folder), int(limit), piece=int(piece)) as cache:
    for shard in shards:
        name, size, sha256 = shard.split("|")
        with cache.open(Told(), name, bytes=int(size), sha256=sha256) as view:
            time.sleep(float(pause))
            right = hashlib.sha256(view).hexdigest() == sha256
            print("got", name, "right" if right else "WRONG", flush=True)
"""


def shard_of(number: int, size: int = SIZE) -> tuple[Wanted, bytes]:
    data = random.Random(number).randbytes(size)
    return Wanted(f"64-raw/train-{number:05d}.tar", size, hashlib.sha256(data).hexdigest()), data


@pytest.fixture
def remote(tmp_path: Path) -> LocalObjects:
    """Twelve shards of 64 KiB."""
    objects = LocalObjects(tmp_path / "remote")
    for number in range(12):
        shard, data = shard_of(number)
        objects.write(shard.name, data)
    return objects


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def read(cache: ShardCache, objects: Objects, shard: Wanted) -> bytes:
    with cache.open(objects, shard.name, bytes=shard.bytes, sha256=shard.sha256) as view:
        return view[:]


def held(folder: Path) -> dict[str, int]:
    """Bytes by name of what the cache holds, whole or on its way, between two changes of what is counted."""
    found = {}
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # who finds no room gives up its claim, of no bytes, at any time
                found[path.name] = path.stat().st_size
    found.pop(".lock")
    return found


def reader(objects: Objects, folder: Path, *numbers: int, pause: float = 0.0, limit: int = 1 << 20) -> Any:
    shards = ["|".join(map(str, shard_of(number)[0])) for number in numbers]
    arguments = [objects.address, str(folder), str(limit), str(PIECE), str(pause), *shards]
    return subprocess.Popen([sys.executable, "-c", READER, *arguments], stdout=subprocess.PIPE, text=True)


def finished(readers: list[Any]) -> list[str]:
    """What processes told, after all have ended well."""
    told = [line for one in readers for line in one.communicate(timeout=60)[0].splitlines()]
    assert [one.returncode for one in readers] == [0] * len(readers)
    return told


def until_read(process: Any, piece: int) -> None:
    """Wait until a process reads its nth piece."""
    for line in process.stdout:
        if line.startswith("read ") and int(line.split()[2]) >= piece * PIECE:
            return
    raise AssertionError("it ended before")


# One process


def test_a_shard_is_fetched_once_and_named_by_its_digest(remote: LocalObjects, folder: Path) -> None:
    shard, data = shard_of(0)
    with ShardCache(folder, 1 << 20, piece=PIECE) as cache:
        assert read(cache, remote, shard) == data
        remote.remove(shard.name)
        assert read(cache, remote, shard) == data
        assert held(folder) == {shard.sha256: SIZE}
        cache.discard(shard.sha256)
        with pytest.raises(MissingObject, match=shard.name):
            read(cache, remote, shard)
        assert held(folder) == {}


def test_the_least_recently_used_goes_and_stays_readable_where_it_is_mapped(remote: LocalObjects, folder: Path) -> None:
    shards = [shard_of(number) for number in range(5)]
    with ShardCache(folder, 3 * SIZE, piece=PIECE) as cache:
        first = cache.open(remote, shards[0][0].name, bytes=SIZE, sha256=shards[0][0].sha256)
        for shard, data in shards[1:3]:
            assert read(cache, remote, shard) == data
        read(cache, remote, shards[1][0])
        read(cache, remote, shards[0][0])
        read(cache, remote, shards[3][0])
        assert held(folder).keys() == {shards[number][0].sha256 for number in (0, 1, 3)}
        read(cache, remote, shards[4][0])
        read(cache, remote, shards[2][0])
        assert held(folder).keys() == {shards[number][0].sha256 for number in (2, 3, 4)}
        assert first[:] == shards[0][1]
        first.close()


def test_other_files_are_left_alone(remote: LocalObjects, folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_bytes(bytes(10 * SIZE))
    with ShardCache(folder, SIZE, piece=PIECE) as cache:
        for number in range(3):
            shard, data = shard_of(number)
            assert read(cache, remote, shard) == data
    assert held(folder) == {"thesis.txt": 10 * SIZE, shard.sha256: SIZE}


def test_a_shard_larger_than_the_limit_is_refused(remote: LocalObjects, folder: Path) -> None:
    shard, _ = shard_of(0)
    with (
        ShardCache(folder, SIZE - 1) as cache,
        pytest.raises(
            UserError, match=rf"{shard.name} \({SIZE} bytes\) is larger than the cache .* \({SIZE - 1} bytes"
        ),
    ):
        read(cache, remote, shard)


def test_a_full_disk_is_told_at_once_and_leaves_nothing(remote: LocalObjects, small_disk: Path) -> None:
    large, data = shard_of(20, 2 << 20)
    small, small_data = shard_of(1)
    remote.write(large.name, data)
    with ShardCache(small_disk, 1 << 30, piece=PIECE) as cache:
        with pytest.raises(UserError, match=rf"^there is no room on the disk of the cache .* for shard .*{large.name}"):
            read(cache, remote, large)
        assert held(small_disk) == {}
        assert read(cache, remote, small) == small_data


def test_a_folder_that_cannot_be_written_is_told(remote: LocalObjects, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        ShardCache(tmp_path / "file" / "cache", 1 << 20) as cache,
        pytest.raises(UserError, match=r"the cache .*file/cache cannot hold shard .*: Not a directory; name a folder"),
    ):
        read(cache, remote, shard_of(0)[0])


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE + 1])
def test_a_file_that_lost_its_size_is_fetched_again(size: int, remote: LocalObjects, folder: Path) -> None:
    shard, data = shard_of(0)
    with ShardCache(folder, 1 << 20, piece=PIECE) as cache:
        read(cache, remote, shard)
        os.truncate(folder / shard.sha256, size)
        assert read(cache, remote, shard) == data
    assert held(folder) == {shard.sha256: SIZE}


def test_a_shard_that_was_altered_is_refused_by_name(remote: LocalObjects, folder: Path) -> None:
    shard, data = shard_of(3)
    for at in random.Random(0).choices(range(SIZE), k=20):
        remote.write(shard.name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with (
            ShardCache(folder, 1 << 20, piece=PIECE) as cache,
            pytest.raises(UserError, match=rf"{remote.address}/{shard.name} was altered: .* fetched 2 times"),
        ):
            read(cache, remote, shard)
    for size in range(0, SIZE, 4096):
        remote.write(shard.name, data[:size])
        with (
            ShardCache(folder, 1 << 20, piece=PIECE) as cache,
            pytest.raises(UserError, match=f"{shard.name} ends before byte"),
        ):
            read(cache, remote, shard)
    assert held(folder) == {}


def test_a_cache_emptied_under_our_hands_is_no_failure(remote: LocalObjects, folder: Path) -> None:
    shard, data = shard_of(0)

    class Emptied(LocalObjects):
        def read_range(self, name: str, start: int, length: int) -> bytes:
            for path in folder.iterdir():
                path.unlink()
            return super().read_range(name, start, length)

    with ShardCache(folder, 1 << 20, piece=PIECE) as cache:
        assert read(cache, Emptied(remote.root), shard) == data
        assert read(cache, remote, shard) == data


def test_a_pickled_cache_is_the_same_folder(remote: LocalObjects, folder: Path) -> None:
    shard, data = shard_of(0)
    with ShardCache(folder, 1 << 20) as cache:
        read(cache, remote, shard)
        with pickle.loads(pickle.dumps(cache)) as again:
            remote.remove(shard.name)
            assert read(again, remote, shard) == data


# Ahead of need


def test_what_was_fetched_ahead_needs_no_store(remote: LocalObjects, folder: Path) -> None:
    wanted = [shard_of(number)[0] for number in range(6)]
    with ShardCache(folder, 1 << 20, piece=PIECE) as cache:
        for _ in range(3):  # asking again is nothing
            cache.prefetch(remote, wanted)
        deadline = time.monotonic() + 20
        while set(held(folder)) != {shard.sha256 for shard in wanted}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for shard in wanted:
            remote.remove(shard.name)
        assert [read(cache, remote, shard) for shard in wanted] == [shard_of(number)[1] for number in range(6)]


def test_what_went_wrong_ahead_is_raised_at_the_open_of_that_shard(remote: LocalObjects, folder: Path) -> None:
    (good, data), (bad, bad_data) = shard_of(0), shard_of(1)
    remote.remove(bad.name)
    with ShardCache(folder, 1 << 20, piece=PIECE) as cache:
        cache.prefetch(remote, [bad, good])
        assert read(cache, remote, good) == data
        cache.prefetch(remote, [good])
        with pytest.raises(MissingObject, match=bad.name):
            read(cache, remote, bad)
        remote.write(bad.name, bad_data)
        assert read(cache, remote, bad) == bad_data


def test_closing_ends_the_threads_at_once_and_leaves_no_half_file(remote: LocalObjects, folder: Path) -> None:
    class Slow(LocalObjects):
        def read_range(self, name: str, start: int, length: int) -> bytes:
            started.set()
            time.sleep(0.1)
            return super().read_range(name, start, length)

    started = threading.Event()
    with ShardCache(folder, 1 << 20, piece=PIECE) as cache:
        cache.prefetch(Slow(remote.root), [shard_of(number)[0] for number in range(12)])
        assert started.wait(10)
        before = time.monotonic()
    assert time.monotonic() - before < 0.5  # of the ten seconds that all would take
    assert not [thread for thread in threading.enumerate() if "shards-ahead" in thread.name]
    assert not [name for name in held(folder) if name.endswith(".part")]
    with pytest.raises(RuntimeError, match="was closed"):
        read(cache, remote, shard_of(0)[0])


# Many processes


def test_eight_processes_fetch_a_shard_once(remote: LocalObjects, folder: Path) -> None:
    told = finished([reader(remote, folder, 0, 1, pause=0.02) for _ in range(8)])
    names = [shard_of(number)[0].name for number in (0, 1)]
    assert sorted(line for line in told if line.startswith("read")) == sorted(
        f"read {name} {start}" for name in names for start in range(0, SIZE, PIECE)
    )
    assert sorted(line for line in told if line.startswith("got")) == sorted(f"got {name} right" for name in names * 8)


@pytest.mark.parametrize("piece", range(8))
def test_a_killed_fetch_is_taken_over_and_leaves_nothing(piece: int, remote: LocalObjects, folder: Path) -> None:
    shard, data = shard_of(0)
    with reader(remote, folder, 0, pause=0.05) as killed:
        until_read(killed, piece)
        waiting = [reader(remote, folder, 0) for _ in range(2)]
        killed.kill()
    assert [line for line in finished(waiting) if line.startswith("got")] == [f"got {shard.name} right"] * 2
    assert held(folder) == {shard.sha256: SIZE}
    with ShardCache(folder, 1 << 20, piece=PIECE) as cache:
        remote.remove(shard.name)
        assert read(cache, remote, shard) == data


def test_what_killed_processes_left_is_removed_by_the_next_fetch(remote: LocalObjects, folder: Path) -> None:
    for number in range(4):
        with reader(remote, folder, number, pause=0.05) as killed:
            until_read(killed, 3)
            killed.kill()
    shard, data = shard_of(5)
    with ShardCache(folder, SIZE, piece=PIECE) as cache:  # for which what was left would be in the way
        assert read(cache, remote, shard) == data
    assert held(folder) == {shard.sha256: SIZE}


def test_killing_at_random_never_serves_a_wrong_byte(remote: LocalObjects, folder: Path) -> None:
    lot = random.Random(0)
    for _ in range(12):
        with reader(remote, folder, *lot.choices(range(12), k=20), pause=0.002, limit=3 * SIZE) as killed:
            until_read(killed, 0)
            time.sleep(lot.random() / 10)
            killed.kill()
            assert "WRONG" not in killed.stdout.read()
    assert "WRONG" not in str(finished([reader(remote, folder, *range(12), limit=3 * SIZE)]))
    assert len(held(folder)) == 3
    for name in held(folder):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == name


def test_eviction_keeps_below_the_limit_while_everybody_reads_right(remote: LocalObjects, folder: Path) -> None:
    lot = random.Random(1)
    readers = [reader(remote, folder, *lot.choices(range(12), k=40), pause=0.001, limit=3 * SIZE) for _ in range(6)]
    most = 0
    while any(one.poll() is None for one in readers):
        most = max(most, sum(held(folder).values()))
        time.sleep(0.002)
    told = finished(readers)
    assert most == 3 * SIZE
    assert sum(re.fullmatch(r"got .* right", line) is not None for line in told) == 6 * 40
    assert held(folder).keys() <= {shard_of(number)[0].sha256 for number in range(12)}


def test_a_forked_child_does_not_hold_on_to_what_its_killed_parent_fetched(remote: LocalObjects, folder: Path) -> None:
    script = READER.replace("with ShardCache", "import os, threading\nwith ShardCache").replace(
        "    for shard in shards:",
        """    def fork():
        time.sleep(0.2)
        if os.fork() == 0:
            os.write(1, b"forked\\n")  # past the buffer, in which the parent's words may stand
            os.close(1)
            time.sleep(60)
    threading.Thread(target=fork).start()
    for shard in shards:""",
    )
    shard = "|".join(map(str, shard_of(0)[0]))
    arguments = [remote.address, str(folder), str(1 << 20), str(PIECE), "0.1", shard]
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout
        assert any(line == "forked\n" for line in parent.stdout)
        parent.kill()
        parent.wait()
        try:
            assert "right" in finished([reader(remote, folder, 0)])[-1]
        finally:
            os.killpg(parent.pid, signal.SIGKILL)  # the child


def test_a_forked_process_uses_the_cache_of_its_parent(remote: LocalObjects, folder: Path) -> None:
    script = """
import hashlib, os, pickle, sys
cache, objects, wanted = pickle.load(sys.stdin.buffer)
with cache:
    cache.prefetch(objects, wanted)
    children = [os.fork() for _ in range(2)]  # three beside their parent
    cache.prefetch(objects, wanted[4:])
    for shard in wanted:
        with cache.open(objects, shard.name, bytes=shard.bytes, sha256=shard.sha256) as view:
            assert hashlib.sha256(view).hexdigest() == shard.sha256
if all(children):
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""
    wanted = [shard_of(number)[0] for number in range(8)]
    with ShardCache(folder, 3 * SIZE, piece=PIECE) as cache:
        parent = pickle.dumps((cache, remote, wanted))
    subprocess.run([sys.executable, "-c", script], input=parent, timeout=60, check=True)
    assert not [name for name in held(folder) if name.endswith(".part")]


# A real store behind a bad network


@pytest.fixture
def bucket(s3_store: Any) -> Iterator[str]:
    name = s3_store.bucket()
    for number in range(4):
        shard, data = shard_of(number)
        s3_store.client().put_object(Bucket=name, Key=f"set/{shard.name}", Body=data)
    return name


@pytest.mark.s3
def test_eight_processes_ask_the_store_once(bucket: str, fault_proxy: Any, folder: Path) -> None:
    shard, _ = shard_of(0)
    fault_proxy.faults.delay = 0.05
    told = finished([reader(S3Objects(bucket, "set"), folder, 0) for _ in range(8)])
    assert sum(line == f"got {shard.name} right" for line in told) == 8
    assert fault_proxy.faults.gets(shard.name) == SIZE // PIECE


@pytest.mark.s3
def test_a_third_of_refusals_and_of_cut_answers_change_nothing(bucket: str, fault_proxy: Any, folder: Path) -> None:
    faults = fault_proxy.faults
    faults.unavailable, faults.cut, faults.cut_after = 0.3, 0.3, PIECE // 2
    objects = S3Objects(bucket, "set", S3Requests(attempts=30, sleep=lambda seconds: None))
    with ShardCache(folder, 2 * SIZE, piece=PIECE) as cache:
        for number in (0, 1, 2, 3, 0, 1):
            shard, data = shard_of(number)
            cache.prefetch(objects, [shard_of((number + 1) % 4)[0]])
            assert read(cache, objects, shard) == data
    assert len(faults.seen) > 2 * 4 * SIZE // PIECE


@pytest.mark.s3
def test_a_byte_flipped_on_the_way_is_never_served(bucket: str, fault_proxy: Any, folder: Path) -> None:
    objects = S3Objects(bucket, "set")
    shard, data = shard_of(0)
    for at in random.Random(2).choices(range(SIZE), k=10):
        fault_proxy.faults.flip_at = at
        with ShardCache(folder, 1 << 20, piece=PIECE) as cache:
            fault_proxy.faults.flips = 2
            with pytest.raises(UserError, match=rf"^shard {objects.address}/{shard.name} was altered: .* 2 times"):
                read(cache, objects, shard)
            assert held(folder) == {}
            fault_proxy.faults.flips = 1
            assert read(cache, objects, shard) == data
            cache.discard(shard.sha256)
    assert data != b"".join(flipped(objects, shard, fault_proxy.faults))  # which the sha256 alone stands against


def flipped(objects: Objects, shard: Wanted, faults: Any) -> Iterator[bytes]:
    faults.flips = 1
    for start in range(0, SIZE, PIECE):
        yield objects.read_range(shard.name, start, PIECE)
