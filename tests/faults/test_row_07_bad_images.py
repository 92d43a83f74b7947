"""Row 7: images that cannot be decoded are counted and named, stop the ingest beyond a limit, and move no other."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.data.drawn import draw
from pipeline.data.ingest import ingest, make_forms
from pipeline.data.loading import Examples
from pipeline.data.manifest import load_manifest
from pipeline.errors import UserError

pytestmark = pytest.mark.faults

IMAGES, SEED = 200, 7
SETTINGS: dict[str, Any] = {"forms": make_forms([(16, "raw")]), "val_fraction": 0.0, "shard_size": 32}


def write_shards(folder: Path, bad: set[int]) -> Path:
    """Shards of JPEG images of which ``bad`` ones are cut in the middle."""
    folder.mkdir()
    for first in range(0, IMAGES, 50):
        with tarfile.open(folder / f"train-{first // 50}.tar", "w") as archive:
            for number in range(first, first + 50):
                pixels, label = draw(0, number, 16)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
                data = buffer.getvalue()[: len(buffer.getvalue()) // 2] if number in bad else buffer.getvalue()
                for name, content in ((f"{number:04d}.jpg", data), (f"{number:04d}.cls", b"%d" % label)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return folder


def order_of(folder: Path) -> list[bytes]:
    """The pixels of all examples in their order."""
    return [image.tobytes() for image in Examples(folder, "train").read(np.arange(len(Examples(folder, "train"))))[0]]


@pytest.mark.parametrize("count", [1, IMAGES // 100, IMAGES // 5])
def test_bad_jpegs_are_named_and_the_rest_stays_in_order(tmp_path: Path, count: int, record_figure: Any) -> None:
    bad = set(random.Random(SEED).sample(range(IMAGES), count))
    good, source = write_shards(tmp_path / "good", set()), write_shards(tmp_path / "bad", bad)
    ingest(good, tmp_path / "whole", **SETTINGS)
    with pytest.raises(UserError, match=r"train-\d/\d{4}\.jpg"):
        ingest(source, tmp_path / "stopped", max_undecodable=count - 1, **SETTINGS)
    with pytest.raises(UserError):
        load_manifest(tmp_path / "stopped")
    manifest = ingest(source, tmp_path / "left", max_undecodable=count, **SETTINGS)
    named = {one.name for one in manifest.undecodable}
    assert named == {f"train-{number // 50}/{number:04d}.jpg" for number in bad}
    left = order_of(tmp_path / "left")
    kept = set(left)
    assert left == [pixels for pixels in order_of(tmp_path / "whole") if pixels in kept]
    assert len(left) == IMAGES - count
    record_figure(
        7,
        f"{count} of {IMAGES} JPEG images cut in the middle",
        f"named {len(named)} of {count} by shard and key, the order of the other {len(left)} is unchanged, "
        f"ingest stops where {count - 1} are allowed",
    )


def test_stock_webdataset_leaves_them_out_without_a_name(tmp_path: Path, record_figure: Any) -> None:
    bad = set(random.Random(SEED).sample(range(IMAGES), IMAGES // 5))
    source = write_shards(tmp_path / "bad", bad)
    shards = [str(path) for path in sorted(source.iterdir())]
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8", handler=webdataset.ignore_and_continue)
    found = len(list(samples))
    assert found < IMAGES
    record_figure(
        7,
        "the same, stock webdataset that goes on",
        f"{IMAGES - found} of {IMAGES} lost without a word",
        protected=False,
    )
