"""Shards of a remote data set on this node's disk: fetched once for all its processes, and checked when they come.

Not a store: whatever is here can be fetched again, so a file that is gone, cut or half written is no error. The sha256
of a shard is checked when it arrives, and never again; its size at every open. Bytes that change on the disk
later are found by the checksum of each example, which is the reader's to check; it then calls ``discard``.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import mmap
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.cache_folder import CacheFolder
from pipeline.errors import UserError
from pipeline.objects import Objects, StoreError

PIECE = 32 << 20  # bytes of one read of a store, which memory holds
POLL = 0.02  # seconds between two looks at what another process or thread is fetching
TRIES = 2  # fetches of a shard whose sha256 is wrong: once it may have been the network


class Wanted(NamedTuple):
    """A shard as its manifest lists it: the name of the object, its size in bytes, its sha256 (hex)."""

    name: str
    bytes: int
    sha256: str


class ShardCache:
    """At most ``limit_bytes`` of shards in a folder that all processes of a node may share, each by a cache of its own.

    The limit counts what has a name in the folder: a mapped shard that was evicted stays readable and keeps its room
    on the disk until it is unmapped. ``threads`` threads fetch ahead of need; ``close`` (or ``with``) ends them.
    May be used by several threads, pickled, and used on in a forked process, where nothing is fetched ahead yet.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        *,
        threads: int = 2,
        piece: int = PIECE,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._threads, self._piece, self._sleep = threads, piece, sleep
        self._files = CacheFolder(folder, limit_bytes)
        self._begin()
        os.register_at_fork(after_in_child=functools.partial(_begin_in_child, weakref.ref(self)))

    def _begin(self) -> None:
        self._guard = threading.Lock()
        self._ahead: dict[str, Future[None]] = {}  # by sha256: fetched ahead, or to be, and not opened since
        self._pool: ThreadPoolExecutor | None = None
        self._closing = threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        again = functools.partial(ShardCache, threads=self._threads, piece=self._piece, sleep=self._sleep)
        return again, (self.folder, self.limit_bytes)

    def __enter__(self) -> ShardCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, objects: Objects, name: str, *, bytes: int, sha256: str) -> mmap.mmap:  # noqa: A002
        """The bytes of a shard, mapped read-only; fetched first where this node does not have them.

        They stay readable until the map is closed, whatever becomes of the file. Of all processes that ask at once,
        one fetches and the others wait. Raises UserError naming the shard when its bytes have another sha256 (fetched
        twice), when it is larger than the limit or the disk is full, and what ``objects.read_range`` raises. What a
        fetch ahead of need met is raised here, once.
        """
        with self._guard:
            ahead = self._ahead.pop(sha256, None)
        if ahead is not None and not ahead.cancel():
            with suppress(StoreError):  # the store may be back by now
                ahead.result()
        return self._obtain(objects, Wanted(name, bytes, sha256))

    def prefetch(self, objects: Objects, shards: Iterable[Wanted]) -> None:
        """Fetch shards in the background, in this order; what goes wrong is raised when that shard is opened.

        They take room as any others do: ask for no more than fits beside those in use, or one evicts the other.
        """
        with self._guard:
            assert not self._closing.is_set(), "the cache was closed"
            self._ahead = {
                sha256: future for sha256, future in self._ahead.items() if not future.done() or future.exception()
            }
            self._pool = self._pool or ThreadPoolExecutor(self._threads, thread_name_prefix="shards-ahead")
            for shard in shards:
                if shard.sha256 not in self._ahead:
                    self._ahead[shard.sha256] = self._pool.submit(self._fetch_ahead, objects, shard)

    def discard(self, sha256: str) -> None:
        """Forget a shard whose bytes turned out to have changed on the disk; the next open fetches it again."""
        self._files.discard(sha256)

    def close(self) -> None:
        """End the fetching ahead, after the read that is under way. The files stay, for this node's next process."""
        self._closing.set()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _fetch_ahead(self, objects: Objects, shard: Wanted) -> None:
        self._obtain(objects, shard).close()

    def _obtain(self, objects: Objects, shard: Wanted) -> mmap.mmap:
        assert re.fullmatch(r"[0-9a-f]{64}", shard.sha256), f"sha256 {shard.sha256!r}"
        assert shard.bytes > 0, f"{shard.name} of {shard.bytes} bytes"
        told = f"shard {objects.address}/{shard.name} ({shard.bytes} bytes)"
        if shard.bytes > self.limit_bytes:
            raise UserError(
                f"{told} is larger than the cache {self.folder} may become ({self.limit_bytes} bytes); allow it more"
            )
        with _full_disk_told(told, self.folder):
            while True:
                self._check_open()
                view = self._files.find(shard.sha256, shard.bytes)
                if view is None:
                    view = self._fetch(objects, shard)
                if view is not None:
                    return view
                self._sleep(POLL)

    def _fetch(self, objects: Objects, shard: Wanted) -> mmap.mmap | None:
        """Map a shard after fetching it; None while others do that, or fetch so much that there is no room."""
        with self._files.claim(shard.sha256) as part:
            if part is None:
                return None
            # Somebody may have published it between our look and our claim.
            view = self._files.find(shard.sha256, shard.bytes)
            if view is not None or not self._files.make_room(part, shard.bytes):
                return view
            self._fill(part, objects, shard)
            self._files.publish(part, shard.sha256)
            return mmap.mmap(part.fileno(), 0, access=mmap.ACCESS_READ)

    def _fill(self, part: FileIO, objects: Objects, shard: Wanted) -> None:
        for _ in range(TRIES):
            digest = hashlib.sha256()
            for start in range(0, shard.bytes, self._piece):
                self._check_open()
                data = objects.read_range(shard.name, start, min(self._piece, shard.bytes - start))
                digest.update(data)
                rest = memoryview(data)
                while rest:
                    rest = rest[os.pwrite(part.fileno(), rest, start + len(data) - len(rest)) :]
            if digest.hexdigest() == shard.sha256:
                return
        raise UserError(
            f"shard {objects.address}/{shard.name} was altered: its sha256 is not the one its manifest lists, "
            f"fetched {TRIES} times; ingest the data set again"
        )

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise RuntimeError(f"the cache {self.folder} was closed")


@contextmanager
def _full_disk_told(what: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            told = f"there is no room on the disk of the cache {folder} for {what}"
            raise UserError(f"{told}; free some, or name a cache on another disk") from error
        told = f"the cache {folder} cannot hold {what}: {error.strerror or error}"
        raise UserError(f"{told}; name a folder that can be written") from error


def _begin_in_child(of: weakref.ref[ShardCache]) -> None:
    """A forked process has none of its parent's threads, and must not hold on to its locks."""
    if cache := of():
        cache._files.forget_locks()
        cache._begin()
