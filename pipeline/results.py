"""A result that a node has stored: what it says of itself, and its files, fetched when they are asked for.

Results are handed on as places. A folder is one, and so is a commit in a storage, which may lie in a bucket: whoever
needs its files, on whichever machine, fetches them there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.commits import CommitLog, Entry


class Committed(NamedTuple):
    """A commit, whose files are fetched when they are asked for; ``log`` is where ``entry`` stands."""

    log: CommitLog
    entry: Entry


Place = Path | str | Committed  # a folder, or what is fetched into one


@dataclass(frozen=True)
class Result:
    """A stored result: where its files are, the function's summary and how long it took to compute."""

    place: Place
    summary: Mapping[str, Any]
    seconds: float
    reused: bool

    @property
    def folder(self) -> Path:
        """A folder of this machine with all of its files. Raises Damaged."""
        return folder_of(self.place)

    def part(self, *names: str) -> Path:
        """A folder of this machine with those of its files that are called so; no others are fetched. Raises
        Damaged."""
        return self.place.log.fetch(self.place.entry, names) if isinstance(self.place, Committed) else Path(self.place)

    def file(self, name: str) -> Path:
        """One of its files on this machine, there or not. Raises Damaged."""
        return self.part(name) / name

    @property
    def address(self) -> str:
        """Where its files lie in the storage: a folder, or ``s3://BUCKET/...``."""
        if not isinstance(self.place, Committed):
            return str(self.place)
        log, entry = self.place
        return f"{log.storage.address}/{log.prefix}/{entry.folder}"

    @property
    def revision(self) -> str:
        """That of the source tree which computed it."""
        return self.place.entry.info.get("revision", "unknown") if isinstance(self.place, Committed) else "unknown"

    @property
    def key(self) -> str:
        """What its node is called in the storage, less the folder of all results."""
        place = self.place
        return place.log.prefix.rpartition("/")[2] if isinstance(place, Committed) else Path(place).parent.name


@dataclass(frozen=True)
class Folders(Mapping[str, Path]):
    """The folders of results by the role they play, each fetched when it is asked for, on the machine that asks.

    May be pickled: another machine fetches its own. KeyError for a role that nothing plays.
    """

    results: Mapping[str, Result]

    def __getitem__(self, role: str) -> Path:
        return self.results[role].folder

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __contains__(self, role: object) -> bool:
        return role in self.results  # without fetching it


def place_of(inputs: Mapping[str, Path], role: str) -> Place:
    """Where an input is, for another machine to fetch it: see ``folder_of``."""
    return inputs.results[role].place if isinstance(inputs, Folders) else inputs[role]


def folder_of(place: Place) -> Path:
    """A folder of this machine with the files at ``place``. Raises Damaged."""
    return place.log.fetch(place.entry) if isinstance(place, Committed) else Path(place)
