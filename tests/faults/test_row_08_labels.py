"""Row 8: a label that is missing, outside the classes or no number is refused with shard and key.

A label that is wrong and in range looks like any other: nothing can catch it, and a test says so.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from PIL import Image

from pipeline.data.ingest import ingest, make_forms
from pipeline.errors import UserError

pytestmark = pytest.mark.faults

IMAGES, CLASSES, BAD = 30, 10, 17
LABELS = {
    "no .cls": None,
    "11 of 10 classes": b"10",
    "far outside": b"999999999",
    "negative": b"-1",
    "a word": b"cat",
    "a fraction": b"1.5",
    "nothing": b"",
    "not a number": b"nan",
    "two numbers": b"1 2",
    "other digits": "٣".encode(),
}
SETTINGS: dict[str, Any] = {"forms": make_forms([(8, "raw")]), "val_fraction": 0.0, "shard_size": 16}


def write_shard(folder: Path, label: bytes | None) -> Path:
    """A shard of plain images, the label of one of which is ``label``, and the names of its classes."""
    folder.mkdir()
    with tarfile.open(folder / "train-0.tar", "w") as archive:
        for number in range(IMAGES):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
            text = label if number == BAD else b"%d" % (number % CLASSES)
            members = [(f"{number:04d}.png", buffer.getvalue())] + (
                [(f"{number:04d}.cls", text)] if text is not None else []
            )
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    (folder / "classes.txt").write_text("\n".join(f"class {number}" for number in range(CLASSES)))
    return folder


def test_labels_that_cannot_be_are_refused_by_key(tmp_path: Path, record_figure: Any) -> None:
    caught = 0
    for place, label in enumerate(LABELS.values()):
        source = write_shard(tmp_path / f"source-{place}", label)
        with pytest.raises(UserError, match=rf"train-0.*{BAD:04d}") as error:
            ingest(source, tmp_path / f"set-{place}", **SETTINGS)
        assert "\n" not in str(error.value)
        assert not (tmp_path / f"set-{place}/manifest.json").exists()
        caught += 1
    record_figure(
        8, "labels missing, out of range or no number", f"caught {caught} of {len(LABELS)}, with shard and key"
    )


def test_a_wrong_label_in_range_is_not_caught(tmp_path: Path, record_figure: Any) -> None:
    manifest = ingest(write_shard(tmp_path / "source", b"3"), tmp_path / "set", **SETTINGS)
    assert manifest.splits["train"].examples == IMAGES
    record_figure(8, "a wrong label in range", "caught 0 of 1: it looks like any other")


def test_stock_webdataset_hands_them_on(tmp_path: Path, record_figure: Any) -> None:
    handed = 0
    for place, label in enumerate(LABELS.values()):
        shard = write_shard(tmp_path / f"source-{place}", label) / "train-0.tar"
        try:
            samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode("rgb8"))
        except Exception:  # it reads labels as numbers, and some are none
            continue
        handed += len(samples) == IMAGES
    assert handed > 0
    record_figure(8, "the same, stock webdataset", f"handed on {handed} of {len(LABELS)}", protected=False)
