"""Images as files: in a folder or nested class folders, in a tar, in WebDataset shards; on this machine or at S3.

Files that are no image by their suffix are left out and named; a file that says it is one and cannot be decoded is
refused by name, for a score of the others would be a score of something else. Every image keeps its size unless a
resize was asked for. The order is that of a hash of the names: the first n of a tree of class folders are then of all
classes, and the same on every machine.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.data.decoding import UndecodableError, decode_square
from pipeline.data.listings import IMAGE_SUFFIXES, Listed, suffix_of
from pipeline.data.source_files import locate, walk
from pipeline.data.sources import SourceReader, list_source, open_reader
from pipeline.data.tar_listing import Archive, list_tar
from pipeline.data.webdataset_source import are_shards, list_shard
from pipeline.errors import UserError
from pipeline.foreign.images import AS_THEY_ARE, Fit, Labels, Pixels
from pipeline.foreign.resizing import misfit, resized, told_resize
from pipeline.objects import Objects, open_objects

_LOSSY = frozenset(["jpg", "jpeg"])
_PERHAPS_LOSSY = frozenset(["webp", "gif", "tif", "tiff"])  # depends on how they were written
_PIECE = 32 << 20  # bytes of one read of an archive


@dataclass(frozen=True)
class Files:
    """The files of one block; what is sent to who reads it."""

    address: str
    files: tuple[Listed, ...]
    fit: Fit

    def read(self) -> Pixels:
        reader = open_reader(self.address)
        return np.stack([_decoded(reader, self.address, file, self.fit) for file in self.files])


class ListedImages:
    """The images of a listing: see `pipeline.foreign.images.Images`."""

    split = None

    def __init__(self, title: str, found: _Found) -> None:
        self.title, self._address = title, found.address
        images = [file for file in found.files if suffix_of(file.name) in IMAGE_SUFFIXES]
        self._files = sorted(images, key=lambda file: (hashlib.blake2b(file.name.encode()).digest(), file.name))
        if not self._files:
            raise UserError(
                f"there is no image in {title}; images are files called .png, .jpg, .webp, .bmp, .ppm, .tif or .npy"
            )
        others = [file.name for file in found.files if suffix_of(file.name) not in IMAGE_SUFFIXES | {"cls"}]
        self.left_out: Sequence[str] = [f"{name}: no image by its suffix" for name in others] + found.left_out

    def __len__(self) -> int:
        return len(self._files)

    @property
    def lossy(self) -> bool | None:
        suffixes = {suffix_of(file.name) for file in self._files}
        return True if suffixes & _LOSSY else None if suffixes & _PERHAPS_LOSSY else False

    @cached_property
    def size(self) -> int:
        file = self._files[0]
        width, height = _extent(open_reader(self._address).read(file), _title(self._address, file))
        return min(width, height)

    @cached_property
    def labels(self) -> Labels | None:
        names = [file.label if file.label is not None else file.name.rpartition("/")[0] for file in self._files]
        classes = {name: number for number, name in enumerate(sorted(set(names)))}
        if "" in classes or len(classes) < 2:
            return None
        return np.array([classes[name] for name in names], dtype=np.int64)

    @cached_property
    def digest(self) -> str:
        objects = open_objects(self._address)
        whole = hashlib.sha256()
        for where, files in groupby(sorted(self._files, key=lambda file: (file.where, file.name)), key=_where):
            whole.update(f"{where}\n{_sha256(objects, where)}\n".encode())
            for file in files:
                whole.update(f"{file.name} {file.offset} {file.length}\n".encode())
        return whole.hexdigest()

    def changed(self, fit: Fit) -> str | None:
        if fit.filter is None:
            return None
        return f"cut to the centre square where they were none; {told_resize(fit)} where they were of another size"

    def made(self, fit: Fit) -> str:
        return self.changed(fit) or AS_THEY_ARE

    def blocks(self, count: int, block: int, fit: Fit) -> Iterator[Files]:
        for start in range(0, count, block):
            yield Files(self._address, tuple(self._files[start : min(start + block, count)]), fit)


class _Found(NamedTuple):
    address: str
    files: list[Listed]
    left_out: list[str]


def list_images(address: str, scratch: Path) -> ListedImages:
    """The images of a folder, a tar (.tar.gz is decompressed into ``scratch``) or a folder of WebDataset shards.

    Labels are those of the shards' .cls members, else the folders that the files lie in, if there are several.
    Raises UserError when there is nothing at the address, no image in it, or an archive that is damaged.
    """
    place = locate(address)
    if not place.where:
        entries = walk(place.address)
        if are_shards(entries):
            tars = [entry for entry in entries if suffix_of(entry.name) == "tar" and not entry.reason]
            archives = [
                Archive(place.address, entry.where, 0, entry.size, f"{place.address}/{entry.name}", entry.name + "/")
                for entry in tars
            ]
            return ListedImages(address, _joined([_of_shard(archive) for archive in archives]))
    elif suffix_of(place.where) not in ("tar", "gz", "tgz"):
        raise UserError(f"{address} is neither a folder nor .tar, .tar.gz or .npz; name one of these")
    listing = list_source(address, spool=scratch)
    if place.where and any(suffix_of(file.name) == "cls" for file in listing.files):
        where = listing.files[0].where
        length = open_objects(listing.address).size(where)
        assert length is not None
        return ListedImages(address, _of_shard(Archive(listing.address, where, 0, length, place.title)))
    left_out = [f"{name}: {reason}" for name, reason in listing.left_out]
    return ListedImages(address, _Found(listing.address, listing.files, left_out))


def _of_shard(archive: Archive) -> _Found:
    """The files of one tar, with labels where it holds .cls members beside all of its images."""
    listing = list_tar(archive)
    if not any(suffix_of(file.name) == "cls" for file in listing.files):
        files = [file._replace(label="") for file in listing.files]  # the archive is no class
        return _Found(archive.address, files, [f"{name}: {reason}" for name, reason in listing.left_out])
    shard = list_shard(archive)
    files = [file._replace(label=f"{label:09d}") for file, label in zip(shard.files, shard.labels, strict=True)]
    others = [f"*.{suffix}: {count} of them, no image by their suffix" for suffix, count in shard.others.items()]
    return _Found(archive.address, files, others + [f"{name}: {reason}" for name, reason in shard.left_out])


def _joined(found: Sequence[_Found]) -> _Found:
    files = [file for one in found for file in one.files]
    return _Found(found[0].address, files, [text for one in found for text in one.left_out])


def _decoded(reader: SourceReader, address: str, file: Listed, fit: Fit) -> Pixels:
    """One image, uint8 (S, S, 3)."""
    data, title = reader.read(file), _title(address, file)
    width, height = _extent(data, title)
    if fit.filter is None and (width, height) != (fit.size, fit.size):
        raise misfit(title, f"{width} x {height} px", fit)
    try:
        image, _ = decode_square(data, min(width, height))
    except UndecodableError as error:
        raise _undecodable(title, str(error)) from None
    pixels = np.asarray(image)
    if fit.filter is None or len(pixels) == fit.size:
        return pixels
    one: Pixels = resized(pixels[None], fit.size, fit.filter)[0]
    return one


def _extent(data: bytes, title: str) -> tuple[int, int]:
    """Width and height in px, by the header."""
    try:
        if data.startswith(b"\x93NUMPY"):
            height, width = np.load(io.BytesIO(data), allow_pickle=False).shape[:2]
            return width, height
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # decoders fed with broken files raise anything
        raise _undecodable(title, "not an image of a known format") from None


def _undecodable(title: str, reason: str) -> UserError:
    return UserError(f"{title} cannot be decoded ({reason}); mend it, or remove it and score the others")


def _title(address: str, file: Listed) -> str:
    return f"{address}/{file.where}" if file.where == file.name else f"{file.name} in {address}/{file.where}"


def _where(file: Listed) -> str:
    return file.where


def _sha256(objects: Objects, where: str) -> str:
    size = objects.size(where)
    if size is None:
        raise UserError(f"{objects.address}/{where} is not there any more; name images that stay")
    found = hashlib.sha256()
    for start in range(0, size, _PIECE):
        found.update(objects.read_range(where, start, min(_PIECE, size - start)))
    return found.hexdigest()
