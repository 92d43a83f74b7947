"""Where every member of a tar lies, by one pass over its headers: no member's data is read, nothing is unpacked.

`tarfile` parses each header but does not walk: it keeps every member it has met, and takes a damaged header for the
end of the archive, so that everything after it would be lost without a word. Here an archive ends with its end mark,
with nothing but zeros behind it, or it is refused by name.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.data.listings import Collector, Listed, Listing, Progress, printable, reason_to_leave
from pipeline.data.manifest import SplitName
from pipeline.errors import UserError
from pipeline.objects import open_objects

# Bytes read ahead. In the time that a request to a store takes, megabytes are read, so there the 100 kB between the
# headers of photographs are better read along; a disk is better asked for the headers alone.
REMOTE_BLOCK, LOCAL_BLOCK = 4 << 20, 64 << 10
_UNIT = tarfile.BLOCKSIZE
_FAR = 8 << 10  # bytes read where the last header was far away
_LARGEST_EXTENSION = 1 << 20  # bytes; a long name is a few hundred
_WITHOUT_DATA = {
    tarfile.LNKTYPE: "hard link",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
    tarfile.DIRTYPE: "folder",
}
_PAX = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE}
_LONG_NAME = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX_RECORD = re.compile(rb"([0-9]{1,9}) ([^=]+)=")


class Archive(NamedTuple):
    """A tar: ``length`` bytes from ``offset`` of the object ``where`` below an address.

    ``title`` is how messages name it. ``prefix`` is set before its members' names; ``split`` and ``label`` are what
    all of them have, if anything. ``block`` is how many bytes are read ahead where headers lie closer than that; what
    suits the address where it is not given.
    """

    address: str
    where: str
    offset: int
    length: int
    title: str
    prefix: str = ""
    split: SplitName | None = None
    label: str | None = None
    block: int | None = None


class Member(NamedTuple):
    """A file in a tar: its path, offset in the archive and bytes; with a reason when it is left out."""

    name: str
    offset: int
    length: int
    reason: str


class ReadAhead:
    """Reads ever higher places of an archive, by few requests: a block ahead while headers lie close together, as
    little as possible where it has to jump (from one inner tar of 140 MB to the next)."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._objects = open_objects(archive.address)
        self._block = archive.block or (REMOTE_BLOCK if archive.address.startswith("s3://") else LOCAL_BLOCK)
        self._at, self._data = 0, b""

    def read(self, start: int, length: int) -> bytes:
        """The ``length`` bytes from ``start`` of the archive; fewer where it ends."""
        inside = start - self._at
        if inside < 0 or inside + length > len(self._data):
            near = self._data and 0 <= inside < len(self._data) + self._block
            wanted = max(length, self._block if near else _FAR)
            wanted = max(0, min(wanted, self.archive.length - start))
            # An empty range is no request that S3 would answer.
            self._data = (
                self._objects.read_range(self.archive.where, self.archive.offset + start, wanted) if wanted else b""
            )
            self._at, inside = start, 0
        return self._data[inside : inside + length]


def list_tar(archive: Archive, progress: Progress | None = None) -> Listing:
    """The files of a tar (ustar, pax or GNU). A plain function of what can be pickled: it may run anywhere.

    Of several members of one path the last is the file, the earlier ones are left out. Raises UserError, naming the
    archive, where it is damaged, cut short (between two members too) or goes on behind its end mark, and where a
    member's path leads outside.
    """
    collector = Collector()
    for count, member in enumerate(walk_members(ReadAhead(archive))):
        name = archive.prefix + member.name
        offset = archive.offset + member.offset
        file = Listed(name, archive.where, offset, member.length, archive.split, archive.label)
        collector.add(file, member.reason)
        if progress is not None and count % 1000 == 0:
            progress(member.offset, archive.length)
    if progress is not None:
        progress(archive.length, archive.length)
    return collector.listing(archive.address)


def walk_members(reader: ReadAhead) -> Iterator[Member]:
    """The members of a tar that are no folders, in its order; offsets count from its start. Errors as `list_tar`."""
    archive, at = reader.archive, 0
    common: dict[str, str] = {}
    extension: dict[str, str] = {}  # what special headers say of the next member
    while True:
        header = reader.read(at, _UNIT)
        info = _parse_header(header, at, archive)
        if info is None:
            _check_end(reader, at, bool(extension))
            return
        start = _start_of_data(reader, at, info, header)
        if info.type in _PAX or info.type in _LONG_NAME:
            fields = _parse_extension(reader, at, info)
            (common if info.type == tarfile.XGLTYPE else extension).update(fields)
            length = info.size
        else:
            member = _member(info, start, common | extension, at, archive)
            extension = {}
            length = member.length
            if info.type != tarfile.DIRTYPE:
                yield member
        at = start + length + -length % _UNIT


