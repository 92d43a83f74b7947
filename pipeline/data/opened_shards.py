"""The bytes of the examples of some shards: mapped where they are local or cached, fetched in ranges where not.

What is opened is what is asked for. That a shard has the right size and an index the right sha256 is checked here,
when it is opened; the checksum of an example is the reader's to check (`pipeline.data.loading`), who raises what
`refused` says when it is wrong. May be used by several threads.
"""

from __future__ import annotations

import mmap
import os
import resource
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.cache import ShardCache, Wanted
from pipeline.data.indices import check_index
from pipeline.data.manifest import Shard
from pipeline.errors import UserError
from pipeline.objects import LocalObjects, MissingObject, Objects

Numbers = npt.NDArray[np.int64]
_BLOCK = 512  # bytes of a header of a tar, and what all of it is aligned to
_MOST_OPEN = 1024  # shards at once; more than the windows and lanes of any sensible order
_GAP = 1 << 16  # bytes: two ranges that are nearer than this are fetched as one, rather than asking twice


class Columns(NamedTuple):
    """An index by columns, one value per example: rows of mixed types are slow to get at.

    The stored bytes of an example are those of its shard from ``begins`` to ``ends``.
    """

    begins: Numbers
    ends: Numbers
    labels: npt.NDArray[np.int32]
    checksums: npt.NDArray[np.uint64]


