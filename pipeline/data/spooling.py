"""A compressed archive has no random access: it is unpacked once, as one file in a spool folder, and found there.

Nothing of the archive's content is interpreted here but gzip's own framing and checksum.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from pipeline.data.source_files import Place
from pipeline.errors import UserError
from pipeline.objects import Objects

GZIP_MAGIC = b"\x1f\x8b"
_STRIDE = 8 << 20  # bytes asked for at once


def spool_archive(
    objects: Objects,
    place: Place,
    size: int,
    fingerprint: str,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> Path:
    """The archive ``place`` of ``size`` compressed bytes, decompressed into FOLDER/FINGERPRINT.tar unless it is there.

    Written under another name and renamed once gzip's checksum at the very end was right, so what has its name is
    whole. One process does it, the others on this machine wait for it; a killed one's leftover is overwritten by the
    next. Raises UserError for a damaged archive and for a folder that cannot take it.
    """
    path, part = folder / f"{fingerprint}.tar", folder / f"{fingerprint}.part"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():  # somebody else was at it; this file may even be theirs, under its old name
                part.unlink(missing_ok=True)
                return path
            file.truncate()
            _decompress(objects, place, size, file, progress)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"the archive {place.title} cannot be decompressed into {folder}: {error.strerror or error}; "
            "name a folder with enough space"
        ) from None
    return path


def _decompress(
    objects: Objects,
    place: Place,
    size: int,
    file: io.BufferedRandom,
    progress: Callable[[int, int], None] | None,
) -> None:
    stream = _Stream(objects, place.where, size, progress)
    try:
        with gzip.open(io.BufferedReader(stream, 1 << 20), "rb") as plain:
            shutil.copyfileobj(plain, file, 1 << 20)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        os.ftruncate(file.fileno(), 0)
        raise UserError(f"the archive {place.title} is damaged or no .tar or .tar.gz: {error}; get it again") from None
    except BaseException:
        os.ftruncate(file.fileno(), 0)  # a full disk is not kept full
        raise


class _Stream(io.RawIOBase):
    """An object read from its start to its end."""

    def __init__(self, objects: Objects, name: str, size: int, progress: Callable[[int, int], None] | None) -> None:
        self._objects, self._name, self._size, self._progress = objects, name, size, progress
        self._at, self._ahead = 0, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._ahead and self._at < self._size:
            length = min(_STRIDE, self._size - self._at)
            self._ahead = memoryview(self._objects.read_range(self._name, self._at, length))
            self._at += length
            if self._progress is not None:
                self._progress(self._at, self._size)
        taken = min(len(view), len(self._ahead))
        view[:taken] = self._ahead[:taken]
        self._ahead = self._ahead[taken:]
        return taken
