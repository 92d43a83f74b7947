"""WebDataset shards: tar files whose members come in pairs KEY.png (or .jpg, .webp, .npy), KEY.cls. How they are
written, and how their headers are read back.

Plain ustar with nothing of the machine in it (no times, owners or pax records), so the same examples give the same
bytes on every run, and stock ``webdataset`` reads them. Raw pixels are .npy files, which it decodes too; an index
points at the pixels behind the .npy header. Reading by index never parses a header (`pipeline.data.loading`);
`members` does, and refuses by name whatever the writer would not have written.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data.indices import ROW, IndexHead, ShardIndex, checksum_of, safe_key
from pipeline.data.manifest import SUFFIXES, Encoding, Undecodable
from pipeline.errors import UserError

_BLOCK = tarfile.BLOCKSIZE
_MEMBER = re.compile(rb"([A-Za-z0-9_-]{1,90})\.(png|webp|jpg|npy|cls)")


class Member(NamedTuple):
    """One file of a tar: key and suffix of its name, and where its bytes lie."""

    key: str
    suffix: str
    offset: int
    length: int


class ShardWriter:
    """Writes the examples of one shard, one by one, to a new file at ``path``; the data set will call it ``name``.

    A context manager that closes the file; `finish` gives the index. The index is not written here: it is what makes
    a shard exist, and where both go is the caller's matter. Memory holds one example at a time.
    """

    def __init__(self, path: Path, name: str, encoding: Encoding) -> None:
        self.path, self.name, self._encoding = path, name, encoding
        self._file = open(path, "wb", buffering=1 << 20)  # noqa: SIM115 (this is the context manager)
        self._digest, self._bytes = hashlib.sha256(), 0
        self._keys: set[str] = set()
        self._rows: list[tuple[int, int, int, int]] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, key: str, data: bytes, label: int) -> None:
        """Append an example: its encoded bytes (raw: the pixels of an (S, S, 3) uint8 array) and its label."""
        assert safe_key(key), f"not a fit key: {key!r}"
        assert key not in self._keys, f"key {key} twice in one shard"
        assert label >= 0, f"label {label}"
        self._keys.add(key)
        before = _npy_header(len(data)) if self._encoding == "raw" else b""
        self._rows.append((self._bytes + _BLOCK + len(before), len(data), label, checksum_of(data)))
        self._append(_member(f"{key}.{SUFFIXES[self._encoding]}", before + data))
        self._append(_member(f"{key}.cls", b"%d" % label))

    def finish(self, *, lossy: bool = False, undecodable: Iterable[Undecodable] = ()) -> ShardIndex:
        """End the archive, see it on the disk and return its index; ``undecodable`` names what gave no example."""
        self._append(bytes(2 * _BLOCK + -(self._bytes + 2 * _BLOCK) % tarfile.RECORDSIZE))  # as tar itself ends one
        self._file.flush()
        os.fsync(self._file.fileno())
        head = IndexHead(
            shard=self.name,
            bytes=self._bytes,
            sha256=self._digest.hexdigest(),
            examples=len(self._rows),
            lossy=lossy,
            undecodable=tuple(undecodable),
        )
        return ShardIndex(head=head, rows=np.array(self._rows, dtype=ROW))

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)


def _npy_header(pixels: int) -> bytes:
    """The header of a .npy file of one (S, S, 3) uint8 image of so many bytes."""
    side = round((pixels / 3) ** 0.5)
    assert 3 * side * side == pixels, f"{pixels} bytes are no square of RGB pixels"
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (side, side, 3)})
    return buffer.getvalue()


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)  # mode 0644, owner 0, time 0
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % _BLOCK)


def members(view: memoryview, shard: str) -> Iterator[Member]:
    """The members of a shard, by one pass over its headers: the part of ustar that `ShardWriter` writes.

    Raises UserError naming the shard and the place for anything else, and for a shard without an end mark.
    """
    at = 0
    while at + _BLOCK <= len(view):
        header = bytes(view[at : at + _BLOCK])
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
        yield Member(parts[1].decode(), parts[2].decode(), at + _BLOCK, int(size, 8))
        at += _BLOCK + -(-int(size, 8) // _BLOCK) * _BLOCK
    raise UserError(f"shard {shard} is cut short: it has no end mark")
