"""Where a source lies, and the objects in it: files of a folder, or objects below an S3 prefix. No archive is read.

A folder on this machine is walked here and not in `pipeline.objects`, because links, pipes and devices in it must be
named and left alone; its bytes are read there like all others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.data.listings import printable, reason_to_leave
from pipeline.errors import UserError
from pipeline.objects import open_objects


class Place(NamedTuple):
    """An address (folder or ``s3://bucket/prefix``), and the name of an archive below it; empty for all of it."""

    address: str
    where: str

    @property
    def name(self) -> str:
        """What a person calls it: the last part of its path."""
        return printable(self.where or self.address.rstrip("/").rsplit("/", 1)[-1])

    @property
    def title(self) -> str:
        """How messages name it."""
        return printable(f"{self.address}/{self.where}" if self.where else self.address)


class Entry(NamedTuple):
    """An object of a folder: its printable path, its real one, bytes (-1: no regular file), why it is left out."""

    name: str
    where: str
    size: int
    reason: str


def locate(source: str | Path) -> Place:
    """Find a source. Raises UserError when there is neither a folder nor a file, nor an object below the prefix."""
    text = str(source)
    if text.startswith("s3:/"):
        return _locate_remote("s3://" + text.removeprefix("s3:/").strip("/"))
    path = Path(source).resolve()
    if path.is_dir():
        return Place(str(path), "")
    if not path.is_file():
        raise UserError(
            f"there is no folder and no archive at {printable(text)}; "
            "name a class-per-folder tree, a tar of one or a folder of shards"
        )
    return Place(str(path.parent), path.name)


def _locate_remote(address: str) -> Place:
    parent, _, last = address.rpartition("/")
    if parent != "s3:/" and open_objects(parent).size(last) is not None:
        return Place(parent, last)
    if next(iter(open_objects(address).names()), None) is None:
        raise UserError(f"there is no object at {address} and none below it; name an archive or the prefix of a folder")
    return Place(address, "")


def walk(address: str) -> list[Entry]:
    """Every object of a folder or below a prefix, sorted by printable path; links to folders are not followed.

    Raises UserError for a folder that cannot be read.
    """
    entries = _walk_remote(address) if address.startswith("s3://") else _walk_local(address)
    return sorted(entries)


def _walk_remote(address: str) -> Iterator[Entry]:
    for where, size in open_objects(address).names():
        if not where.endswith("/"):  # an empty object that stands for a folder
            name = printable(where)
            yield Entry(name, where, size, reason_to_leave(name, size))


def _walk_local(folder: str) -> Iterator[Entry]:
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            found = list(os.scandir(os.path.join(folder, prefix)))
        except OSError as error:
            raise UserError(f"the folder {printable(str(error.filename))} cannot be read: {error.strerror}") from None
        for item in found:
            where = prefix + item.name
            if item.is_dir(follow_symlinks=False):
                waiting.append(where + "/")
            else:
                yield _local_entry(item, where)


def _local_entry(item: os.DirEntry[str], where: str) -> Entry:
    name = printable(where)
    size, reason = -1, "not a regular file"  # devices and pipes are not opened
    try:
        if item.is_file():  # a link to a file is read
            size = item.stat().st_size
            reason = reason_to_leave(name, size)
        elif item.is_dir():
            reason = "symbolic link to a folder, not followed"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    return Entry(name, where, size, reason_to_leave(name, 0) or reason)
