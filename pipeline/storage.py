"""Where results live: a folder, addressed by relative keys. The verbs are those an object store has too.

``put_new`` is the load-bearing one: it publishes bytes under a key whole or not at all, and only if nobody else
did. Commit logs and results rest on it and on nothing else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError


@dataclass(frozen=True)
class LocalStorage:
    """A folder on a file system that every worker sees."""

    root: Path

    def path(self, key: str) -> Path:
        """The file or folder of ``key``; a key that would leave the root is refused."""
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"storage key {key!r} leads outside {self.root}")
        return path

    def exists(self, key: str) -> bool:
        return self.path(key).exists()

    def list(self, key: str) -> list[str]:
        """Names directly below ``key``, sorted; empty when there is nothing."""
        folder = self.path(key)
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []

    def read(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def put_new(self, key: str, data: bytes) -> bool:
        """Publish ``data`` under ``key`` unless the key exists; True if we did. Readers never see half of it."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            # A hard link fails when the target exists: the file system's own "if none match".
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def put(self, key: str, data: bytes) -> None:
        """Publish ``data`` under ``key``, replacing what is there, at once."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
        temporary.write_bytes(data)
        temporary.replace(path)

    def remove(self, key: str) -> None:
        """Delete a file or folder; nothing happens when it is not there."""
        path = self.path(key)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def open_storage(address: Path | str) -> LocalStorage:
    """The storage at ``address``, a folder that is made when it does not exist."""
    text = str(address)
    if "://" in text or text.startswith("s3:/"):
        raise UserError(f"store {text}: this version keeps its results in a folder; give a path that all workers see")
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
