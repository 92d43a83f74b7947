"""Whether a data set is what its manifest says, byte by byte: behind ``rayfall ingest --verify``.

Four things are compared that were written at different moments: the manifest, the index objects, the shards' sha256,
and the members that a walk over the tar's headers finds. Reading for training checks less (the size of a shard, the
sha256 of an index, the checksum of every example that is read), which finds the same damage when it is met.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data.indices import ShardIndex, check_index, checksum_of
from pipeline.data.manifest import SPLITS, SUFFIXES, Form, Manifest, Shard, is_ours, load_manifest
from pipeline.data.scratch import scratch_folder
from pipeline.data.shards import Member, members
from pipeline.errors import UserError
from pipeline.fan_out import FanOut, in_turn
from pipeline.objects import LocalObjects, MissingObject, Objects, StoreError, open_objects

Progress = Callable[[int, int], None]  # shards done, and of how many


class Verified(NamedTuple):
    """What was looked at, and a sentence for each thing that is wrong: first what nobody lists, then shard by shard."""

    manifest: Manifest
    shards: int
    bytes: int
    faults: list[str]


class _Check(NamedTuple):
    """One shard to look at: all that a task needs to know."""

    objects: Objects
    form: Form
    shard: Shard
    classes: int


def verify(address: str | Path, *, fan_out: FanOut = in_turn, progress: Progress | None = None) -> Verified:
    """Read every byte of a data set and say what is wrong with it; an empty list means nothing is.

    Raises UserError only where nothing can be verified: without a manifest, or with an altered one.
    """
    objects = open_objects(address)
    manifest = load_manifest(address)
    classes = len(manifest.classes)
    todo = [
        _Check(objects, form, shard, classes)
        for form in manifest.forms
        for split in SPLITS
        for shard in manifest.shards(split, form)
    ]
    listed = {name for check in todo for name in (check.shard.name, check.shard.index_name)}
    faults = [
        f"{name} is not listed by the manifest; remove it"
        for name, _ in objects.names()
        if is_ours(name) and name not in listed
    ]
    with closing(fan_out(_fault_of, todo)) as found:
        for done, fault in enumerate(found, 1):
            faults += [] if fault is None else [fault]
            if progress is not None:
                progress(done, len(todo))
    return Verified(manifest, len(todo), sum(check.shard.bytes for check in todo), faults)


def _fault_of(check: _Check) -> str | None:
    try:
        verify_shard(*check)
    except StoreError:  # says nothing about the shard
        raise
    except UserError as error:
        return str(error)
    return None


def check_complete(address: str | Path, manifest: Manifest) -> None:
    """Raise UserError naming the first shard or index that is missing, or shard of another size. Reads no shard."""
    objects = open_objects(address)
    sizes = dict(objects.names())
    for form in manifest.forms:
        for shard in (shard for split in SPLITS for shard in manifest.shards(split, form)):
            for name in (shard.name, shard.index_name):
                if name not in sizes:
                    raise UserError(f"{name} of the data set {address} is missing; ingest the data set again")
            if sizes[shard.name] != shard.bytes:
                raise UserError(
                    f"shard {shard.name} of the data set {address} has {sizes[shard.name]} bytes instead of the "
                    f"{shard.bytes} in the manifest; ingest the data set again"
                )


def verify_shard(objects: Objects, form: Form, shard: Shard, classes: int) -> None:
    """Read a shard and its index whole. Raises UserError naming the first thing that is wrong with it."""
    try:
        index = check_index(objects.read(shard.index_name), shard, classes)
        size = objects.size(shard.name)
    except MissingObject as error:
        raise UserError(f"{error}; ingest the data set again") from None
    if index.head.shard != shard.name:
        raise UserError(f"the index {shard.index_name} is that of {index.head.shard}")
    if size is None:
        raise UserError(f"shard {objects.address}/{shard.name} is not there; ingest the data set again")
    if size != shard.bytes:
        raise UserError(f"shard {shard.name} has {size} bytes instead of the {shard.bytes} in the manifest")
    with _local_file(objects, shard) as path:
        digest, view = _read(path)
        if digest != shard.sha256:
            raise UserError(
                f"shard {shard.name} was altered: its sha256 is not the one in the manifest; "
                f"{_damaged(view, index)} of its {shard.examples} images differ from their checksums"
            )
        pairs = list(members(view, shard.name))
        if len(pairs) != 2 * shard.examples:
            raise UserError(f"shard {shard.name} holds {len(pairs)} members instead of {2 * shard.examples}")
        for row, (image, label) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            _verify_example(view, form, shard, index, row, image, label)


@contextmanager
def _local_file(objects: Objects, shard: Shard) -> Iterator[Path]:
    if isinstance(objects, LocalObjects):
        yield objects.path(shard.name)
        return
    with scratch_folder(Path(tempfile.gettempdir())) as folder:
        objects.fetch(shard.name, folder / "shard")
        yield folder / "shard"


def _read(path: Path) -> tuple[str, memoryview]:
    """The sha256 of a file, read as files are read, so that a bad disk is an error; then its bytes, mapped."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return digest, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; put it back") from None


def _damaged(view: memoryview, index: ShardIndex) -> int:
    spans = zip(index.rows["offset"].tolist(), index.rows["length"].tolist(), strict=True)
    found = [checksum_of(view[begin : begin + length]) for begin, length in spans]
    return int((np.array(found, dtype=np.uint64) != index.rows["checksum"]).sum())


def _verify_example(
    view: memoryview, form: Form, shard: Shard, index: ShardIndex, row: int, image: Member, label: Member
) -> None:
    if (image.suffix, label.suffix) != (SUFFIXES[form.encoding], "cls") or image.key != label.key:
        raise UserError(f"shard {shard.name}: member {image.key}.{image.suffix} is not followed by {image.key}.cls")
    entry = index.rows[row]
    text = bytes(view[label.offset : label.offset + label.length])
    if text != b"%d" % int(entry["label"]):
        raise UserError(f"shard {shard.name}: {label.key}.cls holds {text[:20]!r}, and its index {entry['label']}")
    begin, end = int(entry["offset"]), int(entry["offset"]) + int(entry["length"])
    if not image.offset <= begin <= end == image.offset + image.length:
        raise UserError(f"shard {shard.name}: its index does not point at {image.key}.{image.suffix}")
    if checksum_of(view[begin:end]) != int(entry["checksum"]):
        raise UserError(f"shard {shard.name}: the checksum of {image.key}.{image.suffix} does not fit")
