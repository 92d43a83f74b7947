"""Bytes under names below one address, a folder or a prefix of an S3 bucket: the same verbs for both.

Where data sets and their sources lie, and what ``storage`` keeps results in. Nothing here knows what the bytes mean;
``s3`` holds the other half, the only one that needs boto3.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.errors import UserError
from pipeline.inside import leads_elsewhere

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.part")
_ADDRESS = re.compile(r"s3://([A-Za-z0-9._-]+)(?:/(.*))?", re.DOTALL)


class MissingObject(UserError):  # noqa: N818 - it states what happened
    """There is no object of that name; the message says where it was looked for."""


class StoreError(UserError):
    """The store did not do what was asked, however often; the message names object, attempts and reason."""


class Objects(Protocol):
    """Objects below one address. Names are relative to it, with ``/`` between their parts; none can lead outside.

    Every verb raises MissingObject for what is not there (where it does not say otherwise), StoreError when a store
    kept failing, and UserError for everything else a person must change: one sentence each, at once.
    May be used by several threads, and pickled: another process opens its own connections.
    """

    @property
    def address(self) -> str:
        """The folder, or ``s3://BUCKET/PREFIX``."""

    def read(self, name: str) -> bytes:
        """The whole object."""

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from byte ``start`` on; UserError when the object ends before."""

    def size(self, name: str) -> int | None:
        """Bytes of the object; None when there is none."""

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """(name, bytes) of every object whose name begins with ``prefix``, sorted; nothing when there is none."""

    def below(self, prefix: str) -> list[str]:
        """The next part of every name that begins with ``prefix/``, sorted: what a folder would show, no temporaries.
        All names where ``prefix`` is empty."""

    def write(self, name: str, data: bytes) -> None:
        """Store ``data``, whole or not at all, replacing what was there."""

    def create(self, name: str, data: bytes) -> bool:
        """Store ``data``, whole or not at all, unless there is such an object; True if it is ours.

        Of any number that ask at once one gets True. ``data`` must hold something of its writer's own (a nonce): where
        an answer was lost, it is by the bytes that a writer knows the object for its own.
        """

    def upload(self, name: str, file: Path) -> None:
        """Store a file's bytes, whole or not at all, replacing what was there. The file may be gone afterwards."""

    def fetch(self, name: str, file: Path) -> None:
        """Copy the whole object to a file that must not exist yet; after an error there is none."""

    def remove(self, name: str) -> None:
        """Delete the object; nothing happens when there is none."""


def open_objects(address: str | Path) -> Objects:
    """The objects below ``address``: a folder, which need not exist yet, or ``s3://BUCKET/PREFIX``.

    Asks no store for anything. Raises UserError for an address that is neither.
    """
    text = str(address)
    if match := _ADDRESS.fullmatch(text):
        from pipeline.s3 import S3Objects

        bucket, prefix = match[1], (match[2] or "").strip("/")
        if prefix:
            check_name(prefix, f"s3://{bucket}")
        return S3Objects(bucket, prefix)
    if "://" in text or text.startswith("s3:"):
        raise UserError(f"{text} is no address of data; give a folder or s3://BUCKET/PREFIX")
    try:
        root = Path(text).expanduser().absolute()
    except RuntimeError as error:  # ~ of somebody who is not there
        raise UserError(f"{text} is no folder: {error}") from error
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file; give a folder or s3://BUCKET/PREFIX")
    return LocalObjects(root)


def check_name(name: str, address: str) -> None:
    """Refuse a name that is empty, absolute or leads outside ``address`` (names come from manifests and archives)."""
    if leads_elsewhere(name):
        raise UserError(f"{name!r} is not the name of an object below {address}: it is empty or leads elsewhere")


