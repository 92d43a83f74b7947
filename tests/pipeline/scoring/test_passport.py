"""Passports: what forbids a ranking and what does not, the sentence that says so, and their JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.errors import UserError
from pipeline.scoring.passport import (
    MATTERS,
    ExtractorMark,
    Passport,
    ReferenceMark,
    SourceMark,
    StageMark,
    differences,
    rank,
    resize_of,
)
from pipeline.scoring.passport_words import told

STAGE = StageMark(
    name="sr32",
    size=32,
    weights="e" * 64,
    sampler="ddim",
    steps=32,
    guidance=1.5,
    guidance_interval=(-3.0, 3.0),
    augmentation="truncated",
    level=0.1,
    ema_length=0.05,
    eta=0.5,
    variance="beta",
    schedule='{"kind": "cosine"}',
    thresholding="dynamic",
    percentile=0.99,
)
PASSPORT = Passport(
    samples=5000,
    indices=(0, 5000),
    source=SourceMark(kind="chained"),
    reference=ReferenceMark(
        name="data/cifar", split="train", images=45000, digest="a" * 64, near=5000, kept=9000, lossy=True
    ),
    validation=ReferenceMark(name="data/cifar", split="val", images=5000, digest="a" * 64, near=1, kept=2, lossy=True),
    judge="9" * 64,
    scored_by="abd",
    extractor=ExtractorMark(name="inception", layer="2048", sha256="b" * 64),
    size=32,
    resize="stored as 32-png",
    stages=(STAGE,),
    labels="uniform",
    seed=0,
    precision="f32",
    block=64,
    device="cpu",
    revision="abc",
)

# For every field, another value than PASSPORT has. A new field that is not here fails the test below.
OTHER: dict[str, Any] = {
    "samples": 1000,
    "indices": (5000, 10000),
    "source.kind": "foreign",
    "source.address": "elsewhere",
    "source.digest": "c" * 64,
    "source.resize": "bicubic to 32 px (Pillow)",
    "source.lossy": True,
    "reference.name": "elsewhere",
    "reference.split": "val",
    "reference.images": 40000,
    "reference.digest": "d" * 64,
    "reference.near": 4000,
    "reference.lossy": False,
    "reference.kept": 3,
    "validation.name": "elsewhere",
    "validation.split": "train",
    "validation.images": 40000,
    "validation.digest": "d" * 64,
    "validation.near": 4000,
    "validation.kept": 3,
    "validation.lossy": False,
    "judge": None,
    "scored_by": None,
    "extractor.name": "dinov2",
    "extractor.layer": "64",
    "extractor.sha256": "f" * 64,
    "size": 64,
    "resize": "stored as 64-png",
    "labels": "histogram",
    "neighbours": 5,
    "seed": 1,
    "precision": "bf16",
    "block": 32,
    "device": "cuda",
    "revision": "def",
    "stages.sr32.size": 64,
    "stages.sr32.weights": "0" * 64,
    "stages.sr32.sampler": "heun",
    "stages.sr32.steps": 16,
    "stages.sr32.guidance": 1.0,
    "stages.sr32.guidance_interval": None,
    "stages.sr32.augmentation": "non_truncated",
    "stages.sr32.level": 0.2,
    "stages.sr32.ema_length": None,
    "stages.sr32.eta": None,
    "stages.sr32.variance": "posterior",
    "stages.sr32.schedule": None,
    "stages.sr32.thresholding": None,
    "stages.sr32.percentile": None,
}


def changed(**values: Any) -> Passport:
    """PASSPORT with other values, by dotted field (``__`` for a dot)."""
    fields = PASSPORT.model_dump()
    for path, value in values.items():
        *way, last = path.split("__")
        place = fields
        for part in way:
            place = place[part] if part != "stages" else {stage["name"]: stage for stage in place[part]}
        place[last] = value
    return Passport.model_validate(fields)


def test_every_field_has_another_value_to_be_tried_with() -> None:
    def leaves(value: Any, path: str = "") -> list[str]:
        if not isinstance(value, dict):
            return [path.removesuffix(".")]
        return [leaf for key, item in value.items() for leaf in leaves(item, f"{path}{key}.")]

    fields = PASSPORT.model_dump()
    fields["stages"] = {stage.pop("name"): stage for stage in fields["stages"]}
    assert set(leaves(fields)) == set(OTHER)
    assert set(MATTERS) <= set(OTHER)


@pytest.mark.parametrize("field", OTHER)
def test_one_other_value_is_one_difference_and_forbids_a_ranking_only_where_it_matters(field: str) -> None:
    other = changed(**{field.replace(".", "__"): OTHER[field]})
    (found,) = differences(PASSPORT, other)
    assert found.field == field
    # a peer's samples may stand beside our chained ones; an oracle may not
    assert found.matters == (field in MATTERS and field != "source.kind")
    ranking = rank({"a": (PASSPORT, 2.0), "b": (other, 1.0)})
    if found.matters:
        assert ranking.order == ()
        assert field in ranking.refusal
    else:
        assert ranking == (("b", "a"), "")
    assert other.digest != PASSPORT.digest


def test_equal_passports_do_not_differ() -> None:
    assert differences(PASSPORT, changed()) == ()
    assert changed().digest == PASSPORT.digest


def test_an_oracle_ranks_with_oracles_alone() -> None:
    oracle = changed(source__kind="oracle")
    assert rank({"a": (oracle, 1.0), "b": (oracle, 2.0)}).order == ("a", "b")
    for kind in ("chained", "real", "foreign"):
        refusal = rank({"a": (oracle, 1.0), "b": (changed(source__kind=kind), 2.0)}).refusal
        assert refusal == f"not ranked: a and b differ in source.kind (oracle and {kind})"


def test_what_nobody_can_know_of_foreign_images_forbids_nothing_but_what_is_known_does() -> None:
    unknown = changed(labels="unknown", source__lossy=None)
    assert rank({"a": (PASSPORT, 1.0), "b": (unknown, 2.0)}).order == ("a", "b")
    three = {"a": (PASSPORT, 1.0), "b": (unknown, 2.0), "c": (changed(labels="histogram"), 3.0)}
    assert rank(three).refusal == "not ranked: a and c differ in labels (uniform and histogram)"


def test_a_refusal_names_rows_and_fields_with_both_values() -> None:
    rows = {
        "demo": (PASSPORT, 3.0),
        "peer": (changed(samples=1000, extractor__sha256="0123456789abcdef" * 4), 2.0),
        "mine": (PASSPORT, 1.0),
    }
    assert rank(rows).refusal == (
        "not ranked: demo and peer differ in samples (5,000 and 1,000) and "
        "extractor.sha256 (bbbbbbbbbbbb and 0123456789ab)"
    )


def test_many_misfits_are_counted_after_three() -> None:
    rows = {f"row{n}": (changed(samples=5000 + n), float(n)) for n in range(6)}
    refusal = rank(rows).refusal
    assert refusal.count("differ in samples") == 3
    assert refusal.endswith("and 2 more rows do not fit")


def test_order_by_score_either_way_and_equal_scores_as_they_came() -> None:
    rows = {"a": (PASSPORT, 2.0), "b": (PASSPORT, 1.0), "c": (PASSPORT, 2.0), "d": (PASSPORT, 0.0)}
    assert rank(rows).order == ("d", "b", "a", "c")
    assert rank(rows, lower_is_better=False).order == ("a", "c", "b", "d")


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_row_without_a_score_has_no_place_and_forbids_nothing(nothing: float | None) -> None:
    rows = {"a": (PASSPORT, 2.0), "b": (changed(samples=7), nothing), "c": (PASSPORT, 1.0)}
    assert rank(rows) == (("c", "a"), "")
    assert rank({}) == ((), "")


def test_json_gives_the_same_passport_and_an_unknown_field_is_refused() -> None:
    again = Passport.model_validate_json(PASSPORT.model_dump_json())
    assert again == PASSPORT
    assert again.digest == PASSPORT.digest
    with pytest.raises(ValidationError, match="sampels"):
        Passport.model_validate({**PASSPORT.model_dump(), "sampels": 3})
    with pytest.raises(ValidationError, match="frozen"):
        PASSPORT.samples = 3  # type: ignore[misc]


def test_words_tell_everything_that_is_known_and_nothing_else() -> None:
    words = dict(told(PASSPORT))
    assert words["samples"] == "5,000, indices 0 to 4,999"
    assert words["reference"] == (
        "data/cifar, train, 45,000 images, 5,000 of them for precision and recall, 9,000 for KID, "
        "stored with loss, digest aaaaaaaaaaaa"
    )
    assert words["weights sha256"] == "b" * 64
    assert words["stage sr32"] == (
        '32 px, ddim 32 steps, eta 0.5, schedule {"kind": "cosine"}, thresholding dynamic, '
        "guidance 1.5 on log-SNR [-3, 3), truncated s 0.1, EMA 0.05, weights eeeeeeeeeeee"
    )
    foreign = changed(indices=None, seed=None, source__kind="foreign", source__address="adm.npz", source__lossy=None)
    words = dict(told(foreign))
    assert words["images"] == "foreign, adm.npz, perhaps stored with loss"
    assert words["samples"] == "5,000"
    assert "seed" not in words


def test_how_a_data_set_got_to_a_size(tmp_path: Path) -> None:
    forms = make_forms([(16, "png"), (8, "raw")])
    manifest = ingest_drawn(tmp_path / "data", seed=0, forms=forms, train=8, val=4, shard_size=8)
    whole, half, small = (resize_of(manifest, size) for size in (16, 8, 4))
    assert whole == f"{manifest.resize}; stored as 16-png"
    assert half == f"{manifest.resize}; stored as 8-raw; a box mean of 16 px"
    assert small == f"{half}; box mean to 4 px"
    assert resize_of(manifest, 8, shown=16) == f"{half}; bilinear to 16 px, 8 bits"
    with pytest.raises(UserError, match="5 px"):
        resize_of(manifest, 5)
