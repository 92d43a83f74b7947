"""Storage: publishing is all or nothing, and only once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.storage import LocalStorage, open_storage


def test_put_new_has_one_winner_among_racing_writers(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "store")
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


def test_put_replaces_and_remove_forgets(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("a/b", b"one")
    storage.put("a/b", b"two")
    assert storage.read("a/b") == b"two"
    storage.remove("a")
    storage.remove("a")
    assert not storage.exists("a")
    assert storage.list("a") == []


def test_keys_cannot_leave_the_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leads outside"):
        LocalStorage(tmp_path / "store").put("../other", b"")


def test_a_store_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        open_storage(tmp_path / "file")
    for hopeless in (tmp_path / "file" / "store", "~nobody-of-this-name/store", "x" * 300):
        with pytest.raises(UserError, match=r"cannot be made: .*; give a folder that can be written"):
            open_storage(hopeless)
    with pytest.raises(UserError, match="path that all workers see"):
        open_storage("s3://bucket/prefix")
