"""Where results live: bytes and folders under relative keys, in a folder that every worker sees or in a bucket.

``put_new`` is the load-bearing verb: it publishes bytes under a key whole or not at all, and only if nobody else did.
Commit logs and results rest on it and on nothing else. Folders are filled on this machine and published as a whole; who
needs one has it fetched, which compares what came with the sizes and sha256 that it was published with.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from pipeline.errors import UserError
from pipeline.objects import LocalObjects, Objects


class FileRecord(BaseModel):
    """Size in bytes and sha256 of one published file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: int
    sha256: str


class Damaged(RuntimeError):  # noqa: N818 - it states what happened, as StopIteration does
    """A published file is missing, cut or altered; the message names it."""


class Storage(Protocol):
    """The verbs. ``address`` opens the same storage in another process. Instances may be pickled."""

    @property
    def address(self) -> str:
        """The folder, or ``s3://BUCKET/PREFIX``."""

    @property
    def patience(self) -> float:
        """Seconds between two looks at what other processes write."""

    def exists(self, key: str) -> bool:
        """Whether there are bytes under ``key``, or anything below it."""

    def list(self, key: str) -> list[str]:
        """Names directly below ``key``, sorted; empty when there is nothing."""

    def read(self, key: str) -> bytes:
        """The bytes under ``key``. Raises FileNotFoundError or MissingObject where there are none."""

    def age(self, key: str) -> float | None:
        """Seconds since what is under ``key`` was written, by the storage's clock; None where there is nothing."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Publish ``data`` under ``key`` unless the key exists; True if we did. Readers never see half of it.

        ``data`` holds something of its writer's own, by which it is known where the answer of a store was lost.
        """

    def put(self, key: str, data: bytes) -> None:
        """Publish ``data`` under ``key``, replacing what is there, at once."""

    def tell(self, key: str, data: bytes) -> None:
        """``put`` for what nobody depends on: it takes seconds at most, and raises nothing where the store fails."""

    def remove(self, key: str) -> None:
        """Delete what is under ``key`` and below it; nothing happens when there is nothing."""

    def new_folder(self, key: str) -> Path:
        """A new, empty folder of this machine, to be filled and then published as ``key``."""

    def publish(self, key: str) -> dict[str, FileRecord]:
        """Make the files of a folder from ``new_folder`` outlive this machine; size and sha256 of each by its name."""

    def fault(self, key: str, files: Mapping[str, FileRecord]) -> str | None:
        """What is wrong with the first of the published ``files``, as far as can be seen without fetching them."""

    def fetch(self, key: str, files: Mapping[str, FileRecord]) -> Path:
        """A folder of this machine that holds the published ``files``, whole, for reading. Raises Damaged."""

    def cache_folder(self, name: str) -> Path:
        """A folder for what can be had again, which may not exist yet: of this machine, or that all machines see."""

    def objects(self, key: str) -> Objects:
        """What is below ``key`` as objects."""

    def ray_address(self, key: str) -> str:
        """What is below ``key`` as Ray Train takes it for the place of its own files."""


@dataclass(frozen=True)
class LocalStorage:
    """A folder on a file system that every worker sees."""

    root: Path
    patience: float = 0.25

    @property
    def address(self) -> str:
        return str(self.root)

    def path(self, key: str) -> Path:
        """The file or folder of ``key``; a key that would leave the root is refused."""
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"storage key {key!r} leads outside {self.root}")
        return path

    def exists(self, key: str) -> bool:
        return self.path(key).exists()

    def list(self, key: str) -> list[str]:
        folder = self.path(key)
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []

    def read(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def age(self, key: str) -> float | None:
        try:
            return max(0.0, time.time() - self.path(key).stat().st_mtime)
        except FileNotFoundError:
            return None

    def put_new(self, key: str, data: bytes) -> bool:
        return self.objects("").create(key, data)

    def put(self, key: str, data: bytes) -> None:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
        temporary.write_bytes(data)
        temporary.replace(path)

    def tell(self, key: str, data: bytes) -> None:
        with suppress(OSError):
            self.put(key, data)

    def remove(self, key: str) -> None:
        path = self.path(key)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def new_folder(self, key: str) -> Path:
        path = self.path(key)
        path.mkdir(parents=True)
        return path

    def publish(self, key: str) -> dict[str, FileRecord]:
        return records_of(self.path(key))

    def fault(self, key: str, files: Mapping[str, FileRecord]) -> str | None:
        return first_fault(self.path(key), files)

    def fetch(self, key: str, files: Mapping[str, FileRecord]) -> Path:
        if (fault := self.fault(key, files)) is not None:
            raise Damaged(f"{self.root}/{key}: {fault}")
        return self.path(key)

    def cache_folder(self, name: str) -> Path:
        return self.path(name)

    def objects(self, key: str) -> LocalObjects:
        return LocalObjects(self.path(key))

    def ray_address(self, key: str) -> str:
        return str(self.path(key))


def open_storage(address: Path | str, *, known: bool = False) -> Storage:
    """The storage at ``address``: a folder, which is made when it does not exist, or ``s3://BUCKET/PREFIX``.

    A store that does not answer at first is given up within seconds, for its address is probably wrong; not where it is
    ``known``, and another process has reached it: then this is an outage, and waited for. Raises UserError for what is
    neither. A bucket is not asked for anything.
    """
    text = str(address)
    if "://" in text or text.startswith("s3:/"):
        from pipeline.s3_storage import open_bucket

        return open_bucket(text, known=known)
    try:
        root = Path(address).expanduser().resolve()
        if root.exists() and not root.is_dir():
            raise UserError(f"store {root} is a file; give a folder")
        root.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of somebody who is not there
        told = (isinstance(error, OSError) and error.strerror) or error
        raise UserError(f"store {text} cannot be made: {told}; give a folder that can be written") from error
    return LocalStorage(root)


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def records_of(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file below ``folder``, by its relative name."""
    return {
        str(path.relative_to(folder)): FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def first_fault(folder: Path, files: Mapping[str, FileRecord]) -> str | None:
    """What is wrong with the first file that is missing, cut or altered; None when all are whole."""
    return next((fault for name, record in files.items() if (fault := fault_of(folder / name, name, record))), None)


def fault_of(path: Path, name: str, record: FileRecord) -> str | None:
    """What is wrong with the file at ``path``, published as ``name``; None when it is whole."""
    if not path.is_file():
        return f"{name} is missing"
    status = path.stat()
    if status.st_size != record.bytes:
        return f"{name} has {status.st_size} bytes instead of {record.bytes}"
    if _hashed(path, status.st_ino, status.st_size, status.st_mtime_ns) != record.sha256:
        return f"{name} has another sha256"
    return None


@lru_cache(maxsize=100_000)
def _hashed(path: Path, inode: int, size: int, changed: int) -> str:
    """The sha256 of a file, taken once per process while nobody touches it: results are looked at again and again."""
    del inode, size, changed  # they are what tells one state of the file from another
    return sha256_of(path)
