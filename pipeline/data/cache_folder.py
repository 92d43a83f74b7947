"""The folder of a shard cache: whole files, files on their way, and the room they take. It fetches nothing itself.

A file is named by the sha256 of its bytes. Processes share the folder with nothing but files and locks that the kernel
frees when their holder dies:

    SHA256        a whole shard; its time of modification is the time of its last use
    SHA256.part   a shard on its way. Who holds the lock on this file fills it, then renames it. It has its full size
                  before the first byte comes, so that its room is taken, on the disk and in the count.
                  One that nobody has locked belongs to a process that was killed, and is removed.
    .lock         held for a moment by who changes what is counted: taking room, evicting, renaming

Files of other names are nobody's business here: they are neither counted nor removed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

_WHOLE = re.compile(r"[0-9a-f]{64}")
_ON_ITS_WAY = re.compile(r"[0-9a-f]{64}\.part")


class CacheFolder:
    """At most ``limit_bytes`` of shards below ``path``. Every verb may raise OSError, when the disk is full above all.

    Locks are held by an open file, and a forked process inherits those: ``forget_locks`` has to be called in it, or
    the shard that its parent was fetching stays locked when the parent is killed.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path, self.limit_bytes = path, limit_bytes
        self._locks: set[FileIO] = set()

    def find(self, sha256: str, size: int) -> mmap.mmap | None:
        """Map a whole shard and count that as a use; None when there is none or it has lost its size."""
        try:
            file = FileIO(self.path / sha256)
        except FileNotFoundError:
            return None
        with file:
            if os.fstat(file.fileno()).st_size != size:
                return None
            _mark_used(file)
            # From here on the bytes stay, also when the file is evicted.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @contextmanager
    def claim(self, sha256: str) -> Iterator[FileIO | None]:
        """The right to fetch a shard: the file to fill, or None while somebody else has it.

        Given up on leaving; what has not been published by then is removed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"{sha256}.part"
        with self._locked(path) as part:
            try:
                yield part
            finally:
                if part is not None and _is_named(part, path):
                    path.unlink()

    def make_room(self, part: FileIO, size: int) -> bool:
        """Give a claimed file its size, after evicting what was used longest ago; False while there is no room
        because shards on their way take it."""
        assert size <= self.limit_bytes, f"{size} bytes into {self.limit_bytes}"
        with self._counting():
            part.truncate(0)
            room = self.limit_bytes - size - sum(self._on_their_way())
            if room < 0:
                return False
            for name, held in self._newest_first():
                room -= held
                if room < 0:
                    self.discard(name)
            os.posix_fallocate(part.fileno(), 0, size)
        return True

    def publish(self, part: FileIO, sha256: str) -> None:
        """Give a claimed file, filled with the right bytes, its final name; from now on everybody finds it."""
        _mark_used(part)
        os.fsync(part.fileno())  # a power cut must not leave the name without the bytes
        path = self.path / f"{sha256}.part"
        with self._counting():
            if _is_named(part, path):  # or else somebody has emptied the folder
                path.rename(self.path / sha256)

    def discard(self, sha256: str) -> None:
        """Remove a whole shard; nothing happens when there is none."""
        (self.path / sha256).unlink(missing_ok=True)

    def forget_locks(self) -> None:
        """In a forked process: leave the locks of its parent to the parent."""
        for file in self._locks:
            file.close()
        self._locks.clear()

    def _on_their_way(self) -> Iterator[int]:
        """The bytes that each shard on its way has taken; removes those that nobody is fetching any more."""
        for name in os.listdir(self.path):
            path = self.path / name
            if _ON_ITS_WAY.fullmatch(name):
                with self._locked(path) as abandoned:
                    if abandoned is not None:
                        path.unlink()
                        continue
                with suppress(FileNotFoundError):
                    yield path.stat().st_size

    def _newest_first(self) -> list[tuple[str, int]]:
        """(sha256, bytes) of the whole shards, the one used last first."""
        found: list[tuple[int, str, int]] = []
        for name in os.listdir(self.path):
            if _WHOLE.fullmatch(name):
                with suppress(FileNotFoundError):
                    status = (self.path / name).stat()
                    found.append((status.st_mtime_ns, name, status.st_size))
        return [(name, size) for _, name, size in sorted(found, reverse=True)]

    @contextmanager
    def _counting(self) -> Iterator[None]:
        with self._locked(self.path / ".lock", wait=True):
            yield

    @contextmanager
    def _locked(self, path: Path, *, wait: bool = False) -> Iterator[FileIO | None]:
        """The file, made if need be, while we hold the lock on it and it has that name; None if we do not."""
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
        self._locks.add(file)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            try:
                # Between opening and locking, whoever held the lock may have renamed or removed the file.
                yield file if _is_named(file, path) else None
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough: a map or a forked process keeps it open
        finally:
            self._locks.discard(file)
            file.close()


def _mark_used(file: FileIO) -> None:
    now = time.time_ns()  # the kernel's own stamp is some milliseconds coarse
    os.utime(file.fileno(), ns=(now, now))


def _is_named(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
