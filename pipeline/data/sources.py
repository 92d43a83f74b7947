"""Sources of images as listings: where every file lies, so that any of them can be read at any time, by anybody.

Not a reader of images: names, places and bytes are known here, classes only where the source itself says them. What
cannot be an image (a link, a hidden file, what is too large) is left out with a reason, so that nothing disappears
silently. A source is, on this machine or at ``s3://bucket/prefix``:

- a tree of class folders;
- a tar of one; or of images alone, whose labels stand in a text file (so may a folder be);
- a tar of tars, one for each class, as ImageNet's training images come;
- any of these archives as .tar.gz, decompressed once into a spool folder;
- a folder of WebDataset shards.

Reading order: ``listings`` (the words), ``source_files`` (where a source lies), ``tar_listing``,
``webdataset_source``, ``labels_file``, ``spooling``, ``fingerprints``, and here all of them together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.data.fingerprints import fingerprint_bytes, fingerprint_listing
from pipeline.data.labels_file import apply_labels
from pipeline.data.listings import (
    TEST_LEFT_OUT,
    Collector,
    Listed,
    Listing,
    Progress,
    holds_archives,
    read_splits,
    suffix_of,
)
from pipeline.data.source_files import Entry, Place, locate, walk
from pipeline.data.spooling import GZIP_MAGIC, spool_archive
from pipeline.data.tar_listing import Archive, list_tar
from pipeline.data.webdataset_source import Mapper, are_shards, is_used, list_shards
from pipeline.errors import UserError
from pipeline.objects import Objects, open_objects

__all__ = ["Listed", "Listing", "Mapper", "Progress", "SourceIdentity", "identify", "list_source", "open_reader"]

_SPLIT_STEMS = {"train", "val", "valid", "validation", "test"}


class SourceIdentity(NamedTuple):
    """Which source it is, by content and not by address; how many files a folder holds (None for the other kinds,
    which would have to be listed for it)."""

    kind: Literal["folder", "tar", "shards"]
    name: str
    fingerprint: str
    files: int | None


class SourceReader:
    """The bytes of listed files, in any order. Can be sent to another process; may be used by several threads."""

    def __init__(self, address: str) -> None:
        self._objects: Objects = open_objects(address)

    def read(self, file: Listed) -> bytes:
        """All bytes of a file. Raises UserError where they are not there any more."""
        if file.length == 0:  # S3 answers no request for an empty range
            return b""
        return self._objects.read_range(file.where, file.offset, file.length)


def open_reader(address: str) -> SourceReader:
    """A reader of the files of a listing, by the listing's address."""
    return SourceReader(address)


def identify(source: str | Path, labels: Path | None = None) -> SourceIdentity:
    """Name and fingerprint a source, with the file of its labels if there is one.

    A class tree is known by the paths and sizes of its files, archives and shards by their bytes (beyond 1 GiB by
    samples of them; see `pipeline.data.fingerprints`), shards by their names and class names too. The same on this
    machine and on S3. Raises UserError when there is no source.
    """
    place = locate(source)
    objects = open_objects(place.address)
    files = None
    kind: Literal["folder", "tar", "shards"]
    if place.where:
        kind, fingerprint = "tar", fingerprint_bytes(objects, [(place.where, _size(objects, place))])
    else:
        entries = walk(place.address)
        if are_shards(entries):
            used = [entry for entry in entries if not entry.reason and is_used(entry.name)]
            contents = fingerprint_bytes(objects, [(entry.where, entry.size) for entry in used])
            kind, fingerprint = "shards", _combine(fingerprint_listing(used), contents)
        else:
            kind, fingerprint, files = "folder", fingerprint_listing(entries), len(entries)
    if labels is not None:
        fingerprint = _combine(fingerprint, _digest_of(labels))
    return SourceIdentity(kind, place.name, fingerprint, files)


def list_source(
    source: str | Path,
    *,
    labels: Path | None = None,
    spool: Path | None = None,
    mapper: Mapper = map,
    block: int | None = None,
    progress: Progress | None = None,
) -> Listing:
    """Where every file of a source lies. No image is read, nothing is unpacked but a .tar.gz.

    A folder is one of shards when it holds .tar files, at its top or one level below, and no image (by its suffix);
    a tar is one of tars of classes when it holds .tar files and no image. ``labels`` is a file of lines FILE CLASS
    for images that have no class folders. ``spool`` is the folder for a decompressed .tar.gz. ``mapper`` applies a
    plain function to archives (inner tars, shards) and returns the results in their order, like the built-in map;
    Ray tasks may do the work. ``block`` is how many bytes are read ahead where headers lie close together; without it
    4 MiB on S3 and 64 KiB here.
    Raises UserError, naming the archive and the member, for what is damaged, cut short or contradicts itself.
    """
    place = locate(source)
    entries = [] if place.where else walk(place.address)
    if place.where:
        listing, has_labels = _list_archive(place, spool, mapper, block, progress)
    elif are_shards(entries):
        listing, has_labels = list_shards(place.address, entries, mapper, block, progress), True
    else:
        listing, has_labels = _list_tree(place.address, entries), False
    if labels is None:
        return listing
    if has_labels:
        raise UserError(f"the images of {place.title} have labels of their own; leave the file {labels} away")
    return apply_labels(listing, labels)


