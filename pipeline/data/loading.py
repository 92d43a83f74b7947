"""Random access to the examples of a split, at the size that a stage asks for. Not a stream: which examples are
wanted when is the matter of `pipeline.data.ordering`.

Shards in a folder are mapped into memory. Remote ones (``s3://``) come whole through a node-local cache where much of
them will be read (training), or example by example in range reads where little is (a few images of a held-out set).
Whatever way the bytes take, every example is checked against its checksum before it is decoded, and every index
against the manifest, so nothing that was lost or altered gets further than here. Needs NumPy, Pillow and, for JPEG,
simplejpeg; no ``webdataset`` and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.cache import ShardCache
from pipeline.data.encoding import decode_image
from pipeline.data.forms import Reduction, form_for
from pipeline.data.indices import checksum_of
from pipeline.data.manifest import SplitName, load_manifest
from pipeline.data.opened_shards import OpenedShards
from pipeline.errors import UserError
from pipeline.objects import open_objects

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int64]


class Examples:
    """The examples of one split as images of ``size`` px (None: the largest stored), in the order of its shards.

    ``reduction`` says how a larger stored image gets there (`pipeline.data.encoding`). ``cache`` keeps remote shards
    on this node; without one they are read in ranges. When the whole decoded split fits into ``keep_bytes`` (0:
    never) each image is decoded once. ``checked=False`` leaves the checksums out, to measure what they cost and to
    show what they find. Opening reads the manifest and nothing else. May be used by several threads. Pickles as its
    arguments: a process that receives one opens the data set itself, and refuses it when it has been replaced.

    Raises UserError when there is no data set, the split is empty or the size cannot be had; reading raises it for a
    shard that is missing, cut short or altered, by name. (A local shard that is cut after it was opened ends the
    process: that is how the kernel answers who reads a mapped file beyond its end.)
    """

    def __init__(
        self,
        address: str | Path,
        split: SplitName,
        *,
        size: int | None = None,
        reduction: Reduction = "box",
        cache: ShardCache | None = None,
        keep_bytes: int = 1 << 30,
        checked: bool = True,
    ) -> None:
        objects = open_objects(address)
        self._arguments = (objects.address, split, size, reduction, cache, keep_bytes, checked)
        self.split, self.reduction, self.checked = split, reduction, checked
        self.manifest = load_manifest(address)
        self.image_size = self.manifest.image_size if size is None else size
        self.form = form_for(self.manifest, self.image_size, reduction)
        self.counts: Numbers = np.array(self.manifest.splits[split].counts, dtype=np.int64)
        self._begins = np.concatenate(([0], np.cumsum(self.counts)))
        if not len(self):
            raise UserError(f"the split {split} of {address} is empty; ingest it again with a larger held-out fraction")
        self._opened = OpenedShards(objects, self.manifest.shards(split, self.form), len(self.classes), cache)
        self._kept: Pixels | None = None
        if len(self) * self.image_size**2 * 3 <= keep_bytes:
            # Zeroed pages take no memory until they are written, so this grows with what was read.
            self._kept = np.zeros((len(self), self.image_size, self.image_size, 3), dtype=np.uint8)
            self._decoded = np.zeros(len(self), dtype=bool)

    def __len__(self) -> int:
        return int(self._begins[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (*self._arguments, self.manifest.digest)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; a label is an index into them."""
        return self.manifest.classes

    @cached_property
    def labels(self) -> Labels:
        """The label of every example, int64 (N,), read-only. Reads every index: a training that only reads batches
        never asks."""
        parts = [self._opened.index(number).labels for number in range(len(self.counts))]
        labels = np.concatenate(parts).astype(np.int64)
        labels.setflags(write=False)
        return labels

    def prefetch(self, needed: Sequence[int], ahead: Sequence[int] = ()) -> None:
        """Begin to bring the shards ``needed`` (by number) to this node, then those ``ahead`` as far as there is room.

        Returns at once; nothing happens without a cache.
        """
        self._opened.prefetch(needed, ahead)

    def share_cache(self, shards: int, users: int) -> None:
        """Use a ``users``-th of the cache. Raises UserError when it cannot hold so many shards side by side."""
        self._opened.share_cache(shards, users)

    def names(self, indices: npt.ArrayLike) -> list[tuple[str, str]]:
        """The shard and the key of each of the examples at ``indices``, int (B,), for a person to find them by."""
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        shards = np.searchsorted(self._begins, wanted, side="right") - 1
        rows = wanted - self._begins[shards]
        names = [shard.name for shard in self.manifest.shards(self.split, self.form)]
        places = zip(shards.tolist(), rows.tolist(), strict=True)
        return [(names[number], self._opened.key(number, row)) for number, row in places]

    def read(self, indices: npt.ArrayLike) -> tuple[Pixels, Labels]:
        """The images, uint8 RGB (B, S, S, 3), and labels, int64 (B,), of the examples at ``indices``, int (B,).

        Any order, repeats allowed; the arrays belong to the caller. Raises IndexError outside [0, len).
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"examples {wanted.min()} to {wanted.max()} of a split that holds {len(self)}")
        images = np.empty((len(wanted), self.image_size, self.image_size, 3), dtype=np.uint8)
        labels = np.empty(len(wanted), dtype=np.int64)
        order = np.argsort(wanted, kind="stable")  # by shard, and in each from its beginning to its end
        shards = np.searchsorted(self._begins, wanted[order], side="right") - 1
        cuts = np.flatnonzero(np.diff(shards, prepend=-1, append=-1)).tolist()
        for start, stop in pairwise(cuts):
            number, places = int(shards[start]), order[start:stop]
            rows = wanted[places] - self._begins[number]
            labels[places] = self._opened.index(number).labels[rows]
            self._read_shard(number, rows, images, places)
        return images, labels

    def _read_shard(self, number: int, rows: Numbers, images: Pixels, places: Numbers) -> None:
        """Put the images at ``rows`` of a shard into ``images`` at ``places``."""
        read = self._copy if self.form.encoding == "raw" and self.form.size == self.image_size else self._decode
        if self._kept is None:
            read(number, rows, images, places)
            return
        begin = self._begins[number]
        new = np.unique(rows[~self._decoded[begin + rows]])
        if new.size:
            # Apart first: only what was checked may get where another thread finds it.
            found = np.empty((len(new), *images.shape[1:]), dtype=np.uint8)
            read(number, new, found, np.arange(len(new)))
            self._kept[begin + new] = found
            self._decoded[begin + new] = True
        images[places] = self._kept[begin + rows]

    def _decode(self, number: int, rows: Numbers, images: Pixels, places: Numbers) -> None:
        checksums = self._opened.index(number).checksums[rows]
        stored = self._opened.stored(number, rows)
        for row, data, checksum, place in zip(rows.tolist(), stored, checksums.tolist(), places.tolist(), strict=True):
            self._check(number, row, data, checksum)
            try:
                images[place] = decode_image(data, self.form, self.image_size, self.reduction)
            except Exception as error:  # decoders raise many kinds for damaged data; all mean the same here
                raise self._opened.refused(number, row, f"cannot be decoded ({error})") from error

    def _copy(self, number: int, rows: Numbers, images: Pixels, places: Numbers) -> None:
        """What `_decode` does where the stored bytes are the pixels: no array is made of each."""
        checksums = self._opened.index(number).checksums[rows]
        stored = self._opened.stored(number, rows)
        flat, length = images.data.cast("B"), images[0].nbytes
        for row, data, checksum, place in zip(rows.tolist(), stored, checksums.tolist(), places.tolist(), strict=True):
            pixels = flat[place * length : (place + 1) * length]
            try:
                pixels[:] = data
            except ValueError:
                raise self._opened.refused(number, row, f"has {len(data)} bytes instead of {length}") from None
            self._check(number, row, pixels, checksum)  # of what the caller gets

    def _check(self, number: int, row: int, data: memoryview, checksum: int) -> None:
        if self.checked and checksum_of(data) != checksum:
            raise self._opened.refused(number, row, "was altered (its checksum is not the one in the index)")


def _open_again(
    address: str,
    split: SplitName,
    size: int | None,
    reduction: Reduction,
    cache: ShardCache | None,
    keep_bytes: int,
    checked: bool,
    digest: str,
) -> Examples:
    again = Examples(
        address, split, size=size, reduction=reduction, cache=cache, keep_bytes=keep_bytes, checked=checked
    )
    if again.manifest.digest != digest:
        raise UserError(f"the data set {address} was replaced by another one while it was in use; start again")
    return again
