"""A folder becomes a data set at one moment: claimed, written, then published by its manifest. Knows no
images.

While it is being written the folder holds a marker, which says that the shards in it are ours to replace; a
folder with other files and no marker is never written into.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.data.manifest import (
    MANIFEST_NAME,
    Manifest,
    Source,
    Split,
    SplitName,
    Undecodable,
    load_manifest,
    save_manifest,
)
from pipeline.errors import UserError

MARKER = "INCOMPLETE"
_OURS = re.compile(r"(train|val)-[0-9]{5,}\.tar(\.tmp)?|manifest\.json\.tmp")


class Request(NamedTuple):
    """What a data set is asked to be: two equal requests give the same bytes."""

    kind: str
    name: str
    fingerprint: str
    image_size: int
    resize: str
    numbers: dict[str, int | float]


class Written(NamedTuple):
    """What came out of writing it."""

    classes: tuple[str, ...]
    splits: dict[SplitName, Split]
    lossy: bool = False
    undecodable: tuple[Undecodable, ...] = ()


def publish(dest: Path, request: Request, write: Callable[[], Written]) -> Manifest:
    """Let ``write`` fill DEST with shards, then publish the manifest; a DEST of an equal request is
    returned as is.

    A second process asking for the same DEST waits for the first. Raises UserError when DEST holds a data
    set of another request (naming what differs) or files that are not ours.
    """
    with _claimed(dest):
        if (dest / MANIFEST_NAME).exists():
            manifest = load_manifest(dest)
            _refuse_difference(dest, manifest, request)
        else:
            _clear(dest)
            (dest / MARKER).touch()
            written = write()
            manifest = _describe(request, written)
            save_manifest(dest, manifest)
        (dest / MARKER).unlink(missing_ok=True)
    return manifest


def _describe(request: Request, written: Written) -> Manifest:
    source = {
        "kind": request.kind,
        "name": request.name,
        "lossy": written.lossy,
        "fingerprint": request.fingerprint,
    }
    return Manifest(
        classes=written.classes,
        image_size=request.image_size,
        resize=request.resize,
        source=Source.model_validate(source),
        request=request.numbers,
        splits=written.splits,
        undecodable=written.undecodable,
    ).sealed()


@contextmanager
def _claimed(dest: Path) -> Iterator[None]:
    try:
        dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {dest} for the data set cannot be made: {error.strerror}") from None
    handle = os.open(dest, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks; renames alone keep readers safe there
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and with it the lock


def _clear(dest: Path) -> None:
    """Remove what an interrupted writing left; refuse a folder that holds anything else."""
    ours_to_replace = (dest / MARKER).exists()
    names = sorted(entry.name for entry in dest.iterdir() if entry.name != MARKER)
    foreign = [name for name in names if not (ours_to_replace and _OURS.fullmatch(name))]
    if foreign:
        raise UserError(
            f"{dest} is no data set but holds {foreign[0]!r}, which is not ours; name a new or empty folder"
        )
    for name in names:
        (dest / name).unlink()


def _refuse_difference(dest: Path, found: Manifest, request: Request) -> None:
    pairs: dict[str, tuple[object, object]] = {
        "kind of source": (found.source.kind, request.kind),
        "source": (found.source.name, request.name),
        "image size": (found.image_size, request.image_size),
        "way of resizing": (found.resize, request.resize),
    }
    for name in sorted(found.request.keys() | request.numbers.keys()):
        pairs[name] = (found.request.get(name), request.numbers.get(name))
    different = [f"{name} {there!r} instead of {asked!r}" for name, (there, asked) in pairs.items() if there != asked]
    if not different and found.source.fingerprint != request.fingerprint:
        different = [f"an earlier content of {request.name!r}"]
    if different:
        raise UserError(
            f"{dest} already holds a data set with {', '.join(different)}; name another folder or remove it"
        )
