"""The bytes of examples, whichever way they come; what is held open for them, and what is fetched ahead."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.cache import ShardCache
from pipeline.data.manifest import Form, Manifest
from pipeline.data.opened_shards import OpenedShards
from pipeline.errors import UserError
from pipeline.objects import LocalObjects

WriteDataSet = Callable[..., Manifest]

SIDE = 100  # px: an example is 30,000 bytes, so a gap of two is still fetched and one of three is not
FORM = Form(size=SIDE, encoding="raw")
COUNT, HELD = 36, 12
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Remote:
    """The files of a folder as a store would give them: asked for by ranges, and counted."""

    objects: LocalObjects
    ranges: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.objects.address

    def read(self, name: str) -> bytes:
        return self.objects.read(name)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        self.ranges.append((name, start, length))
        return self.objects.read_range(name, start, length)


@pytest.fixture
def written(tmp_path: Path, write_data_set: WriteDataSet) -> tuple[LocalObjects, Manifest]:
    """Three shards of 12 examples."""
    labels = np.arange(COUNT) % 10
    return LocalObjects(tmp_path / "set"), write_data_set(
        tmp_path / "set", PIXELS, labels, forms=[FORM], shard_size=HELD
    )


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ShardCache]:
    """Room for two of the three shards."""
    with ShardCache(tmp_path / "cache", 1 << 20) as cache:
        yield cache


def _open(written: tuple[LocalObjects, Manifest], remote: Remote | None, cache: ShardCache | None) -> OpenedShards:
    objects, manifest = written
    return OpenedShards(remote or objects, manifest.shards("train", FORM), 10, cache)  # type: ignore[arg-type]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _mapped(folder: Path) -> list[str]:
    """The maps of files in a folder, as the kernel names them ("... (deleted)" when the name is gone)."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split(maxsplit=5)[5] for line in lines if str(folder) in line]


@pytest.mark.parametrize("way", ["mapped", "copied", "ranges"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, HELD - 1), min_size=1, max_size=20), number=st.integers(0, 2))
def test_the_bytes_of_any_examples_in_any_order(
    written: tuple[LocalObjects, Manifest], cache: ShardCache, way: str, rows: list[int], number: int
) -> None:
    remote = None if way == "mapped" else Remote(written[0])
    opened = _open(written, remote, cache if way == "copied" else None)
    found = opened.stored(number, np.array(rows))
    assert [bytes(one) for one in found] == [PIXELS[HELD * number + row].tobytes() for row in rows]
    assert opened.index(number).labels[rows].tolist() == [(HELD * number + row) % 10 for row in rows]


@pytest.mark.parametrize(
    ("rows", "requests"),
    [([4], [1]), ([4, 4], [1]), ([3, 5], [3]), ([8, 2, 5], [7]), ([0, 4], [1, 1]), ([11, 1, 0, 9], [2, 3])],
)
def test_ranges_that_are_near_are_fetched_as_one(
    written: tuple[LocalObjects, Manifest], rows: list[int], requests: list[int]
) -> None:
    """``requests``: how many examples, those between included, each of them spans."""
    remote = Remote(written[0])
    _open(written, remote, None).stored(1, np.array(rows))
    member = 31 * 1024  # header, array header, pixels, padding, and the two blocks of the label
    assert [(length - 30_000) / member + 1 for _, _, length in remote.ranges] == requests


def test_nothing_is_held_by_what_nobody_uses(written: tuple[LocalObjects, Manifest], cache: ShardCache) -> None:
    for remote in (None, Remote(written[0])):
        before = _descriptors()
        opened = _open(written, remote, cache)
        opened.stored(0, np.array([0]))
        assert _descriptors() == before + 1
        del opened  # no cycle keeps it until a collection
        assert _descriptors() == before
    assert not _mapped(written[0].root)
    assert not _mapped(cache.folder)


