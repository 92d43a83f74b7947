"""A data set of given pixels, for the tests of reading."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.data.encoding import box_means, encode_image
from pipeline.data.indices import encode_index
from pipeline.data.manifest import (
    Form,
    Manifest,
    ShardColumns,
    Source,
    Split,
    SplitName,
    index_name_of,
    save_manifest,
    shard_name,
)
from pipeline.data.shards import ShardWriter
from pipeline.objects import Objects, open_objects

Pixels = npt.NDArray[np.uint8]
WriteDataSet = Callable[..., Manifest]


@pytest.fixture
def write_data_set(tmp_path: Path) -> WriteDataSet:
    """``write_data_set(address, pixels, labels, forms=..., shard_size=..., val=0)`` gives the manifest.

    The images (N, S, S, 3) are stored in their order, the first form at S px and the others as box means; the last
    ``val`` of them are the split val. The classes are a to j.
    """

    def write(
        address: str | Path,
        pixels: Pixels,
        labels: Sequence[int] | npt.NDArray[np.int64],
        *,
        forms: Sequence[Form],
        shard_size: int,
        val: int = 0,
    ) -> Manifest:
        objects, train = open_objects(address), len(pixels) - val
        parts: dict[SplitName, slice] = {"train": slice(train), "val": slice(train, None)}
        splits = {}
        for split, part in parts.items():
            images, numbers = [Image.fromarray(one) for one in pixels[part]], [int(one) for one in labels[part]]
            starts = range(0, len(images), shard_size)
            shards = {}
            for form in forms:
                columns = []
                for number, start in enumerate(starts):
                    held = slice(start, start + shard_size)
                    name = shard_name(form, split, number)
                    columns.append(_write_shard(objects, tmp_path, name, form, images[held], numbers[held]))
                size, sha256, index_sha256 = zip(*columns, strict=True) if columns else ((), (), ())
                shards[form.name] = ShardColumns(bytes=size, sha256=sha256, index_sha256=index_sha256)
            counts = tuple(min(shard_size, len(images) - start) for start in starts)
            splits[split] = Split(counts=counts, shards=shards)
        manifest = Manifest(
            classes=tuple("abcdefghij"),
            resize="none",
            forms=tuple(forms),
            source=Source(kind="drawn", name="given", lossy=False, fingerprint="0" * 64),
            request={},
            splits=splits,
        ).sealed()
        save_manifest(objects, manifest)
        return manifest

    return write


def _write_shard(
    objects: Objects, scratch: Path, name: str, form: Form, images: list[Image.Image], labels: list[int]
) -> tuple[int, str, str]:
    """Write a shard and its index; the bytes and sha256 of the shard, and the sha256 of the index."""
    with ShardWriter(scratch / "shard.tar", name, form.encoding) as writer:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            writer.add(f"{number:08d}", encode_image(box_means(image, image.width // form.size), form), label)
        index = writer.finish()
    data = encode_index(index)
    objects.upload(name, scratch / "shard.tar")
    objects.write(index_name_of(name), data)
    return index.head.bytes, index.head.sha256, hashlib.sha256(data).hexdigest()