def _list_tree(address: str, entries: Sequence[Entry]) -> Listing:
    collector = Collector()
    for name, where, size, reason in entries:
        collector.add(Listed(name, where, 0, size), reason or _not_looked_into(name))
    return collector.listing(address)


def _not_looked_into(name: str) -> str:
    return "an archive among other files, not looked into" if suffix_of(name) == "tar" else ""


def _list_archive(
    place: Place, spool: Path | None, mapper: Mapper, block: int | None, progress: Progress | None
) -> tuple[Listing, bool]:
    """The listing of a tar or of a tar of tars, and whether it says the labels."""
    objects = open_objects(place.address)
    address, where, size = place.address, place.where, _size(objects, place)
    if size >= len(GZIP_MAGIC) and objects.read_range(where, 0, len(GZIP_MAGIC)) == GZIP_MAGIC:
        if spool is None:
            raise UserError(f"the archive {place.title} is compressed; name a spool folder to decompress it into")
        fingerprint = fingerprint_bytes(objects, [(where, size)])
        path = spool_archive(objects, place, size, fingerprint, spool.resolve(), progress)
        address, where, size = str(path.parent), path.name, path.stat().st_size
    outer = list_tar(Archive(address, where, 0, size, place.title, block=block), progress)
    if holds_archives(file.name for file in outer.files):
        return _list_inner(outer, place.title, mapper, block, progress), True
    left_out = [(file.name, reason) for file in outer.files if (reason := _not_looked_into(file.name))]
    files = [file for file in outer.files if not _not_looked_into(file.name)]
    return Listing(files, sorted(outer.left_out + left_out), address), False


def _list_inner(outer: Listing, title: str, mapper: Mapper, block: int | None, progress: Progress | None) -> Listing:
    """The files of all inner tars; the name of each is the label of its files."""
    archives, left_out = _inner_archives(outer, title, block)
    total, done = sum(archive.length for archive in archives), 0
    files: list[Listed] = []
    for archive, inner in zip(archives, mapper(list_tar, archives), strict=True):
        if any(suffix_of(file.name) == "cls" for file in inner.files):
            raise UserError(f"{archive.title} is a shard and not a class; unpack the outer archive into a folder")
        files += inner.files
        left_out += inner.left_out
        done += archive.length
        if progress is not None:
            progress(done, total)
    return Listing(sorted(files), sorted(outer.left_out + left_out), outer.address)


def _inner_archives(outer: Listing, title: str, block: int | None) -> tuple[list[Archive], list[tuple[str, str]]]:
    tars = {file.name[: -len(".tar")]: file for file in outer.files if suffix_of(file.name) == "tar"}
    if {stem.rpartition("/")[2] for stem in tars} <= _SPLIT_STEMS:
        raise UserError(f"the archives in {title} are named like splits and not like classes; unpack it into a folder")
    others = [file.name for file in outer.files if suffix_of(file.name) != "tar"]
    # A class may be called train: only the folders around it say a split.
    folders, tests = read_splits({stem.rpartition("/")[0] for stem in tars})
    archives, left_out = [], [(name, "not an archive, among archives of classes") for name in others]
    for stem, file in tars.items():
        folder, _, label = stem.rpartition("/")
        if folder in tests:
            left_out.append((file.name, TEST_LEFT_OUT))
            continue
        name, place = f"{file.name} in {title}", file[1:4]  # where it lies: object, offset, length
        archives.append(Archive(outer.address, *place, name, f"{stem}/", folders[folder], label, block))
    return archives, left_out


def _size(objects: Objects, place: Place) -> int:
    size = objects.size(place.where)
    if size is None:
        raise UserError(f"the archive {place.title} is not there any more; name one that stays")
    return size


def _combine(*fingerprints: str) -> str:
    return hashlib.sha256("\n".join(fingerprints).encode("ascii")).hexdigest()


def _digest_of(labels: Path) -> str:
    try:
        return hashlib.sha256(labels.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"the labels {labels} cannot be read: {error.strerror}; name a file of lines FILE CLASS"
        ) from None
