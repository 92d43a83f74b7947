"""The folder of the shard cache: claims, room and publishing, at the moments where two processes meet."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.cache_folder import CacheFolder

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)
SIZE = 10_000


def fill(files: CacheFolder, sha256: str, byte: bytes) -> None:
    with files.claim(sha256) as part:
        assert part is not None
        assert files.make_room(part, SIZE)
        os.pwrite(part.fileno(), byte * SIZE, 0)
        files.publish(part, sha256)


def test_a_claim_is_one_s_own_and_leaves_nothing_when_it_is_given_up(tmp_path: Path) -> None:
    mine, yours = CacheFolder(tmp_path, 2 * SIZE), CacheFolder(tmp_path, 2 * SIZE)
    with mine.claim(ONE) as part:
        assert part is not None
        assert mine.make_room(part, SIZE)
        with yours.claim(ONE) as other:
            assert other is None
        with yours.claim(TWO) as other:
            assert other is not None
        assert yours.find(ONE, SIZE) is None
    assert os.listdir(tmp_path) == [".lock"]


def test_room_that_is_taken_is_waited_for_and_evicts_nothing(tmp_path: Path) -> None:
    files = CacheFolder(tmp_path, 2 * SIZE)
    fill(files, ONE, b"1")
    with files.claim(TWO) as two, files.claim(THREE) as three:
        assert two is not None
        assert three is not None
        assert files.make_room(two, SIZE)
        assert files.find(ONE, SIZE) is not None
        assert files.make_room(three, SIZE)
        assert files.find(ONE, SIZE) is None
        with files.claim(ONE) as one:
            assert one is not None
            assert not files.make_room(one, SIZE)


@pytest.mark.parametrize("meanwhile", ["published", "given up"])
def test_between_opening_and_locking_a_claim_may_be_lost(
    meanwhile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who comes late holds the lock on a file that is no part any more, and must keep its hands off it."""
    files = CacheFolder(tmp_path, SIZE)
    flock: Callable[..., Any] = fcntl.flock
    with ExitStack() as first:
        part = first.enter_context(files.claim(ONE))
        assert part is not None
        assert files.make_room(part, SIZE)
        os.pwrite(part.fileno(), b"1" * SIZE, 0)

        def late(*arguments: Any) -> None:
            monkeypatch.setattr(fcntl, "flock", flock)
            if meanwhile == "published":
                files.publish(part, ONE)
            first.close()
            flock(*arguments)

        monkeypatch.setattr(fcntl, "flock", late)
        with files.claim(ONE) as other:
            assert other is None
    view = files.find(ONE, SIZE)
    if meanwhile == "published":
        assert view is not None
        assert view[:] == b"1" * SIZE
    else:
        assert view is None
        assert os.listdir(tmp_path) == [".lock"]


def test_a_name_that_somebody_else_has_taken_is_not_published_over(tmp_path: Path) -> None:
    files = CacheFolder(tmp_path, 2 * SIZE)
    with files.claim(ONE) as part:
        assert part is not None
        assert files.make_room(part, SIZE)
        (tmp_path / f"{ONE}.part").unlink()  # somebody empties the folder, and the next one fetches
        with files.claim(ONE) as other:
            assert other is not None
            files.publish(part, ONE)
            assert files.find(ONE, SIZE) is None
            assert (tmp_path / f"{ONE}.part").exists()
        fill(files, ONE, b"1")
    assert (view := files.find(ONE, SIZE)) is not None
    assert view[:] == b"1" * SIZE