def _parse_header(header: bytes, at: int, archive: Archive) -> tarfile.TarInfo | None:
    """One header; None for the end mark."""
    if len(header) < _UNIT:
        if at == 0:
            raise _damaged(archive, at, f"it has {archive.length} bytes")
        raise UserError(f"the archive {archive.title} is cut short: it has no end mark; get it again")
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        raise _damaged(archive, at, str(error)) from None
    if info.size < 0:
        raise _damaged(archive, at, f"a member of {info.size} bytes")
    return info


def _check_end(reader: ReadAhead, at: int, expected_more: bool) -> None:
    """Behind the end mark there may be zeros, to a round number of blocks."""
    archive = reader.archive
    if expected_more:
        raise _damaged(archive, at, "the end mark follows upon a header that announces a member")
    while data := reader.read(at, 1 << 20):
        if data.count(0) != len(data):
            raise UserError(
                f"the archive {archive.title} holds data behind its end mark at byte {at}: "
                "it is damaged, or several were joined; give one whole archive"
            )
        at += len(data)


def _start_of_data(reader: ReadAhead, at: int, info: tarfile.TarInfo, header: bytes) -> int:
    start = at + _UNIT
    if info.type == tarfile.GNUTYPE_SPARSE:  # its map may go on in blocks of its own
        more = header[482]
        while more:
            block = reader.read(start, _UNIT)
            start += _UNIT
            more = len(block) == _UNIT and block[504]
    return start


def _member(info: tarfile.TarInfo, start: int, fields: dict[str, str], at: int, archive: Archive) -> Member:
    has_data = info.type not in _WITHOUT_DATA
    size = fields.get("size", "")
    if size and not re.fullmatch("[0-9]{1,18}", size):
        raise _damaged(archive, at, f"a member of {size!r} bytes")
    length = (int(size) if size else info.size) if has_data else 0
    name = _safe_name(fields.get("GNU.sparse.name") or fields.get("path") or info.name, archive)
    if start + length > archive.length:
        raise UserError(
            f"the archive {archive.title} is cut short within {name}: "
            f"{start + length} bytes are needed and {archive.length} are there; get it again"
        )
    reason = reason_to_leave(name, length)
    if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in fields):
        reason = reason or "sparse file, whose bytes do not lie in one piece"
    elif not info.isreg():
        reason = reason or f"{_WITHOUT_DATA.get(info.type, 'special file')}, not a regular file"
    return Member(name, start, length, reason)


def _parse_extension(reader: ReadAhead, at: int, info: tarfile.TarInfo) -> dict[str, str]:
    """What a header says of the member after it: GNU's long names, or the records of pax."""
    archive = reader.archive
    if info.size > _LARGEST_EXTENSION:
        raise _damaged(archive, at, f"a name of {info.size} bytes")
    data = reader.read(at + _UNIT, info.size)
    if len(data) < info.size:
        raise UserError(f"the archive {archive.title} is cut short within a long name; get it again")
    if info.type in _LONG_NAME:
        return {_LONG_NAME[info.type]: data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")}
    fields, place = {}, 0
    while place < len(data):
        record = _PAX_RECORD.match(data, place)
        end = place + int(record[1]) if record else 0
        if not record or not record.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise _damaged(archive, at, "a pax record cannot be read")
        fields[record[2].decode("utf-8", "replace")] = data[record.end() : end - 1].decode("utf-8", "surrogateescape")
        place = end
    return fields


def _safe_name(name: str, archive: Archive) -> str:
    if name.startswith(("/", "\\")) or (".." in name and ".." in name.replace("\\", "/").split("/")):
        raise UserError(
            f"the archive {archive.title} holds {printable(name)!r}, whose path leads outside; it is refused"
        )
    if name.startswith("./") or "//" in name or "/./" in name or name.endswith(("/", "/.")):
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
    return printable(name)


def _damaged(archive: Archive, at: int, why: str) -> UserError:
    return UserError(f"the archive {archive.title} is damaged or no .tar or .tar.gz, at byte {at}: {why}")