class OpenedShards:
    """The shards of one split in one form, numbered as the manifest lists them, opened when they are first read.

    ``classes`` is how many labels there are. ``cache`` keeps the shards of a remote data set on this node; a folder
    needs none. What was opened stays open until as many others were as a process may hold.
    """

    def __init__(self, objects: Objects, shards: Sequence[Shard], classes: int, cache: ShardCache | None) -> None:
        self._objects, self._shards = objects, shards
        self._cache = None if isinstance(objects, LocalObjects) else cache
        self._room = 0 if self._cache is None else self._cache.limit_bytes
        most = _most_open()
        # Remembered are functions that do not know ``self``, so what nobody uses any more is unmapped at once.
        self.index = lru_cache(most)(partial(_read_index, objects, shards, classes))
        self._file = lru_cache(most)(partial(_map_file, objects, shards)) if isinstance(objects, LocalObjects) else None
        self._copies = None if self._cache is None else _MappedCopies(objects, shards, self._cache, most)

    def stored(self, number: int, rows: Numbers) -> list[memoryview]:
        """The stored bytes of the examples at ``rows`` (R,) of a shard, unchecked.

        Raises UserError naming a shard that is missing or cut short, or whose index is not the manifest's.
        """
        index = self.index(number)
        return self._pieces(number, index.begins[rows], index.ends[rows])

    def key(self, number: int, row: int) -> str:
        """The key of the example at ``row`` of a shard, by the header before its bytes. Errors as ``stored``."""
        at = self.index(number).begins[[row]] // _BLOCK * _BLOCK - _BLOCK  # arrays have a header of their own between
        (header,) = self._pieces(number, at, at + _BLOCK)
        return bytes(header[:100]).rstrip(b"\0").partition(b".")[0].decode("ascii", "replace")

    def _pieces(self, number: int, begins: Numbers, ends: Numbers) -> list[memoryview]:
        """The bytes of a shard from each of ``begins`` to each of ``ends``, (R,)."""
        if self._file is not None:
            whole = self._file(number)
        elif self._copies is not None:
            whole = self._copies.map(number)
        else:
            return self._fetched(self._shards[number], begins, ends)
        return [whole[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]

    def prefetch(self, needed: Sequence[int], ahead: Sequence[int] = ()) -> None:
        """Begin to fetch the shards ``needed`` into the cache, then those ``ahead`` as far as our share of it has room.

        Returns at once.
        """
        if self._cache is None:
            return
        shards = [self._shards[number] for number in dict.fromkeys([*needed, *ahead])]
        fit = int(np.searchsorted(np.cumsum([shard.bytes for shard in shards]), self._room, side="right"))
        self._cache.prefetch(self._objects, [Wanted(shard.name, shard.bytes, shard.sha256) for shard in shards[:fit]])

    def share_cache(self, shards: int, users: int) -> None:
        """Use a ``users``-th of the cache, which is to hold ``shards`` side by side.

        Raises UserError when it cannot: each would be fetched again for every example that is read of it.
        """
        if self._cache is None:
            return
        self._room = self._cache.limit_bytes // users
        need = shards * max(shard.bytes for shard in self._shards)
        if need > self._room:
            raise UserError(
                f"the cache {self._cache.folder} may take {self._cache.limit_bytes} bytes for {users} users, too few "
                f"for the {shards} shards that each reads side by side; allow it {need * users} bytes, or shuffle in "
                "smaller windows"
            )

    def refused(self, number: int, row: int, why: str) -> UserError:
        """What to raise for an example whose bytes are not those that were ingested; ``why`` is what it does or not.

        A cached copy of the shard is removed: the damage may be this disk's, and the next read fetches it again.
        """
        shard = self._shards[number]
        told = f"example {row} (byte {self.index(number).begins[row]}) {why}"
        if self._copies is None:
            where = f"shard {shard.name} of {self._objects.address}"
            return UserError(f"{where}: {told}; put the shard back or ingest the data set again")
        self._copies.discard(number)
        where = f"the copy of shard {shard.name} in the cache {self._copies.cache.folder}"
        return UserError(f"{where}: {told}; the copy was removed, so try again, and have an eye on that disk")

    def _fetched(self, shard: Shard, begins: Numbers, ends: Numbers) -> list[memoryview]:
        """The bytes from each of ``begins`` to each of ``ends``, in as few ranges as the gaps between them allow."""
        order = np.argsort(begins, kind="stable")
        reached = np.maximum.accumulate(ends[order])
        apart = np.flatnonzero(begins[order][1:] - reached[:-1] > _GAP) + 1
        found = [memoryview(b"")] * len(begins)
        for run in np.split(order, apart):
            start, stop = int(begins[run].min()), int(ends[run].max())
            data = memoryview(self._range(shard, start, stop))
            for place in run.tolist():
                found[place] = data[begins[place] - start : ends[place] - start]
        return found

    def _range(self, shard: Shard, start: int, stop: int) -> bytes:
        try:
            return self._objects.read_range(shard.name, start, stop - start)
        except MissingObject:
            raise _missing(f"shard {shard.name}", self._objects) from None


class _MappedCopies:
    """Maps of shards in a cache. Each use is told to the cache, and what it has evicted is let go: a mapped file keeps
    its room on the disk when it has lost its name, beyond what the cache was allowed."""

    def __init__(self, objects: Objects, shards: Sequence[Shard], cache: ShardCache, most: int) -> None:
        self.cache = cache
        self._objects, self._shards, self._most = objects, shards, most
        self._maps: dict[int, _Copy] = {}  # by number, the one opened last at the end

    def map(self, number: int) -> memoryview:
        """The bytes of a shard, fetched when this node does not have them. Raises what `ShardCache.open` raises."""
        found = self._maps.get(number)
        if found is not None and _used(found.path):
            return found.whole
        name, size, sha256, *_ = self._shards[number]
        mapped = self.cache.open(self._objects, name, bytes=size, sha256=sha256)
        new = _Copy(self.cache.folder / sha256, memoryview(mapped))
        held = list(self._maps.items())  # other threads may be changing it
        kept = [(other, copy) for other, copy in held if other != number and copy.path.exists()]
        self._maps = dict([*kept, (number, new)][-self._most :])
        return new.whole

    def discard(self, number: int) -> None:
        """Let a copy go and have the cache remove it."""
        self._maps.pop(number, None)
        self.cache.discard(self._shards[number].sha256)


class _Copy(NamedTuple):
    path: Path
    whole: memoryview


def _used(path: Path) -> bool:
    """Note that a copy was used; False when the cache does not have it any more."""
    now = time.time_ns()  # as exact as what it is compared with: the kernel's own stamp may lie before an earlier one
    try:
        os.utime(path, ns=(now, now))
    except FileNotFoundError:
        return False
    return True


def _most_open() -> int:
    """How many shards may be mapped at once: each holds a file descriptor, of which a process may have as few as 256
    and needs some for other things."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN if allowed == resource.RLIM_INFINITY else min(_MOST_OPEN, allowed // 4 + 1)


def _read_index(objects: Objects, shards: Sequence[Shard], classes: int, number: int) -> Columns:
    shard = shards[number]
    try:
        data = objects.read(shard.index_name)
    except MissingObject:
        raise _missing(f"the index {shard.index_name}", objects) from None
    rows = check_index(data, shard, classes).rows
    begins, labels, checksums = (np.ascontiguousarray(rows[name]) for name in ("offset", "label", "checksum"))
    return Columns(begins, begins + rows["length"], labels, checksums)


def _map_file(objects: LocalObjects, shards: Sequence[Shard], number: int) -> memoryview:
    shard = shards[number]
    try:
        with open(objects.path(shard.name), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size == shard.bytes:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise _missing(f"shard {shard.name}", objects) from None
    except OSError as error:
        raise UserError(f"shard {shard.name} of {objects.address} cannot be opened: {error.strerror}") from error
    raise UserError(
        f"shard {shard.name} of {objects.address} has {size} bytes instead of the {shard.bytes} in the manifest; "
        "put it back or ingest the data set again"
    )


def _missing(what: str, objects: Objects) -> UserError:
    return UserError(f"{what} of {objects.address} is missing; put it back or ingest the data set again")
