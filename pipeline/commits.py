"""The log of what exists: a checkpoint or a result is real when its entry is in the log, and not before.

A log is a folder of numbered JSON entries under ``<prefix>/log``. Entry n + 1 is published only if nobody else
published it, so two writers cannot both win. A *commit* names a folder of files with their sizes and sha256; a
*takeover* says that a new owner goes on from here, so that a stale owner who wakes up finds its next number taken
and stops (``OwnershipLost``). Files without an entry do not exist for anybody.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.storage import LocalStorage, sha256_of

log = logging.getLogger(__name__)


class OwnershipLost(RuntimeError):  # noqa: N818 - it states what happened, as StopIteration does
    """Somebody else wrote the entry that was ours to write."""


class FileRecord(BaseModel):
    """Size in bytes and sha256 of one committed file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: int
    sha256: str


class Entry(BaseModel):
    """One line of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: int
    kind: Literal["commit", "takeover"]
    owner: str
    nonce: str
    created: float
    folder: str | None = None
    files: dict[str, FileRecord] = {}
    info: dict[str, Any] = {}


def records_of(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file below ``folder``, by its relative name."""
    return {
        str(path.relative_to(folder)): FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class CommitLog:
    """The log under ``prefix``, seen by one ``owner`` (any unique string). Times come from ``clock``."""

    def __init__(self, storage: LocalStorage, prefix: str, *, owner: str, clock: Any) -> None:
        self.storage = storage
        self.prefix = prefix
        self.owner = owner
        self.clock = clock
        self._next: int | None = None

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        names = self.storage.list(f"{self.prefix}/log")
        return [Entry.model_validate_json(self.storage.read(f"{self.prefix}/log/{name}")) for name in names]

    def new_folder(self, label: str) -> tuple[str, Path]:
        """A fresh place for the files of a commit to be: (name, path). Nothing counts until it is committed."""
        name = f"{label}-{uuid.uuid4().hex[:8]}"
        path = self.storage.path(f"{self.prefix}/{name}")
        path.mkdir(parents=True)
        return name, path

    def take_over(self) -> Entry:
        """Become the owner: from here on only this object's commits are accepted."""
        while True:
            self._next = len(self.entries()) + 1
            try:
                return self._publish("takeover")
            except OwnershipLost:
                continue

    def begin(self) -> None:
        """Fix the number of the next commit now: if anybody else commits before us, ours will collide with it."""
        self._next = len(self.entries()) + 1

    def commit(self, folder: str, info: Mapping[str, Any]) -> Entry:
        """Publish ``folder`` (a name from ``new_folder``, its files complete). Raises OwnershipLost."""
        files = records_of(self.storage.path(f"{self.prefix}/{folder}"))
        return self._publish("commit", folder=folder, files=files, info=dict(info))

    def _publish(self, kind: Literal["commit", "takeover"], **fields: Any) -> Entry:
        number = self._next if self._next is not None else len(self.entries()) + 1
        entry = Entry(
            number=number, kind=kind, owner=self.owner, nonce=uuid.uuid4().hex, created=self.clock(), **fields
        )
        data = entry.model_dump_json(indent=1).encode()
        if not self.storage.put_new(f"{self.prefix}/log/{number:08d}.json", data):
            winner = self.entries()[number - 1]
            raise OwnershipLost(
                f"{self.prefix}: entry {number} was written by {winner.owner}; this process no longer owns the run"
            )
        self._next = number + 1
        return entry

    def latest_whole(self, accept: Callable[[Entry], bool] = lambda entry: True) -> tuple[Entry, Path] | None:
        """The newest accepted commit whose files all have the recorded size and hash, and its folder; else None.

        A commit that fails the check is passed over with a warning that names the file.
        """
        return next(self.whole(accept), None)

    def whole(self, accept: Callable[[Entry], bool]) -> Iterator[tuple[Entry, Path]]:
        """All accepted commits whose files are whole, newest first, each with its folder; see ``latest_whole``."""
        for entry in reversed(self.entries()):
            if entry.kind != "commit" or not accept(entry):
                continue
            folder = self.storage.path(f"{self.prefix}/{entry.folder}")
            if (fault := first_fault(folder, entry.files)) is None:
                yield entry, folder
            else:
                log.warning(
                    "%s: commit %d is damaged (%s); going back to an earlier one", self.prefix, entry.number, fault
                )

    def prune(self, keep: int) -> None:
        """Delete the files of all but the newest ``keep`` commits and those marked ``final``, and uncommitted folders.

        Commits that are ``kept`` under a name are not counted among these: of each name the newest stays. Entries stay:
        the log remembers what was. Only an owner may call this.
        """
        commits = [entry for entry in self.entries() if entry.kind == "commit"]
        named = {entry.info["kept"]: entry.folder for entry in commits if "kept" in entry.info}
        others = [entry for entry in commits if "kept" not in entry.info]
        kept = {*named.values(), *(entry.folder for entry in others if entry.info.get("final"))}
        kept |= {entry.folder for entry in others[-keep:]}
        for name in self.storage.list(self.prefix):
            if name != "log" and name not in kept:
                self.storage.remove(f"{self.prefix}/{name}")


def first_fault(folder: Path, files: Mapping[str, FileRecord]) -> str | None:
    """What is wrong with the first file that is missing, cut or altered; None when all are whole."""
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != record.bytes:
            return f"{name} has {path.stat().st_size} bytes instead of {record.bytes}"
        status = path.stat()
        if _hashed(path, status.st_ino, status.st_size, status.st_mtime_ns) != record.sha256:
            return f"{name} has another sha256"
    return None


@lru_cache(maxsize=100_000)
def _hashed(path: Path, inode: int, size: int, changed: int) -> str:
    """The sha256 of a file, taken once per process while nobody touches it: results are looked at again and again."""
    del inode, size, changed  # they are what tells one state of the file from another
    return sha256_of(path)