def ends_early(name: str, address: str, start: int, length: int) -> UserError:
    """The refusal of a range that an object does not have."""
    return UserError(f"{address}/{name} ends before byte {start + length}, up to which it was to be read; was it cut?")


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that did not exist, to be filled; after an error it does not exist again."""
    with path.open("xb") as file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise


@dataclass(frozen=True)
class LocalObjects:
    """Files below a folder. Links are followed: they are the user's own, while names may come from anybody."""

    root: Path

    @property
    def address(self) -> str:
        return str(self.root)

    def path(self, name: str) -> Path:
        """The file that holds the object, there or not, to be mapped instead of read."""
        check_name(name, self.address)
        return self.root / name

    def read(self, name: str) -> bytes:
        with self._told(name, "read"):
            return self.path(name).read_bytes()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        assert min(start, length) >= 0, f"{length} bytes from {start} on"
        with self._told(name, "read"), self.path(name).open("rb") as file:
            file.seek(start)
            data = file.read(length)
        if len(data) < length:
            raise ends_early(name, self.address, start, length)
        return data

    def size(self, name: str) -> int | None:
        try:
            with self._told(name, "read"):
                path = self.path(name)
                return None if path.is_dir() else path.stat().st_size
        except MissingObject:
            return None

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        folder = prefix.rpartition("/")[0]
        if folder:
            check_name(folder, self.address)
        start = self.root / folder
        with self._told(folder, "listed"):
            found = list(_files(start, f"{folder}/" if folder else "", ())) if start.is_dir() else []
        yield from sorted(one for one in found if one[0].startswith(prefix))

    def below(self, prefix: str) -> list[str]:
        folder = self.path(prefix) if prefix else self.root
        with self._told(prefix, "listed"):
            found = os.listdir(folder) if folder.is_dir() else []
        return sorted(name for name in found if not _TEMPORARY.fullmatch(name))

    def write(self, name: str, data: bytes) -> None:
        self._publish(name, lambda file: file.write(data))

    def create(self, name: str, data: bytes) -> bool:
        path = self.path(name)
        with self._told(name, "written"), self._unnamed(path, lambda file: file.write(data)) as temporary:
            try:
                # A link fails when the target exists: the file system's own "if none match".
                os.link(temporary, path)
            except FileExistsError:
                return False
        return True

    def upload(self, name: str, file: Path) -> None:
        path = self.path(name)
        with self._told(name, "written"), file.open("rb") as source:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.stat().st_dev == file.stat().st_dev:
                os.fsync(source.fileno())
                file.replace(path)
            else:  # a file cannot be renamed to another file system
                self._publish(name, lambda target: shutil.copyfileobj(source, target, 1 << 20))

    def fetch(self, name: str, file: Path) -> None:
        with self._told(name, "read"), self.path(name).open("rb") as source, new_file(file) as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def remove(self, name: str) -> None:
        with self._told(name, "removed"):
            self.path(name).unlink(missing_ok=True)

    def _publish(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        """Bytes get their name by rename, after they are on the disk: no reader and no power cut sees half of them."""
        path = self.path(name)
        with self._told(name, "written"), self._unnamed(path, fill) as temporary:
            temporary.replace(path)

    @contextmanager
    def _unnamed(self, path: Path, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
        """A file beside ``path`` that holds all that ``fill`` writes, on the disk; gone after the block."""
        temporary = path.parent / f".{uuid.uuid4().hex}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _told(self, name: str, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            absent = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
            if absent and verb == "read":
                raise MissingObject(f"{self.address}/{name} is not there") from error
            raise UserError(f"{self.address}/{name} cannot be {verb}: {error.strerror or error}") from error


def _files(folder: Path, below: str, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """(name, bytes) of the regular files in a folder, in any order, but for temporaries of a write."""
    real = os.path.realpath(folder)
    if real in above:
        raise UserError(f"{folder} is a link to a folder that it lies in; remove the link")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(Path(entry.path), f"{below}{entry.name}/", (*above, real))
            elif entry.is_file() and not _TEMPORARY.fullmatch(entry.name):
                yield below + entry.name, entry.stat().st_size
