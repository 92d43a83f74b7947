"""Images in an .npz as guided-diffusion (ADM) writes it: ``arr_0`` uint8 (N, H, W, 3), and labels in ``arr_1`` if any.

A file of 50,000 images of 256 px is 9.8 GB and is never loaded: what the archive holds uncompressed is mapped into
memory and read by anybody; a compressed member is decompressed as a stream, block after block, by who hands out the
work. Reference batches hold statistics too, which ``references`` takes as they are.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.foreign.images import AS_THEY_ARE, Block, Fit, Labels, Pixels, stretches
from pipeline.foreign.resizing import fitted, misfit, told_resize
from pipeline.scoring.weights import digest_of

IMAGES, LABELS = "arr_0", "arr_1"
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_LOCAL_HEADER = 30  # bytes before the name in a zip's local header; the lengths of name and extra are its last four


class Member(NamedTuple):
    """An array of an .npz: its type and shape, and where its bytes begin in the file (None: compressed)."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int | None


@dataclass(frozen=True)
class Pixelled:
    """A block whose images are already here."""

    pixels: Pixels

    def read(self) -> Pixels:
        return self.pixels


@dataclass(frozen=True)
class Mapped:
    """Images that lie uncompressed in the file; sent as this, and opened where they are read."""

    path: Path
    member: Member

    def read(self, start: int, stop: int, fit: Fit) -> Pixels:
        member = self.member
        assert member.offset is not None
        images = np.memmap(self.path, member.dtype, "r", member.offset, member.shape)
        return fitted(np.array(images[start:stop]), fit, f"{IMAGES} of {self.path}")


class NpzImages:
    """The images of an .npz: see `pipeline.foreign.images.Images`. Raises UserError where it holds none."""

    split, left_out = None, ()
    lossy = None  # 8 bits in a row: nobody can see whether they were a JPEG before

    def __init__(self, path: Path) -> None:
        self.path, self.title = path.absolute(), str(path)  # a worker may be in another folder
        members = members_of(path)
        if IMAGES not in members:
            held = ", ".join(members) or "nothing"
            raise UserError(f"{path} holds no images: they are {IMAGES}, uint8 (N, H, W, 3), and it holds {held}")
        self._member = _checked(members[IMAGES], path)
        self._has_labels = LABELS in members

    def __len__(self) -> int:
        return self._member.shape[0]

    @property
    def size(self) -> int:
        return self._member.shape[1]

    @cached_property
    def labels(self) -> Labels | None:
        if not self._has_labels:
            return None
        labels = load_arrays(self.path, [LABELS])[LABELS]
        if labels.shape != (len(self),) or labels.dtype.kind not in "iu":
            raise UserError(
                f"{LABELS} of {self.path} is {labels.dtype} {labels.shape}; labels are integers, one for each of the "
                f"{len(self)} images"
            )
        return labels.astype(np.int64)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.path)

    def changed(self, fit: Fit) -> str | None:
        return None if fit.filter is None or self.size == fit.size else told_resize(fit)

    def made(self, fit: Fit) -> str:
        return self.changed(fit) or AS_THEY_ARE

    def blocks(self, count: int, block: int, fit: Fit) -> Iterator[Block]:
        height, width = self._member.shape[1:3]
        if height != width:
            raise UserError(f"{IMAGES} of {self.path} is of {width} x {height} px; cut them to squares first")
        if fit.filter is None and height != fit.size:
            raise misfit(f"{IMAGES} of {self.path}", f"{width} x {height} px", fit)
        if self._member.offset is not None:
            return stretches(Mapped(self.path, self._member), count, block, fit)
        return self._streamed(count, block, fit)

    def _streamed(self, count: int, block: int, fit: Fit) -> Iterator[Block]:
        shape = self._member.shape[1:]
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{IMAGES}.npy") as file:
            _header(file)
            for start in range(0, count, block):
                images = min(block, count - start)
                data = _exactly(file, images * int(np.prod(shape)), self.path)
                pixels = np.frombuffer(data, dtype=np.uint8).reshape(images, *shape)
                yield Pixelled(fitted(pixels, fit, f"{IMAGES} of {self.path}"))


def members_of(path: Path) -> dict[str, Member]:
    """The arrays of an .npz by name, without reading them. Raises UserError when the file is none."""

    def describe() -> dict[str, Member]:
        found = {}
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    with archive.open(info) as file:
                        dtype, shape, fortran, length = _header(file)
                    begin = _begin(raw, info) + length if info.compress_type == zipfile.ZIP_STORED else None
                    if fortran and len(shape) > 1:
                        begin, dtype = None, np.dtype(object)  # not as ADM writes it: refused by who wants pixels
                    found[info.filename.removesuffix(".npy")] = Member(dtype, shape, begin)
        return found

    return _readable(path, describe)


def load_arrays(path: Path, names: list[str]) -> dict[str, npt.NDArray[Any]]:
    """The named arrays, read whole; nothing that a pickle holds is executed. Raises UserError naming the file."""

    def load() -> dict[str, npt.NDArray[Any]]:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}

    return _readable(path, load)


def _readable(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; name an .npz of images") from None
    except _DAMAGE as error:
        raise UserError(f"{path} cannot be read as an .npz: {error or type(error).__name__}; write it again") from None


def _begin(raw: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin: behind its local header, whose lengths need not be the directory's."""
    raw.seek(info.header_offset)
    header = raw.read(_LOCAL_HEADER)
    return (
        info.header_offset
        + _LOCAL_HEADER
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )


def _header(file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Type, shape and order of a .npy, and the bytes before its data."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return dtype, shape, fortran, file.tell()


def _checked(member: Member, path: Path) -> Member:
    if member.dtype != np.uint8 or len(member.shape) != 4 or member.shape[3] != 3 or 0 in member.shape:
        raise UserError(
            f"{IMAGES} of {path} is {member.dtype} {member.shape}; images are uint8 (N, H, W, 3) in C order, N above 0"
        )
    return member


def _exactly(file: IO[bytes], length: int, path: Path) -> bytes:
    try:
        data = file.read(length)
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged: {error}; get it again") from None
    if len(data) < length:
        raise UserError(f"{IMAGES} of {path} ends early; get the file again")
    return data