def test_more_shards_than_a_process_may_hold_open_are_read(tmp_path: Path, write_data_set: WriteDataSet) -> None:
    form = Form(size=4, encoding="raw")
    pixels = np.random.default_rng(0).integers(0, 256, (150, 4, 4, 3), dtype=np.uint8)
    manifest = write_data_set(tmp_path, pixels, np.zeros(150, dtype=int), forms=[form], shard_size=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_descriptors() + 60, hard))
    try:
        opened = OpenedShards(LocalObjects(tmp_path), manifest.shards("train", form), 10, None)
        for _ in range(2):
            for number in range(150):
                assert bytes(opened.stored(number, np.array([0]))[0]) == pixels[number].tobytes()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_copies_that_were_evicted_are_not_held_on_to(written: tuple[LocalObjects, Manifest], cache: ShardCache) -> None:
    """Or else a node's disk would fill with files that have no name, limit or not."""
    opened = _open(written, Remote(written[0]), cache)
    for number in (0, 1, 2, 0, 1, 2):
        opened.stored(number, np.array([0]))
        maps = _mapped(cache.folder)
        assert len(maps) <= 2
        assert not [one for one in maps if "deleted" in one]


def test_a_copy_in_use_is_not_the_one_that_is_evicted(
    written: tuple[LocalObjects, Manifest], cache: ShardCache
) -> None:
    remote = Remote(written[0])
    opened = _open(written, remote, cache)
    for number in (0, 1, 0, 2, 0):
        opened.stored(number, np.array([3]))
    assert [name for name, _, _ in remote.ranges] == [f"100-raw/train-0000{number}.tar" for number in (0, 1, 2)]


@pytest.mark.parametrize("way", ["mapped", "copied", "ranges"])
def test_threads_may_share_them(written: tuple[LocalObjects, Manifest], cache: ShardCache, way: str) -> None:
    """Also while copies are evicted and given up under each other's hands."""
    remote = None if way == "mapped" else Remote(written[0])
    opened = _open(written, remote, cache if way == "copied" else None)

    def read(seed: int) -> None:
        lot = np.random.default_rng(seed)
        for _ in range(30):
            number, rows = int(lot.integers(3)), lot.integers(0, HELD, 3)
            found = opened.stored(number, rows)
            assert [bytes(one) for one in found] == [PIXELS[HELD * number + row].tobytes() for row in rows]
            if lot.random() < 0.1:
                opened.refused(number, 0, "is tried")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))


def test_what_is_needed_is_fetched_first_and_what_is_ahead_as_far_as_there_is_room(
    written: tuple[LocalObjects, Manifest], cache: ShardCache
) -> None:
    asked: list[list[str]] = []
    cache.prefetch = lambda objects, shards: asked.append([shard.name for shard in shards])  # type: ignore[method-assign]
    opened = _open(written, Remote(written[0]), cache)
    for needed, ahead in (([2], []), ([2], [0, 1]), ([0, 1, 0], [1, 2]), ([], [1]), ([], [])):
        opened.prefetch(needed, ahead)
    assert [[int(name[-5]) for name in names] for names in asked] == [[2], [2, 0], [0, 1], [1], []]
    with pytest.raises(UserError, match=r"take 1048576 bytes for 1 users, too few for the 3 shards"):
        opened.share_cache(3, users=1)
    _open(written, None, cache).share_cache(3, users=1)  # a folder needs no copies
    _open(written, Remote(written[0]), None).share_cache(3, users=1)
    assert len(asked) == 5


@pytest.mark.parametrize("way", ["mapped", "copied", "ranges"])
def test_what_is_missing_is_refused_by_name_and_read_when_it_is_back(
    written: tuple[LocalObjects, Manifest], cache: ShardCache, way: str
) -> None:
    objects = written[0]
    opened = _open(written, None if way == "mapped" else Remote(objects), cache if way == "copied" else None)
    for suffix, told in (("index", "the index 100-raw/train-00001.index"), ("tar", "100-raw/train-00001.tar")):
        path = objects.path(f"100-raw/train-00001.{suffix}")
        path.rename(path.with_suffix(".away"))
        with pytest.raises(UserError, match=told):
            opened.stored(1, np.array([0]))
        path.with_suffix(".away").rename(path)
    assert bytes(opened.stored(1, np.array([0]))[0]) == PIXELS[HELD].tobytes()


def test_a_shard_that_cannot_be_opened_is_refused_by_name(written: tuple[LocalObjects, Manifest]) -> None:
    path = written[0].path("100-raw/train-00001.tar")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"shard 100-raw/train-00001\.tar of .* cannot be opened: Is a directory"):
        _open(written, None, None).stored(1, np.array([0]))
