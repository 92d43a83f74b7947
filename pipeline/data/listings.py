"""What a source holds: of every file its name and where its bytes lie. Words only; nothing is opened here.

A listing of ImageNet is 1.3 million of these, so they are plain tuples, and names that repeat are shared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pipeline.data.manifest import SplitName

LARGEST_FILE = 256 << 20  # bytes; more is no photograph, and one file at a time must fit into memory
IMAGE_SUFFIXES = frozenset(["jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "gif", "tif", "tiff", "npy"])
_SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_SPLIT_WORDS |= {"test": "test", "testing": "test"}
TEST_LEFT_OUT = "test, and there is val"
REPLACED = "replaced by a later file of the same path"

# Bytes gone through, and bytes in all; each pass (decompressing, the headers, those of inner tars) counts from 0.
Progress = Callable[[int, int], None]


class Listed(NamedTuple):
    """A file of a source: its path (``class/file``, ``/`` between the parts) and where its bytes lie.

    ``where`` is the name, below the source's address, of the object that holds it: the file itself or an archive.
    Its bytes are the ``length`` from ``offset`` on. ``split`` and ``label`` (the class's name) are given only where
    the source itself says them; else they are read off the path (`pipeline.data.arranging`).
    """

    name: str
    where: str
    offset: int
    length: int
    split: SplitName | None = None
    label: str | None = None


class Listing(NamedTuple):
    """All files of a source, sorted by name, what was left out of it with the reason, and the address of both."""

    files: list[Listed]
    left_out: list[tuple[str, str]]
    address: str


class Collector:
    """Gathers files as they are met. Of several files of one path the last is the file, as unpacking would have it,
    and the earlier ones are left out with a reason."""

    def __init__(self) -> None:
        self._files: dict[str, Listed] = {}
        self._left_out: list[tuple[str, str]] = []

    def add(self, file: Listed, reason: str = "") -> None:
        """Take a file in, or leave it out where there is a reason to."""
        if self._files.pop(file.name, None) is not None:
            self._left_out.append((file.name, REPLACED))
        if reason:
            self._left_out.append((file.name, reason))
        else:
            self._files[file.name] = file

    def listing(self, address: str) -> Listing:
        return Listing(sorted(self._files.values()), sorted(self._left_out), address)


def reason_to_leave(name: str, length: int) -> str:
    """Why a regular file cannot be an image; empty when it may be one, or an archive of them."""
    if name.startswith(".") or "/." in name:
        return "hidden file"
    if length > LARGEST_FILE and suffix_of(name) != "tar":
        return f"larger than {LARGEST_FILE >> 20} MiB"
    return ""


def holds_archives(names: Iterable[str]) -> bool:
    """Whether files are archives to look into (tars of classes, shards): some are .tar and none is an image, by its
    suffix."""
    suffixes = {suffix_of(name) for name in names}
    return "tar" in suffixes and not suffixes & IMAGE_SUFFIXES


def read_splits(paths: Iterable[str]) -> tuple[dict[str, SplitName | None], list[str]]:
    """The split that each archive's path says, if any, and the paths that are left out: test, where there is val.

    Alone, ``test`` is what is held out, so val.
    """
    said = {path: _split_in(path) for path in paths}
    names: dict[str | None, SplitName] = {"train": "train", "val": "val"}
    if "val" not in said.values():
        names["test"] = "val"
    tests = [path for path, split in said.items() if split == "test" and "test" not in names]
    return {path: names.get(split) for path, split in said.items() if split in (None, *names)}, tests


def _split_in(path: str) -> str | None:
    """``train``, ``val`` or ``test`` where a path says so in a word: of the file's name, else of its nearest folder.

    ``imagenet-train-0001.tar`` and ``validation/0001.tar`` do; ``trainers/0001.tar`` does not, and a name with two
    of the words says nothing.
    """
    for part in reversed(path.lower().split("/")):
        found = {_SPLIT_WORDS[word] for word in re.findall("[a-z]+", part) if word in _SPLIT_WORDS}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def printable(name: str) -> str:
    """Names may hold bytes that are no UTF-8; a manifest may not."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
    return name


def suffix_of(name: str) -> str:
    """The end of a file's name after its last dot, in lower case: ``jpeg`` of ``a/b.c.JPEG``; empty without one."""
    _, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return suffix.lower() if dot else ""
