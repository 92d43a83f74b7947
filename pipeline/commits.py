"""The log of what exists: a checkpoint or a result is real when its entry is in the log, and not before.

A log is a folder of numbered JSON entries under ``<prefix>/log``. Entry n + 1 is published only if nobody else
published it, so two writers cannot both win. A *commit* names a folder of files with their sizes and sha256; a
*takeover* says that a new owner goes on from here, so that a stale owner who wakes up finds its next number taken
and stops (``OwnershipLost``). Files without an entry do not exist for anybody.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import UserError
from pipeline.inside import InsideName
from pipeline.storage import Damaged, FileRecord, Storage

KEEP = 2  # newest commits of a training whose files stay; finals always do

log = logging.getLogger(__name__)


class OwnershipLost(RuntimeError):  # noqa: N818 - it states what happened, as StopIteration does
    """Somebody else wrote the entry that was ours to write."""


class Entry(BaseModel):
    """One line of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: int
    kind: Literal["commit", "takeover"]
    owner: str
    nonce: str
    created: float
    folder: InsideName | None = None
    files: dict[InsideName, FileRecord] = {}
    info: dict[str, Any] = {}


def _name_of(number: int) -> str:
    """The file of an entry; the names of all are sorted as their numbers."""
    return f"{number:08d}.json"


class CommitLog:
    """The log under ``prefix``, seen by one ``owner`` (any unique string). Times come from ``clock``."""

    def __init__(self, storage: Storage, prefix: str, *, owner: str, clock: Any) -> None:
        self.storage = storage
        self.prefix = prefix
        self.owner = owner
        self.clock = clock
        self._next: int | None = None
        self._read: dict[str, Entry] = {}

    def entries(self) -> list[Entry]:
        """All entries, oldest first. Raises UserError where one is altered or missing: nothing is guessed, since what
        is not seen would be committed anew, or an older checkpoint be taken for the newest."""
        found = [self._entry(name) for name in self.storage.list(f"{self.prefix}/log")]
        for number, entry in enumerate(found, start=1):
            if entry.number != number:
                raise self._altered(f"{self.prefix}/log/{_name_of(number)}", "it is gone")
        return found

    def _entry(self, name: str) -> Entry:
        """An entry never changes, so it is read once. Raises UserError for one that is not as it was written."""
        if name not in self._read:
            key = f"{self.prefix}/log/{name}"
            try:
                entry = Entry.model_validate_json(self.storage.read(key))
            except ValidationError as error:
                raise self._altered(key, "it is not what was written") from error
            if name != _name_of(entry.number):
                raise self._altered(key, f"it says that it is entry {entry.number}")
            self._read[name] = entry
        return self._read[name]

    def newest(self) -> Entry | None:
        """The newest commit by its entry; whether its files are whole is not looked at."""
        read = map(self._entry, reversed(self.storage.list(f"{self.prefix}/log")))
        return next((entry for entry in read if entry.kind == "commit"), None)

    def _altered(self, key: str, told: str) -> UserError:
        return UserError(
            f"{self.storage.address}/{key}, an entry of a commit log, was cut or altered: {told}; put it back from a "
            f"backup, or remove {self.storage.address}/{self.prefix} to have all of it computed again"
        )

    def new_folder(self, label: str) -> tuple[str, Path]:
        """A fresh place for the files of a commit to be: (name, path). Nothing counts until it is committed."""
        name = f"{label}-{uuid.uuid4().hex[:8]}"
        return name, self.storage.new_folder(f"{self.prefix}/{name}")

    @contextmanager
    def filling(self, label: str) -> Iterator[tuple[str, Path]]:
        """``new_folder`` for the block to fill. Removed where it fails: room on a full disk, for the next try."""
        name, folder = self.new_folder(label)
        try:
            yield name, folder
        except BaseException:
            self.storage.remove(f"{self.prefix}/{name}")
            raise

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
        files = self.storage.publish(f"{self.prefix}/{folder}")
        return self._publish("commit", folder=folder, files=files, info=dict(info))

    def _publish(self, kind: Literal["commit", "takeover"], **fields: Any) -> Entry:
        number = self._next if self._next is not None else len(self.entries()) + 1
        entry = Entry(
            number=number, kind=kind, owner=self.owner, nonce=uuid.uuid4().hex, created=self.clock(), **fields
        )
        data = entry.model_dump_json(indent=1).encode()
        if not self.storage.put_new(f"{self.prefix}/log/{_name_of(number)}", data):
            winner = self.entries()[number - 1]
            raise OwnershipLost(
                f"{self.prefix}: entry {number} was written by {winner.owner}; this process no longer owns the run"
            )
        self._next = number + 1
        return entry

    def latest_whole(
        self, accept: Callable[[Entry], bool] = lambda entry: True, names: Collection[str] | None = None
    ) -> tuple[Entry, Path] | None:
        """The first of ``whole``; None where there is none."""
        return next(self.whole(accept, names), None)

    def whole(
        self, accept: Callable[[Entry], bool] = lambda entry: True, names: Collection[str] | None = None
    ) -> Iterator[tuple[Entry, Path]]:
        """Accepted commits whose files all have the recorded size and hash, each with a folder of this machine that
        holds them, or those in ``names``, newest first; they are fetched as they are asked for.

        A commit that fails the check is passed over with a warning that names the file.
        """
        for entry in self.sound(accept):
            try:
                folder = self.fetch(entry, names)
            except Damaged as damage:
                self._pass_over(entry, str(damage))
            else:
                yield entry, folder

    def sound(self, accept: Callable[[Entry], bool] = lambda entry: True) -> Iterator[Entry]:
        """All accepted commits that nothing is seen to be wrong with before their files are fetched, newest first.

        In a folder that is all there can be; in a bucket sizes are compared, and hashes when a commit is fetched.
        """
        for entry in reversed(self.entries()):
            if entry.kind != "commit" or not accept(entry):
                continue
            if (fault := self.storage.fault(f"{self.prefix}/{entry.folder}", entry.files)) is None:
                yield entry
            else:
                self._pass_over(entry, fault)

    def fetch(self, entry: Entry, names: Collection[str] | None = None) -> Path:
        """A folder of this machine with the files of a commit, whole, or with those in ``names``. Raises Damaged."""
        wanted = {name: record for name, record in entry.files.items() if names is None or name in names}
        return self.storage.fetch(f"{self.prefix}/{entry.folder}", wanted)

    def is_there(self, entry: Entry) -> bool:
        """Whether the files of a commit have not been pruned."""
        return self.storage.fault(f"{self.prefix}/{entry.folder}", entry.files) is None

    def _pass_over(self, entry: Entry, fault: str) -> None:
        log.warning("%s: commit %d is damaged (%s); going back to an earlier one", self.prefix, entry.number, fault)

    def prune(self, keep: int = KEEP) -> None:
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
