"""One of our own data sets (``rayfall ingest``) as images to score or to score against: a split, at one size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from pipeline.data.loading import Examples
from pipeline.data.manifest import SplitName, load_manifest
from pipeline.foreign.images import Fit, Labels, Pixels, Stretch, stretches
from pipeline.foreign.resizing import misfit, resized, told_resize
from pipeline.scoring.passport import resize_of


class StoredImages:
    """A split of a data set: see `pipeline.foreign.images.Images`. Raises UserError when it is empty.

    A stored form of the size that is asked for is read as it is. Smaller images are box means of a larger form, as in
    training, where ``--resize box`` asks for it, and Pillow's bicubic of the largest where ``--resize bicubic`` does.
    """

    left_out = ()

    def __init__(self, address: str, split: SplitName) -> None:
        self.title, self.split, self._address = address, split, address
        self.manifest = load_manifest(address)
        self.lossy: bool | None = self.manifest.source.lossy
        self._count = len(Examples(address, split, keep_bytes=0))

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> int:
        return self.manifest.image_size

    @cached_property
    def labels(self) -> Labels | None:
        assert self.split == "train" or self.split == "val"
        return Examples(self._address, self.split, keep_bytes=0).labels

    @property
    def digest(self) -> str:
        """Of the manifest, which covers every byte of all splits; as our own passports name a data set."""
        return self.manifest.digest

    def changed(self, fit: Fit) -> str | None:
        stored = any(form.size == fit.size for form in self.manifest.forms)
        return None if stored or fit.filter is None else told_resize(fit)

    def made(self, fit: Fit) -> str:
        size = self._size_read(fit)
        how = resize_of(self.manifest, size)
        return how if size == fit.size else f"{how}; {told_resize(fit)}"

    def blocks(self, count: int, block: int, fit: Fit) -> Iterator[Stretch]:
        assert self.split == "train" or self.split == "val"
        if fit.filter is None and self._size_read(fit) != fit.size:
            raise misfit(f"the data set {self.title}", f"{self.size} x {self.size} px", fit)
        examples = Examples(self._address, self.split, size=self._size_read(fit), keep_bytes=0)
        return stretches(_Reading(examples), count, block, fit)

    def _size_read(self, fit: Fit) -> int:
        """The size that the data set itself gives."""
        stored = any(form.size == fit.size for form in self.manifest.forms)
        divides = fit.filter == "box" and any(form.size % fit.size == 0 for form in self.manifest.forms)
        return fit.size if stored or divides else self.size


class _Reading:
    """Examples as a source of stretches. They are sent as their arguments and opened where they are read."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def read(self, start: int, stop: int, fit: Fit) -> Pixels:
        pixels, _ = self._examples.read(range(start, stop))
        if fit.filter is None or pixels.shape[1] == fit.size:
            return pixels
        return resized(pixels, fit.size, fit.filter)
