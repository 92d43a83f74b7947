"""What the scoring of foreign images asks of them: how many, how large, and any block of them. Words, and one door.

Where the images come from is the matter of ``listed_images``, ``npz_images`` and ``stored_images``; nothing here knows
a format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.data.manifest import MANIFEST_NAME, SplitName, load_manifest
from pipeline.errors import UserError
from pipeline.objects import Objects, open_objects

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Filter = Literal["box", "bicubic"]
AS_THEY_ARE = "as they are"


class Fit(NamedTuple):
    """The side in px that images must have, and the filter that gives it to those of another size (None: refuse)."""

    size: int
    filter: Filter | None = None


class Block(Protocol):
    """Consecutive images of a source; can be sent to another process, which reads them there."""

    def read(self) -> Pixels:
        """uint8 (n, S, S, 3). Raises UserError naming the image that cannot be had."""


class Images(Protocol):
    """A source of images in a fixed order."""

    @property
    def title(self) -> str:
        """How messages and passports name it."""

    @property
    def split(self) -> str | None:
        """Of a data set."""

    @property
    def lossy(self) -> bool | None:
        """Whether they were stored in a coding that loses detail; None: not known."""

    @property
    def left_out(self) -> Sequence[str]:
        """What lies beside the images and is none, with reasons."""

    def __len__(self) -> int: ...

    @property
    def size(self) -> int:
        """Side of the first image in px; that of the others is only known when they are read."""

    @property
    def labels(self) -> Labels | None:
        """The class of each image, int64 (N,), where the source says it."""

    @property
    def digest(self) -> str:
        """Sha256 that changes with the bytes of any image; may read all of them. That of a data set is of all its
        splits, so ``split`` belongs to it."""

    def changed(self, fit: Fit) -> str | None:
        """What is done to images as they lie there, to have them of that size; None: nothing."""

    def made(self, fit: Fit) -> str:
        """How images came to be of that size, with all that is known of what was done before, in words."""

    def blocks(self, count: int, block: int, fit: Fit) -> Iterator[Block]:
        """The first ``count`` images in blocks of ``block``; the last may be smaller."""


class Readable(Protocol):
    """A source of which any stretch can be read at any time, by anybody."""

    def read(self, start: int, stop: int, fit: Fit) -> Pixels: ...


@dataclass(frozen=True)
class Stretch:
    """The images [start, stop) of a source, read where they are asked for."""

    source: Readable
    start: int
    stop: int
    fit: Fit

    def read(self) -> Pixels:
        return self.source.read(self.start, self.stop, self.fit)


def stretches(source: Readable, count: int, block: int, fit: Fit) -> Iterator[Stretch]:
    """The first ``count`` images of a source in blocks."""
    return (Stretch(source, start, min(start + block, count), fit) for start in range(0, count, block))


def open_images(address: str, *, scratch: Path, split: SplitName | None = None, option: str = "--split") -> Images:
    """The images at an address: our own data set, an .npz, a tar, shards or a folder; all but .npz also at ``s3://``.

    ``split`` is of a data set, and needed there; the other kinds have none. ``option`` is what messages call it.
    ``scratch`` takes what a .tar.gz holds. Raises UserError where there are no images.
    """
    if address.lower().endswith(".npz"):
        from pipeline.foreign.npz_images import NpzImages

        if address.startswith("s3:/"):
            raise UserError(
                f"{address} cannot be read where it lies, being an .npz; get the file to this machine first"
            )
        return NpzImages(Path(address).expanduser())
    if is_data_set(address):
        from pipeline.foreign.stored_images import StoredImages

        if split is None:
            counts = " and ".join(
                f"{found.examples:,} of {name}" for name, found in load_manifest(address).splits.items()
            )
            raise UserError(f"{address} is a data set of {counts}; say {option} train or {option} val")
        return StoredImages(address, split)
    from pipeline.foreign.listed_images import list_images

    return list_images(address, scratch)


def is_data_set(address: str) -> bool:
    """Whether there is one of our data sets at an address. A manifest that is damaged counts: it is refused later."""
    if not address.startswith("s3:/") and not Path(address).expanduser().is_dir():
        return False
    objects: Objects = open_objects(address)
    if objects.size(MANIFEST_NAME) is None:
        return False
    try:
        fields = json.loads(objects.read(MANIFEST_NAME))
    except ValueError:
        return False  # somebody else's file of that name
    return isinstance(fields, dict) and "format" in fields and "forms" in fields
