"""Random access to the examples of a split: shards mapped into memory, an index, an optional cache of pixels.

Not a stream: order belongs to `pipeline.data.ordering`, which asks for any example at any time. Needs NumPy and
Pillow, no ``webdataset``.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.manifest import MANIFEST_NAME, Manifest, SplitName, load_manifest
from pipeline.data.shards import index_shard, map_shard
from pipeline.errors import UserError


class Examples:
    """The examples of one split, in the order of its shards.

    Opening reads the headers of every shard once and checks each shard's size and count against the
    manifest. Images are decoded on demand; when the whole decoded split fits into ``cache_bytes`` (0:
    never) each is decoded once. Pickles as its arguments, so a worker that receives one opens the files
    itself.

    Raises UserError when the data set is missing or altered, naming the shard, or when the split is empty.
    """

    def __init__(self, folder: str | Path, split: SplitName, *, cache_bytes: int = 1 << 30) -> None:
        self.folder, self.split = Path(folder), split
        self._cache_bytes = cache_bytes
        self.manifest: Manifest = load_manifest(folder)
        root = self.folder.parent if self.folder.name == MANIFEST_NAME else self.folder
        if split not in self.manifest.splits:
            raise UserError(f"the data set {root} has no split {split!r}; it has train and val")
        entry = self.manifest.splits[split]
        if not entry.examples:
            raise UserError(f"the split {split} of {root} is empty; ingest it again with a larger held-out fraction")

        self._shards = entry.shards
        self._views = [map_shard(root, shard) for shard in entry.shards]
        classes = len(self.manifest.classes)
        indices = [index_shard(view, shard, classes) for view, shard in zip(self._views, entry.shards, strict=True)]
        self._offsets = np.concatenate([index.offsets for index in indices])
        self._lengths = np.concatenate([index.lengths for index in indices])
        self._shard_of = np.repeat(np.arange(len(indices)), [len(index.labels) for index in indices])
        self.labels: npt.NDArray[np.int64] = np.concatenate([index.labels for index in indices])
        self.labels.setflags(write=False)

        size = self.manifest.image_size
        self._pixels: npt.NDArray[np.uint8] | None = None
        if entry.examples * size * size * 3 <= cache_bytes:
            # Zeroed pages take no memory until they are written, so the cache grows with what was read.
            self._pixels = np.zeros((entry.examples, size, size, 3), dtype=np.uint8)
            self._decoded = np.zeros(entry.examples, dtype=bool)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.folder, self.split, self._cache_bytes)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; a label is an index into them."""
        return self.manifest.classes

    @property
    def image_size(self) -> int:
        """Height and width of every image, in pixels."""
        return self.manifest.image_size

    def read(self, indices: npt.ArrayLike) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """The images, uint8 RGB (B, S, S, 3), and labels, int64 (B,), of the examples at ``indices``, int
        (B,).

        Any order, repeats allowed; the arrays belong to the caller. Raises IndexError outside [0, len).
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"examples {wanted.min()} to {wanted.max()} of a split that holds {len(self)}")
        if self._pixels is None:
            size = self.image_size
            images = np.empty((len(wanted), size, size, 3), dtype=np.uint8)
            for place, index in enumerate(wanted.tolist()):
                images[place] = self._decode(index)
        else:
            for index in wanted[~self._decoded[wanted]].tolist():
                self._pixels[index] = self._decode(index)
                self._decoded[index] = True  # after the pixels: another thread may be reading
            images = self._pixels[wanted]
        return images, self.labels[wanted]

    def _decode(self, index: int) -> npt.NDArray[np.uint8]:
        number, offset = int(self._shard_of[index]), int(self._offsets[index])
        data = self._views[number][offset : offset + int(self._lengths[index])]
        size = self.image_size
        try:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                pixels = np.asarray(image)
        except Exception as error:  # Pillow raises many kinds for damaged data; all mean the same here
            raise UserError(
                f"an image of shard {self._shards[number].name} (byte {offset}) cannot be decoded: {error}; "
                "the shard was altered, ingest the data set again"
            ) from error
        if pixels.shape != (size, size, 3):
            raise UserError(
                f"an image of shard {self._shards[number].name} (byte {offset}) has shape {pixels.shape} "
                f"instead of ({size}, {size}, 3); the shard was altered, ingest the data set again"
            )
        return pixels


def _open(folder: Path, split: SplitName, cache_bytes: int) -> Examples:
    return Examples(folder, split, cache_bytes=cache_bytes)
