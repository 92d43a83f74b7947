"""Existing WebDataset shards as a source: members KEY.jpg (or another image) and KEY.cls, an integer, in any order.

Our own data sets are such shards too. Not the reader that trains: that is `pipeline.data.loading`, which knows its
shards by their manifest; here somebody else's files are taken as they are, and what does not fit is named.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pipeline.data.listings import (
    IMAGE_SUFFIXES,
    TEST_LEFT_OUT,
    Collector,
    Listed,
    Listing,
    Progress,
    holds_archives,
    read_splits,
    suffix_of,
)
from pipeline.data.manifest import MANIFEST_NAME, SplitName, parse_manifest
from pipeline.data.source_files import Entry
from pipeline.data.tar_listing import Archive, ReadAhead, walk_members
from pipeline.errors import UserError
from pipeline.objects import open_objects

CLASSES_NAME = "classes.txt"
Mapper = Callable[[Callable[[Archive], Any], Iterable[Archive]], Iterable[Any]]
_LONGEST_LABEL = 32  # bytes


class Shard(NamedTuple):
    """What one shard holds: its images, the integer label of each, other members counted by their extension, and
    what was left out."""

    files: list[Listed]
    labels: list[int]
    others: dict[str, int]
    left_out: list[tuple[str, str]]


class _Known(NamedTuple):
    """What lies beside shards: class names by label, if any, and the sizes of the shards that belong to the set."""

    classes: Sequence[str] | None
    sizes: dict[str, int] | None


def are_shards(entries: Iterable[Entry]) -> bool:
    """The rule that tells a folder of shards from one of classes: it holds .tar files, at its top or one level below,
    and no image."""
    names = [entry.name for entry in entries if not entry.reason]
    return holds_archives(names) and any(map(_is_shard, names))


def is_used(name: str) -> bool:
    """Whether a file of a folder of shards has a say in what is read."""
    return _is_shard(name) or name in (MANIFEST_NAME, CLASSES_NAME)


def _is_shard(name: str) -> bool:
    return suffix_of(name) == "tar" and name.count("/") <= 1


def list_shards(
    address: str, entries: Sequence[Entry], mapper: Mapper, block: int | None, progress: Progress | None = None
) -> Listing:
    """The images of the shards of a folder; ``mapper`` runs `list_shard` for each, in any process.

    Names are ``shard/key.ext``. Labels are the class names in ``classes`` of the manifest.json beside the shards or
    the lines of classes.txt, else the integers, padded with zeros. Of a data set of ours, the largest form is read.
    Splits are said by the name of the shard or its folder; test shards count as val unless there are val shards.
    Raises UserError naming shard and key for an image without a label, a label without an image, one that is no
    integer or has no class, and naming the shard that our manifest lists and that is missing.
    """
    known = _read_known(address, {entry.name for entry in entries if not entry.reason})
    archives, left_out = _choose(address, entries, known, block)
    total, done = sum(archive.length for archive in archives), 0
    files: list[Listed] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for archive, shard in zip(archives, mapper(list_shard, archives), strict=True):
        files += shard.files
        labels += shard.labels
        others.update(shard.others)
        left_out += shard.left_out
        done += archive.length
        if progress is not None:
            progress(done, total)
    left_out += [(f"*.{suffix}", f"{count} of them, neither image nor label") for suffix, count in others.items()]
    return Listing(sorted(_name_labels(files, labels, known.classes)), sorted(left_out), address)


def _read_known(address: str, names: set[str]) -> _Known:
    objects = open_objects(address)
    if MANIFEST_NAME in names:
        text, where = objects.read(MANIFEST_NAME), f"{address}/{MANIFEST_NAME}"
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where} is not JSON: {error}; mend it, or remove it to go without class names") from None
        if isinstance(fields, dict) and fields.get("format") == 2:
            manifest = parse_manifest(text, where)
            shards = [shard for split in manifest.splits for shard in manifest.shards(split, manifest.forms[0])]
            return _Known(manifest.classes, {shard.name: shard.bytes for shard in shards})
        if isinstance(fields, dict) and "classes" in fields:
            return _Known(_check_classes(fields["classes"], where), None)
    if CLASSES_NAME in names:
        where = f"{address}/{CLASSES_NAME}"
        try:
            lines = objects.read(CLASSES_NAME).decode("utf-8").rstrip().split("\n")
        except UnicodeDecodeError:
            raise UserError(f"{where} is not UTF-8; write one class name per line") from None
        return _Known(_check_classes([line.strip() for line in lines], where), None)
    return _Known(None, None)


def _check_classes(classes: Any, where: str) -> list[str]:
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        raise UserError(f"the classes in {where} are no list of names; give one name for each label")
    if len(set(classes)) < len(classes):
        twice = Counter(classes).most_common(1)[0][0]
        raise UserError(f"{where} names the class {twice!r} twice; class names must be different")
    return classes


def _choose(
    address: str, entries: Sequence[Entry], known: _Known, block: int | None
) -> tuple[list[Archive], list[tuple[str, str]]]:
    """The shards to read, and the rest of the folder with reasons, other files counted by their extension."""
    left_out = [(entry.name, entry.reason) for entry in entries if entry.reason]
    shards = {entry.name: entry for entry in entries if not entry.reason and _is_shard(entry.name)}
    others = Counter(suffix_of(entry.name) for entry in entries if not entry.reason and not is_used(entry.name))
    left_out += [(f"*.{suffix}", f"{count} of them beside the shards, not read") for suffix, count in others.items()]
    if known.sizes is not None:
        left_out += [(name, "not a shard of the largest form in the manifest") for name in shards.keys() - known.sizes]
        for name, size in known.sizes.items():
            if name not in shards or shards[name].size != size:
                found = f"has {shards[name].size} bytes" if name in shards else "is missing"
                raise UserError(
                    f"shard {name} of {address} {found}, where its manifest lists {size} bytes; get it again"
                )
        shards = {name: shards[name] for name in known.sizes}
    splits, tests = read_splits(shards)
    left_out += [(name, TEST_LEFT_OUT) for name in tests]
    return [_archive(address, shards[name], splits[name], block) for name in sorted(splits)], left_out


def _archive(address: str, entry: Entry, split: SplitName | None, block: int | None) -> Archive:
    prefix = entry.name[: -len(".tar")] + "/"
    return Archive(address, entry.where, 0, entry.size, f"{address}/{entry.name}", prefix, split, block=block)


def list_shard(archive: Archive) -> Shard:
    """The images and labels of one shard; labels are read on the way. A plain function: it may run anywhere."""
    reader, collector = ReadAhead(archive), Collector()
    texts: dict[str, bytes] = {}
    for member in walk_members(reader):
        name = archive.prefix + member.name
        collector.add(Listed(name, archive.where, member.offset, member.length, archive.split), member.reason)
        if suffix_of(name) == "cls" and not member.reason:
            texts[name] = reader.read(member.offset, min(member.length, _LONGEST_LABEL + 1))
    return _pair(archive, collector.listing(archive.address), texts)


def _pair(archive: Archive, listing: Listing, texts: dict[str, bytes]) -> Shard:
    images: dict[str, Listed] = {}
    labels: dict[str, int] = {}
    others: Counter[str] = Counter()
    for file in listing.files:
        key, extension = _split_key(file.name)
        if extension == "cls":
            labels[key] = _parse_label(texts[file.name], key, archive)
        elif extension not in IMAGE_SUFFIXES:
            others[extension] += 1
        elif key in images:
            raise UserError(f"shard {archive.title} holds two images of the key {_short(key, archive)}; one is needed")
        else:
            images[key] = file
    excused = {_split_key(name)[0] for name, _ in listing.left_out if suffix_of(name) in IMAGE_SUFFIXES}
    for key in sorted(images.keys() ^ labels.keys()):
        if key in images:
            raise UserError(f"shard {archive.title} holds no {_short(key, archive)}.cls: each image needs its label")
        if key not in excused:
            raise UserError(f"shard {archive.title} holds {_short(key, archive)}.cls without an image of that key")
    return Shard(list(images.values()), [labels[key] for key in images], dict(others), listing.left_out)


def _split_key(name: str) -> tuple[str, str]:
    """As WebDataset does: the key ends at the first dot of the file's name."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _short(key: str, archive: Archive) -> str:
    return key.removeprefix(archive.prefix)


def _parse_label(text: bytes, key: str, archive: Archive) -> int:
    if not re.fullmatch(rb"\s*[0-9]{1,9}\s*", text):
        raise UserError(
            f"shard {archive.title}: {_short(key, archive)}.cls holds {text!r}, "
            "which is not a label; it must be an integer from 0 on"
        )
    return int(text)


def _name_labels(files: list[Listed], labels: list[int], classes: Sequence[str] | None) -> Iterable[Listed]:
    """The files with class names for labels. The strings are shared: there are as many as classes, not as files."""
    width = len(str(max(labels, default=0)))
    padded = {label: f"{label:0{width}d}" for label in set(labels)}
    names = padded if classes is None else dict(enumerate(classes))
    for file, label in zip(files, labels, strict=True):
        if label not in names:
            raise UserError(
                f"{file.name} has the label {label}, and there are only {len(names)} class names; "
                "complete the list of classes beside the shards"
            )
        yield file._replace(label=names[label])
