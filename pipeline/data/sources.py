"""The files of a source of images: a folder tree or a tar archive, read one after the other, never unpacked.

Knows names and bytes, not images or classes. What cannot be an image (a link, a hidden file) is handed on
with a reason instead of bytes, so that nothing disappears silently.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.errors import UserError

LARGEST_FILE = 256 << 20  # bytes; more is no photograph, and one file at a time must fit into memory


class SourceFile(NamedTuple):
    """A file by its path inside the source (``/`` between the parts): its bytes, or the reason to leave
    it."""

    name: str
    data: bytes
    reason: str = ""


class SourceIdentity(NamedTuple):
    """Which source it is, by content: sha256 of the archive, or of the folder's sorted paths and sizes."""

    kind: Literal["folder", "tar"]
    name: str
    fingerprint: str
    files: int | None  # None for an archive, which would have to be read for it


def identify(source: Path) -> SourceIdentity:
    """Name and fingerprint a source. Raises UserError when it is neither a folder nor a file."""
    name = _printable(source.resolve().name)
    if source.is_dir():
        listing = hashlib.sha256()
        count = 0
        for path, inside in _walk(source):
            size = path.stat().st_size if path.is_file() else -1
            listing.update(f"{inside}\0{size}\n".encode())
            count += 1
        return SourceIdentity("folder", name, listing.hexdigest(), count)
    if not source.is_file():
        raise UserError(f"there is no folder and no archive at {source}; name a class-per-folder tree or a tar of one")
    with open(source, "rb") as file:
        return SourceIdentity("tar", name, hashlib.file_digest(file, "sha256").hexdigest(), None)


def read_source(source: Path) -> Iterator[SourceFile]:
    """Every file of a folder, sorted, or of a .tar or .tar.gz, as it comes.

    Raises UserError for an archive that is damaged or that holds a member whose path leads outside.
    """
    return _read_folder(source) if source.is_dir() else _read_archive(source)


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    def refuse(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}")

    for top, folders, files in os.walk(folder, onerror=refuse):
        linked = [name for name in folders if os.path.islink(os.path.join(top, name))]
        folders.sort()
        for name in sorted(files + linked):
            path = Path(top, name)
            yield path, _printable(path.relative_to(folder).as_posix())


def _read_folder(folder: Path) -> Iterator[SourceFile]:
    for path, name in _walk(folder):
        reason = ""
        if _hidden(name):
            reason = "hidden file"
        elif path.is_dir():
            reason = "symbolic link to a folder, not followed"
        elif not path.is_file():  # a link to a file is read; devices and pipes are not opened
            reason = "not a regular file"
        elif path.stat().st_size > LARGEST_FILE:
            reason = f"larger than {LARGEST_FILE >> 20} MiB"
        if reason:
            yield SourceFile(name, b"", reason)
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            yield SourceFile(name, b"", f"cannot be read: {error.strerror}")
        else:
            yield SourceFile(name, data)


def _read_archive(path: Path) -> Iterator[SourceFile]:
    last = "its start"
    try:
        with _open_stream(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                # tarfile keeps every member it has seen, which is gigabytes for a million images.
                archive.members = []  # type: ignore[attr-defined]
                last = name = _safe_name(member.name, path)
                if not member.isdir():
                    yield _read_member(archive, member, name)
            while stream.read(1 << 20):  # to the end, where gzip checks its sum
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"the archive {path} is damaged or no .tar or .tar.gz, after {last}: {error}") from None


def _open_stream(path: Path) -> gzip.GzipFile | io.BufferedReader:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(max(0, os.path.getsize(path) - tarfile.BLOCKSIZE))
        ended = not any(file.read())
    if zipped:
        return gzip.open(path, "rb")
    if not ended and tarfile.is_tarfile(path):  # one cut between two members reads as whole otherwise
        raise UserError(f"the archive {path} is cut short: it has no end mark")
    return io.BufferedReader(open(path, "rb", buffering=0), 1 << 20)


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> SourceFile:
    if _hidden(name):
        return SourceFile(name, b"", "hidden file")
    if not member.isreg():
        kind = "symbolic link" if member.issym() else "hard link" if member.islnk() else "special file"
        return SourceFile(name, b"", f"{kind}, not a regular file")
    if member.size > LARGEST_FILE:
        return SourceFile(name, b"", f"larger than {LARGEST_FILE >> 20} MiB")
    file = archive.extractfile(member)
    assert file is not None  # regular members always have content
    return SourceFile(name, file.read())


def _safe_name(name: str, archive: Path) -> str:
    parts = name.split("/")
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise UserError(f"the archive {archive} holds {_printable(name)!r}, whose path leads outside; it is refused")
    return _printable("/".join(part for part in parts if part not in ("", ".")))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _printable(name: str) -> str:
    """Names may hold bytes that are no UTF-8; a manifest may not."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
