"""WebDataset shards: tar files whose members come in pairs KEY.png, KEY.cls. The only reader and writer of
them.

Written as plain ustar with nothing of the machine in it (no times, owners or pax records), so the same
examples give the same bytes on every run, and stock ``webdataset`` reads them. Read back by one pass over
the headers, which refuses by name whatever the writer would not have written.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.manifest import SPLITS, Manifest, Shard, Split, check_size, load_manifest
from pipeline.errors import UserError

Example = tuple[str, bytes, int]  # key, PNG bytes, label

_BLOCK = tarfile.BLOCKSIZE
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
_MEMBER = re.compile(rb"([A-Za-z0-9_-]{1,90})\.(png|cls)")
_SHARD = re.compile(r"(train|val)-[0-9]{5,}\.tar")


class ShardIndex(NamedTuple):
    """Where each example of a shard lies: three int64 arrays (N,), in the order of the shard."""

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def write_split(dest: Path, split: str, examples: Iterable[Example], shard_size: int) -> Split:
    """Write examples (key, PNG bytes, label) to DEST/SPLIT-00000.tar and on, ``shard_size`` examples in each.

    Keys hold letters, digits, ``_`` and ``-`` (a dot would end the key for WebDataset). Each shard gets its
    name by rename once it is whole. Memory holds one example at a time. Returns the entry of the manifest.
    """
    if shard_size < 1:
        raise UserError(f"a shard must hold at least 1 example, but {shard_size} were asked for")
    shards: list[Shard] = []
    stream = iter(examples)
    for first in stream:
        of_shard = itertools.chain([first], itertools.islice(stream, shard_size - 1))
        shards.append(_write_shard(dest / f"{split}-{len(shards):05d}.tar", of_shard))
    return Split(examples=sum(shard.examples for shard in shards), shards=tuple(shards))


def _write_shard(path: Path, examples: Iterable[Example]) -> Shard:
    temporary = path.with_name(path.name + ".tmp")
    digest, size = hashlib.sha256(), 0
    keys: set[str] = set()
    with open(temporary, "wb", buffering=1 << 20) as file:
        for key, png, label in examples:
            assert _KEY.fullmatch(key), f"not a fit key: {key!r}"
            assert key not in keys, f"key {key} twice in one shard"
            assert label >= 0, f"label {label}"
            keys.add(key)
            block = _member(f"{key}.png", png) + _member(f"{key}.cls", b"%d" % label)
            file.write(block)
            digest.update(block)
            size += len(block)
        end = bytes(2 * _BLOCK + -(size + 2 * _BLOCK) % tarfile.RECORDSIZE)  # as tar itself ends an archive
        file.write(end)
        digest.update(end)
    os.replace(temporary, path)
    return Shard(name=path.name, bytes=size + len(end), sha256=digest.hexdigest(), examples=len(keys))


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)  # mode 0644, owner 0, time 0
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % _BLOCK)


def map_shard(folder: Path, shard: Shard) -> mmap.mmap:
    """The bytes of a shard, mapped read-only. Raises UserError when it is missing or has another size."""
    check_size(folder, shard)
    with open(folder / shard.name, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def index_shard(view: mmap.mmap, shard: Shard, classes: int) -> ShardIndex:
    """Find the examples of a mapped shard by one pass over its headers; no image is decoded.

    Raises UserError naming the shard, and the member where there is one: a name that is not KEY.png or
    KEY.cls in turn, a label that is no integer in 0 .. classes - 1, a broken header, another count than on
    record.
    """
    found: list[tuple[int, int, int]] = []
    members = _members(view, shard.name)
    for key, kind, offset, length in members:
        label_key, label_kind, label_at, label_length = next(members, ("", "", 0, 0))
        if (kind, label_kind) != ("png", "cls") or key != label_key:
            raise UserError(f"shard {shard.name}: member {key}.{kind} is not part of a pair {key}.png, {key}.cls")
        text = view[label_at : label_at + label_length]
        if not re.fullmatch(rb"[0-9]{1,9}", text) or int(text) >= classes:
            raise UserError(
                f"shard {shard.name}: {key}.cls holds {text[:20]!r}, which is not a label from 0 to {classes - 1}"
            )
        found.append((offset, length, int(text)))
    if len(found) != shard.examples:
        raise UserError(
            f"shard {shard.name} holds {len(found)} examples instead of the {shard.examples} that its manifest lists"
        )
    table = np.array(found, dtype=np.int64).reshape(-1, 3)
    return ShardIndex(*(np.ascontiguousarray(column) for column in table.T))


def _members(view: mmap.mmap, shard: str) -> Iterator[tuple[str, str, int, int]]:
    """Key, extension, offset and length of each member: the part of ustar that `_member` writes."""
    at = 0
    while at + _BLOCK <= len(view):
        header = view[at : at + _BLOCK]
        if header[0] == 0 and header.count(0) == _BLOCK:
            return
        name = header[:100].rstrip(b"\0")
        parts = _MEMBER.fullmatch(name)
        # Bytes 345 and on are the name's prefix, 156 the type, which is 0 for a regular file.
        if not parts or header[257:262] != b"ustar" or header[156:157] != b"0" or header[345] != 0:
            raise UserError(f"shard {shard}: {name[:80]!r} at byte {at} is not a member KEY.png or KEY.cls")
        size = header[124:135]
        if not re.fullmatch(rb"[0-7]{11}", size) or at + _BLOCK + int(size, 8) > len(view):
            raise UserError(f"shard {shard}: the size of {name.decode()} at byte {at} cannot be right")
        yield parts[1].decode(), parts[2].decode(), at + _BLOCK, int(size, 8)
        at += _BLOCK + -(-int(size, 8) // _BLOCK) * _BLOCK
    raise UserError(f"shard {shard} is cut short: it has no end mark")


def verify(folder: str | Path) -> Manifest:
    """Check a whole data set against its manifest: sha256, count and labels of every shard. Reads every byte.

    Returns the manifest. Raises UserError naming the first shard that is missing, altered or not listed.
    """
    manifest = load_manifest(folder)
    root = Path(folder) if Path(folder).is_dir() else Path(folder).parent
    listed = {shard.name for split in SPLITS for shard in manifest.splits[split].shards}
    for name in sorted(os.listdir(root)):
        if _SHARD.fullmatch(name) and name not in listed:
            raise UserError(f"shard {name} in {root} is not listed by the manifest; remove it")
    for split in SPLITS:
        for shard in manifest.splits[split].shards:
            with open(root / shard.name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    raise UserError(
                        f"shard {shard.name} in {root} was altered: its sha256 is not the one its manifest "
                        "lists; ingest the data set again"
                    )
            with map_shard(root, shard) as view:
                index_shard(view, shard, len(manifest.classes))
    return manifest
