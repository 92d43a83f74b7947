"""Only what compares with a published score is called comparable, and each difference is one reason."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.data.forms import RESIZE
from pipeline.data.manifest import Form, Manifest, ShardColumns, Source, Split
from pipeline.published.rows import PublishedRow, rows_for
from pipeline.published.terms import INCEPTION_SHA256, incomparable, incomparable_cas, untold
from pipeline.report.scores import ClassificationScore
from pipeline.scoring.passport import ExtractorMark, Passport, ReferenceMark, SourceMark, resize_of


def _row(model: str, size: int, **fields: Any) -> PublishedRow:
    rows = [row for row in rows_for("ImageNet", size) if row.model == model]
    return next(row for row in rows if all(getattr(row, name) == value for name, value in fields.items()))


def _passport(**changes: Any) -> Passport:
    """Of a score that stands beside CDM's at 64 px as far as is told."""
    fields: dict[str, Any] = {
        "samples": 50_000, "indices": (0, 50_000), "source": SourceMark(kind="chained"),
        "reference": ReferenceMark(name="ILSVRC2012", split="train", images=1_281_167, digest="ab" * 32, lossy=True),
        "validation": ReferenceMark(name="ILSVRC2012", split="val", images=50_000, digest="ab" * 32, lossy=True),
        "extractor": ExtractorMark(name="inception", layer="2048", sha256=INCEPTION_SHA256), "size": 64,
        "resize": f"{RESIZE}; stored as 64-png", "labels": "histogram", "seed": 0, "precision": "f32", "block": 64,
        "device": "cpu", "revision": "r",
    }  # fmt: skip
    return Passport(**{**fields, **changes})


def _reference(**changes: Any) -> ReferenceMark:
    return _passport().reference.model_copy(update=changes)


def test_the_published_terms_are_comparable_and_what_is_not_told_is_said() -> None:
    cdm = _row("CDM", 64, study="result")
    assert incomparable(cdm, _passport(), classes=1000) == []
    assert untold(cdm, _passport()) == ["how the reference images were resized"]
    assert untold(_row("SiD2", 512), None)[:2] == [
        "which images the FID is to (by custom, the training images)",
        "whether the samples were guided",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extractor": ExtractorMark(name="classifier", layer="features", sha256="ef" * 32)}, "own classifier"),
        ({"extractor": ExtractorMark(name="inception", layer="2048", sha256="ef" * 32)}, "other weights"),
        ({"extractor": ExtractorMark(name="inception", layer="768", sha256=INCEPTION_SHA256)}, "layer 768"),
        ({"samples": 10_000}, "10,000 samples, theirs of 50,000, and fewer samples have a higher FID"),
        ({"samples": 100_000}, "100,000 samples, theirs of 50,000"),
        ({"reference": _reference(split="val", images=50_000)}, "to validation images, theirs to training images"),
        ({"reference": _reference(images=10_000)}, "to 10,000 training images, theirs to all 1,281,167"),
        ({"resize": f"{RESIZE}; stored as 256-jpeg; a box mean"}, "stored as JPEG once more, at 256 px"),
        ({"size": 32}, "judged at 32 px"),
        ({"source": SourceMark(kind="oracle")}, "real low-res images"),
        ({"source": SourceMark(kind="real")}, "yours are real images"),
        ({"source": SourceMark(kind="foreign", resize="bicubic")}, "resized after they were drawn (bicubic)"),
        ({"source": SourceMark(kind="foreign", lossy=True)}, "stored with loss"),
    ],
)
def test_each_difference_is_one_reason(changes: dict[str, Any], words: str) -> None:
    (reason,) = incomparable(_row("CDM", 64, study="result"), _passport(**changes), classes=1000)
    assert words in reason


def test_what_is_unknown_of_ours_is_no_reason() -> None:
    statistics = _passport(
        source=SourceMark(kind="foreign", lossy=None),
        reference=_reference(split=None, images=None),
        resize="statistics as the file holds them",
        labels="unknown",
    )
    assert incomparable(_row("ADM", 64), statistics, classes=None) == []


def test_reasons_that_lie_in_the_row() -> None:
    assert "another way than theirs (box halvings" in incomparable(_row("ADM", 64), _passport())[0]
    alone = _row("SR3", 256, kind="upsampler")
    assert "yours were not" in incomparable(alone, _passport(size=256))[0]
    assert incomparable(alone, _passport(size=256, source=SourceMark(kind="oracle"))) == []
    cdm = _row("CDM", 64, study="result")
    assert "100 classes" in incomparable(cdm, _passport(), classes=100)[0]
    assert incomparable(cdm, None) == ["your scores came without a passport"]
    only_val = cdm.model_copy(update={"fid_train": None})
    assert incomparable(only_val, _passport()) == []
    assert "no FID" in incomparable(only_val, _passport(validation=None))[0]


@pytest.mark.parametrize("samples", [1000, 50_000, 100_000])
def test_a_count_of_samples_that_nobody_told_forbids_nothing(samples: int) -> None:
    untold_count = _row("VQ-VAE-2", 256, samples=None)
    assert incomparable(untold_count, _passport(size=256, samples=samples)) == []
    assert "how many samples the FID is of" in untold(untold_count, None)


def test_the_resize_of_edm2_is_known_at_every_size() -> None:
    for size in (64, 512):
        rows = [row for row in rows_for("imagenet", size) if row.model == "EDM2"]
        assert rows
        for row in rows:
            (reason,) = incomparable(row, _passport(size=size))
            assert "resized in another way than theirs (box halvings" in reason


def test_jpeg_is_found_in_the_words_of_a_real_passport() -> None:
    form = Form(size=64, encoding="jpeg", quality=90)
    empty = Split(counts=(), shards={form.name: ShardColumns(bytes=(), sha256=(), index_sha256=())})
    manifest = Manifest(
        classes=("n00000001",), resize=RESIZE, forms=(form,), request={},
        source=Source(kind="tar", name="ILSVRC2012_img_train.tar", lossy=True, fingerprint="0" * 64),
        splits={"train": empty, "val": empty},
    )  # fmt: skip
    (reason,) = incomparable(_row("CDM", 64, study="result"), _passport(resize=resize_of(manifest, 64)))
    assert "stored as JPEG once more, at 64 px" in reason


def test_the_classification_accuracy_score_has_reasons_of_its_own() -> None:
    cdm = _row("CDM", 128)
    same = ClassificationScore(
        cas_top1=0.6, net="ResNet-50", images=1_281_167, epochs=90, steps=1, seconds=1.0, size=128
    )
    assert incomparable_cas(cdm, same, classes=1000) == incomparable_cas(cdm, None) == []
    assert incomparable_cas(_row("CDM", 64, study="result"), same.model_copy(update={"epochs": 3})) == []  # has no CAS
    other = same.model_copy(update={"net": "ResNet-18", "epochs": 30, "images": 5000, "size": 64})
    assert len(incomparable_cas(cdm, other, classes=1000)) == 4
